"""Funnel-Transformer (Dai et al., arXiv 2006.03236); reference: transformers/models/funnel/modeling_funnel.py.

Differs from BERT: tokens are pooled in pairs between blocks of layers; attention scores distances and segments; there
are no position embeddings. A decoder brings the pooled tokens back to the text's length; checkpoints without one
("-base", classifiers) have an output for every fourth token. Pairs at a text's end contain padding, so padding changes
the outputs, as it does in transformers.
"""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import mlx.core as mx

from mlx_hf_bridge.architecture.config import NO_POSITIONS, EncoderConfig
from mlx_hf_bridge.architecture.family import (
    MASKED_LM,
    MULTIPLE_CHOICE,
    PRE_TRAINING,
    QUESTION_ANSWERING,
    SEQUENCE_CLASSIFICATION,
    TOKEN_CLASSIFICATION,
    Head,
)
from mlx_hf_bridge.architecture.heads import SPAN_HEAD, TOKEN_HEAD
from mlx_hf_bridge.errors import ConfigError
from mlx_hf_bridge.layers.activations import activation_for
from mlx_hf_bridge.layers.bottleneck import FirstTokenPooler
from mlx_hf_bridge.layers.embeddings import NormalizedEmbeddings
from mlx_hf_bridge.layers.feed_forward import FeedForward
from mlx_hf_bridge.layers.funnel import FunnelAttention, FunnelBlock, FunnelLayer, Pooling
from mlx_hf_bridge.layers.funnel_encoder import FunnelEncoder, PooledHead
from mlx_hf_bridge.layers.heads import FirstTokenClassifier
from mlx_hf_bridge.layers.transformed_heads import LMHead
from mlx_hf_bridge.models import bert, electra

_BLOCK_SIZES = (4, 4, 4)


@dataclass(frozen=True, kw_only=True)
class FunnelConfig(EncoderConfig):
    """Funnel's keys: blocks, pooling, the kind of attention, and the decoder."""

    max_position_embeddings: int = field(default=NO_POSITIONS, init=False)
    # The two segments and [CLS].
    type_vocab_size: int = field(default=3, init=False)
    layer_norm_eps: float = 1e-9
    pad_token_id: int | None = None
    head_dim: int = field()
    block_sizes: Sequence[int] = field(default_factory=lambda: list(_BLOCK_SIZES))
    block_repeats: Sequence[int] | None = None
    num_decoder_layers: int = 2
    has_decoder: bool = True
    pooling_type: str = "mean"
    attention_type: str = "relative_shift"
    separate_cls: bool = True
    truncate_seq: bool = True
    pool_q_only: bool = True

    reads_head_dim: ClassVar[bool] = True
    attribute_map: ClassVar = {
        "hidden_size": "d_model",
        "num_attention_heads": "n_head",
        "head_dim": "d_head",
        "intermediate_size": "d_inner",
    }
    unsupported_values: ClassVar = {}

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Self:
        """Return the config of a parsed config.json; the number of layers is the sum of `block_sizes`."""
        general = {own: raw[name] for name, own in cls.attribute_map.items() if name in raw and own not in raw}
        sizes = raw.get("block_sizes", _BLOCK_SIZES)
        is_list = isinstance(sizes, (list, tuple)) and all(type(size) is int and size > 0 for size in sizes)
        if not is_list or not sizes:
            raise ConfigError(
                f"config.json has block_sizes={sizes!r:.80}, expected a list of numbers of layers. Take the file of "
                "the original checkpoint."
            )
        return super().from_json({"num_hidden_layers": sum(sizes), **raw, **general})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_hidden_layers != sum(self.block_sizes):
            raise ConfigError(
                f"config.json has num_hidden_layers={self.num_hidden_layers} and block_sizes={self.block_sizes!r:.80}; "
                "the first must be the sum of the second. Change block_sizes instead."
            )
        repeats = self.repeats
        if len(repeats) != len(self.block_sizes) or not all(type(one) is int and one > 0 for one in repeats):
            raise ConfigError(
                f"config.json has block_repeats={repeats!r:.80}, expected a number for each of {len(self.block_sizes)} "
                "blocks. Take the file of the original checkpoint."
            )
        kinds = {"pooling_type": ("mean", "max"), "attention_type": ("relative_shift", "factorized")}
        for key, known in kinds.items():
            if getattr(self, key) not in known:
                raise ConfigError(
                    f"config.json has {key}={getattr(self, key)!r:.80}; known are {' and '.join(known)}. "
                    "Take the file of the original checkpoint."
                )

    @property
    def has_position_table(self) -> bool:
        """Whether positions are looked up in a table: no, they are relative."""
        return False

    @property
    def repeats(self) -> Sequence[int]:
        """How often the layers of each block are run."""
        return (1,) * len(self.block_sizes) if self.block_repeats is None else self.block_repeats


