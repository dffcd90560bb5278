"""NeoBERT (Le Breton et al., arXiv 2502.19587), as chandar-lab/NeoBERT publishes it.

transformers has no class for this model_type; tests/test_neobert.py compares with an independent implementation in
NumPy. Differs from BERT: RMSNorm before each block and after the last layer, rotary positions of neighboring pairs, a
gated feed-forward block of two thirds of `intermediate_size`, queries, keys and values joined head by head, no biases,
no token types, no pooler.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from mlx_hf_bridge.architecture.family import MASKED_LM, SEQUENCE_CLASSIFICATION, Family, Head
from mlx_hf_bridge.architecture.heads import first_token_head
from mlx_hf_bridge.architecture.rope import RotaryConfig
from mlx_hf_bridge.layers.activations import silu
from mlx_hf_bridge.layers.embeddings import TokenEmbeddings
from mlx_hf_bridge.layers.encoder import Encoder
from mlx_hf_bridge.layers.fast_math import tanh
from mlx_hf_bridge.layers.feed_forward import GatedFeedForward
from mlx_hf_bridge.layers.norm import RMSNorm
from mlx_hf_bridge.layers.pre_norm import PreNormLayer
from mlx_hf_bridge.layers.rotary import Rotary
from mlx_hf_bridge.layers.rotary_attention import RotaryAttention
from mlx_hf_bridge.layers.transformed_heads import LMHead

# The width of the feed-forward block is a multiple of this.
_MULTIPLE = 8


@dataclass(frozen=True, kw_only=True)
class NeoBertConfig(RotaryConfig):
    """NeoBERT's keys; the activation, the rotary base and the decoder of its own do not depend on config.json."""

    layer_norm_eps: float = 1e-6
    hidden_act: str = field(default="silu", init=False)
    type_vocab_size: int = field(default=0, init=False)
    tie_word_embeddings: bool = field(default=False, init=False)

    attribute_map: ClassVar = {"layer_norm_eps": "norm_eps", "max_position_embeddings": "max_length"}
    rope_types: ClassVar = ("default",)
    unsupported_values: ClassVar[Mapping[str, Any]] = {
        **RotaryConfig.unsupported_values,
        # Variants of the authors' training code.
        "hidden_act": lambda value: str(value).lower() not in ("none", "silu", "swiglu"),
        "rope": lambda value: value is False,
        "rms_norm": lambda value: value is False,
        "ngpt": bool,
    }

    @property
    def gated_size(self) -> int:
        """Width of the feed-forward block: two thirds of `intermediate_size`, rounded up to a multiple of 8."""
        return -(-(2 * self.intermediate_size // 3) // _MULTIPLE) * _MULTIPLE


def layer(config: NeoBertConfig) -> PreNormLayer:
    """Return one layer."""
    width, eps = config.hidden_size, config.layer_norm_eps
    attention = RotaryAttention(width, config.num_attention_heads, bias=False, fused_by_head=True)
    return PreNormLayer(
        attention, RMSNorm(width, eps), GatedFeedForward(width, config.gated_size, silu), RMSNorm(width, eps)
    )


def encoder(config: NeoBertConfig) -> Encoder:
    """Return the encoder."""
    return Encoder(
        TokenEmbeddings(config.vocab_size, config.hidden_size),
        [layer(config) for _ in range(config.num_hidden_layers)],
        final_norm=RMSNorm(config.hidden_size, config.layer_norm_eps),
        norm_last_hidden_state=False,
        rotary=Rotary(config.attention_head_dim, config.theta, interleaved=True),
    )


def masked_lm(config: NeoBertConfig) -> LMHead:
    """Return the masked-LM head, which has a decoder of its own."""
    return LMHead(config.hidden_size, config.vocab_size, tied=False)


FAMILY = Family(
    model_type="neobert",
    config=NeoBertConfig,
    encoder=encoder,
    names={
        "encoder": "embeddings.word",
        "transformer_encoder.{i}.attention_norm": "layers.{i}.attention_norm",
        "transformer_encoder.{i}.qkv": "layers.{i}.attention.qkv",
        "transformer_encoder.{i}.wo": "layers.{i}.attention.out",
        "transformer_encoder.{i}.ffn_norm": "layers.{i}.feed_forward_norm",
        "transformer_encoder.{i}.ffn.w12": "layers.{i}.feed_forward.gate_up",
        "transformer_encoder.{i}.ffn.w3": "layers.{i}.feed_forward.down",
        "layer_norm": "final_norm",
    },
    prefix="model",
    hf_prefix="NeoBERT",
    hf_base_suffix="",
    hf_head_suffixes={MASKED_LM: "LMHead"},
    tokenizer="PreTrainedTokenizerFast",
    heads={
        MASKED_LM: Head(build=masked_lm, names={}, untied={"decoder": "decoder"}),
        SEQUENCE_CLASSIFICATION: first_token_head({"dense": "dense", "classifier": "out"}, tanh),
    },
    uses_token_type_ids=False,
    in_transformers=False,
)
