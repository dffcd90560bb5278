"""ESM, protein models (Lin et al., Science 379:1123); reference: transformers/models/esm/modeling_esm.py.

Differs from BERT: norms before each block and after the last layer; rotary positions whose frequencies are in the
checkpoint (ESM-2), or RoBERTa's positions; embeddings of masked tokens may be 0 and the others scaled up instead.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import mlx.core as mx
import mlx.nn as nn

from mlx_hf_bridge.architecture.config import OffsetPositionsConfig
from mlx_hf_bridge.architecture.family import MASKED_LM, SEQUENCE_CLASSIFICATION, TOKEN_CLASSIFICATION, Family, Head
from mlx_hf_bridge.architecture.heads import TOKEN_HEAD, first_token_head
from mlx_hf_bridge.architecture.rope import check_head_width
from mlx_hf_bridge.errors import ConfigError
from mlx_hf_bridge.layers.activations import gelu
from mlx_hf_bridge.layers.attention import Attention
from mlx_hf_bridge.layers.encoder import Encoder
from mlx_hf_bridge.layers.feed_forward import FeedForward
from mlx_hf_bridge.layers.linear import Embedding
from mlx_hf_bridge.layers.norm import LayerNorm
from mlx_hf_bridge.layers.pre_norm import PreNormLayer
from mlx_hf_bridge.layers.rotary import CheckpointRotary
from mlx_hf_bridge.layers.rotary_attention import RotaryAttention
from mlx_hf_bridge.layers.token_batch import TokenBatch
from mlx_hf_bridge.layers.transformed_heads import LMHead, Transform, TransformedHead
from mlx_hf_bridge.models import bert

# Share of tokens that was masked in training: 15 %, of which 80 % became the mask token (EsmEmbeddings.forward).
_MASKED_IN_TRAINING = 0.15 * 0.8
# Lower bound of the share of unmasked tokens, against dividing by 0: less than one token of the longest text (1/1026),
# and large enough that embeddings divided by it fit into float16.
_MIN_UNMASKED = 2.0**-11


@dataclass(frozen=True, kw_only=True)
class EsmConfig(OffsetPositionsConfig):
    """ESM's keys: kind of positions, token dropout, and a norm after the embeddings."""

    hidden_act: str = field(default="gelu", init=False)
    type_vocab_size: int = field(default=0, init=False)
    mask_token_id: int | None = None
    position_embedding_type: str = "absolute"
    emb_layer_norm_before: bool = False
    token_dropout: bool = False

    unsupported_values: ClassVar = {
        **OffsetPositionsConfig.unsupported_values,
        "position_embedding_type": lambda value: value not in (None, "absolute", "rotary"),
        "is_folding_model": bool,
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.token_dropout and self.mask_token_id is None:
            raise ConfigError("config.json has token_dropout and no mask_token_id. Take the original file.")
        if self.is_rotary:
            check_head_width(self.hidden_size // self.num_attention_heads)

    @property
    def is_rotary(self) -> bool:
        """Whether positions are rotary instead of learned."""
        return self.position_embedding_type == "rotary"

    @property
    def has_position_table(self) -> bool:
        """Whether positions are learned instead of rotary."""
        return not self.is_rotary


class EsmEmbeddings(nn.Module):
    """ESM's embeddings: token embeddings, for some checkpoints with positions, token dropout and a norm; 0 for padding.

    Args:
        config: The model's config.

    Calling it with a batch returns (B, L, D); `inputs_embeds` are returned unchanged.
    """

    def __init__(self, config: EsmConfig) -> None:
        super().__init__()
        self.word = Embedding(config.vocab_size, config.hidden_size)
        if not config.is_rotary:
            self.position = Embedding(config.max_position_embeddings, config.hidden_size)
        if config.emb_layer_norm_before:
            self.norm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.pad_token_id = config.padding_idx
        self.mask_token_id = config.mask_token_id if config.token_dropout else None

    def __call__(self, batch: TokenBatch) -> mx.array:
        if batch.inputs_embeds is not None:
            return batch.inputs_embeds
        x = self.word(batch.ids)  # (B, L, D)
        if self.mask_token_id is not None:
            x = x * self._dropout_scale(batch, self.mask_token_id).astype(x.dtype)
        if "position" in self:
            x = x + self.position(batch.positions_after(self.pad_token_id))
        if "norm" in self:
            x = self.norm(x)
        return x if batch.mask is None else x * batch.token_mask(x.dtype)

    def _dropout_scale(self, batch: TokenBatch, mask_token_id: int) -> mx.array:
        """Return factors (B, L, 1): 0 for mask tokens, else the unmasked share in training over that of the text."""
        masked = (batch.ids == mask_token_id)[:, :, None]
        count = mx.maximum(batch.token_mask(mx.float32).sum(axis=1, keepdims=True), 1)
        unmasked = mx.maximum(1 - masked.sum(axis=1, keepdims=True) / count, _MIN_UNMASKED)
        return mx.where(masked, 0.0, (1 - _MASKED_IN_TRAINING) / unmasked)


def layer(config: EsmConfig) -> PreNormLayer:
    """Return one layer, with rotary or plain attention."""
    width, eps = config.hidden_size, config.layer_norm_eps
    attention = (RotaryAttention if config.is_rotary else Attention)(width, config.num_attention_heads)
    feed_forward = FeedForward(width, config.intermediate_size, gelu)
    return PreNormLayer(attention, LayerNorm(width, eps=eps), feed_forward, LayerNorm(width, eps=eps))


def encoder(config: EsmConfig) -> Encoder:
    """Return the encoder."""
    return Encoder(
        EsmEmbeddings(config),
        [layer(config) for _ in range(config.num_hidden_layers)],
        final_norm=LayerNorm(config.hidden_size, eps=config.layer_norm_eps),
        rotary=CheckpointRotary(config.hidden_size // config.num_attention_heads) if config.is_rotary else None,
    )


def masked_lm(config: EsmConfig) -> TransformedHead:
    """Return EsmLMHead, whose bias is a tensor of the head even if the decoder is not tied."""
    norm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
    scores = LMHead(config.hidden_size, config.vocab_size, config.tie_word_embeddings, separate_bias=True)
    return TransformedHead(Transform(config.hidden_size, gelu, norm), scores)


# Old files repeat the rotary frequencies in every layer; transformers 5.23 writes "*" instead of the layer's number.
_OLD_ROTARY = "encoder.layer.{i}.attention.self.rotary_embeddings"
NAMES = {
    "embeddings.word_embeddings": "embeddings.word",
    "embeddings.position_embeddings": "embeddings.position",
    "embeddings.layer_norm": "embeddings.norm",
    **{hf: path for hf, path in bert.LAYER_NAMES.items() if "_norm" not in path},
    "encoder.layer.{i}.attention.LayerNorm": "layers.{i}.attention_norm",
    "encoder.layer.{i}.LayerNorm": "layers.{i}.feed_forward_norm",
    "encoder.emb_layer_norm_after": "final_norm",
    "rotary_embeddings": "rotary",
    "pooler.dense": "pooler.dense",
}


def unused_modules(config: EsmConfig) -> tuple[str, ...]:
    """Return modules of ESM files that no output needs: contact head, repeated frequencies, unused position table."""
    positions = ("embeddings.position_embeddings",) if config.is_rotary else ()
    return ("contact_head.regression", _OLD_ROTARY, *positions)


FAMILY = Family(
    model_type="esm",
    config=EsmConfig,
    encoder=encoder,
    names=NAMES,
    prefix="esm",
    hf_prefix="Esm",
    tokenizer="EsmTokenizer",
    pooler=bert.FAMILY.pooler,
    heads={
        MASKED_LM: Head(
            build=masked_lm,
            names={"lm_head.dense": "transform.dense", "lm_head.layer_norm": "transform.norm", "lm_head": "head"},
            untied={"lm_head.decoder": "head.decoder"},
        ),
        SEQUENCE_CLASSIFICATION: first_token_head(activation=mx.tanh),
        TOKEN_CLASSIFICATION: TOKEN_HEAD,
    },
    unused_modules=unused_modules,
    uses_token_type_ids=False,
    alternate_names={_OLD_ROTARY.replace("{i}", layer): "rotary_embeddings" for layer in "0*"},
)