def keys_of_tensors(modules: Collection[str]) -> dict[str, Any]:
    """Return the config keys that tensor names tell: whether there is a decoder."""
    return {"has_decoder": any("decoder.layers.0." in name for name in modules)}


def layer(config: FunnelConfig) -> FunnelLayer:
    """Return one layer."""
    width, eps = config.hidden_size, config.layer_norm_eps
    return FunnelLayer(
        FunnelAttention(width, config.num_attention_heads, config.head_dim, eps),
        FeedForward(width, config.intermediate_size, activation_for(config.hidden_act)),
        width,
        eps,
    )


def encoder(config: FunnelConfig) -> FunnelEncoder:
    """Return the encoder, with a decoder if the checkpoint has one."""
    pooling = Pooling(
        config.pooling_type == "max",
        config.separate_cls,
        config.truncate_seq,
        config.pool_q_only,
        config.attention_type == "factorized",
    )
    return FunnelEncoder(
        NormalizedEmbeddings(config.vocab_size, config.hidden_size, bert.layer_norm(config), 0),
        [FunnelBlock([layer(config) for _ in range(size)]) for size in config.block_sizes],
        config.repeats,
        pooling,
        [layer(config) for _ in range(config.num_decoder_layers)] if config.has_decoder else None,
    )


def _classifier(classes: int | None = None) -> Head:
    """Return a head that reads [CLS] after the last block; `classes` of None stands for the number of labels."""
    return Head(
        build=lambda config: PooledHead(
            FirstTokenClassifier(config.hidden_size, classes or config.num_labels, mx.tanh)
        ),
        names={"classifier.linear_hidden": "head.dense", "classifier.linear_out": "head.out"},
        reads_pooler=True,
    )


def _layer_names(layers: str, path: str) -> dict[str, str]:
    return {
        f"{layers}.attention": f"{path}.attention",
        f"{layers}.attention.q_head": f"{path}.attention.query",
        f"{layers}.attention.k_head": f"{path}.attention.kv#0",
        f"{layers}.attention.v_head": f"{path}.attention.kv#1",
        f"{layers}.attention.post_proj": f"{path}.attention.out",
        f"{layers}.attention.layer_norm": f"{path}.attention.norm",
        f"{layers}.ffn.linear_1": f"{path}.feed_forward.up",
        f"{layers}.ffn.linear_2": f"{path}.feed_forward.down",
        f"{layers}.ffn.layer_norm": f"{path}.feed_forward_norm",
    }


FAMILY = dataclasses.replace(
    bert.FAMILY,
    length_dependent=True,
    model_type="funnel",
    config=FunnelConfig,
    encoder=encoder,
    names={
        "embeddings.word_embeddings": "embeddings.word",
        "embeddings.layer_norm": "embeddings.norm",
        **_layer_names("encoder.blocks.{i}.{j}", "blocks.{i}.layers.{j}"),
        **_layer_names("decoder.layers.{i}", "decoder.{i}"),
    },
    prefix="funnel",
    hf_prefix="Funnel",
    tokenizer="FunnelTokenizer",
    pooler=lambda config: FirstTokenPooler(),
    base_model_has_pooler=False,
    keys_of_tensors=keys_of_tensors,
    heads={
        MASKED_LM: Head(
            build=lambda config: LMHead(config.hidden_size, config.vocab_size, config.tie_word_embeddings),
            names={},
            tied={"lm_head": ""},
            untied={"lm_head": "decoder"},
        ),
        PRE_TRAINING: electra.FAMILY.heads[PRE_TRAINING],
        SEQUENCE_CLASSIFICATION: _classifier(),
        TOKEN_CLASSIFICATION: TOKEN_HEAD,
        QUESTION_ANSWERING: SPAN_HEAD,
        MULTIPLE_CHOICE: _classifier(1),
    },
)
