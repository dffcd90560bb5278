"""NomicBERT (Nussbaum et al., arXiv 2402.01613); reference: transformers/models/nomic_bert/modeling_nomic_bert.py.

Differs from BERT: rotary positions, a gated feed-forward block, and no biases in the layers' linear layers. Files of
the authors' remote code (nomic-ai/nomic-bert-2048) have other keys, and may have biases, blocks without a gate, or
mixtures of experts (nomic-embed-text-v2-moe, arXiv 2502.07972), which transformers' class does not compute;
tests/test_nomic.py compares these with an independent implementation in NumPy.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import mlx.nn as nn

from mlx_hf_bridge.architecture.family import MASKED_LM, SEQUENCE_CLASSIFICATION, TOKEN_CLASSIFICATION, Family, Head
from mlx_hf_bridge.architecture.heads import POOLED_SEQUENCE_HEAD, TOKEN_HEAD, masked_lm_head
from mlx_hf_bridge.architecture.rope import RotaryConfig, rotary
from mlx_hf_bridge.errors import ConfigError
from mlx_hf_bridge.layers.activations import activation_for
from mlx_hf_bridge.layers.embeddings import NormalizedEmbeddings
from mlx_hf_bridge.layers.encoder import Encoder, PostNormLayer
from mlx_hf_bridge.layers.experts import MixtureOfExperts
from mlx_hf_bridge.layers.feed_forward import FeedForward, GatedFeedForward
from mlx_hf_bridge.layers.heads import MaskedLMHead
from mlx_hf_bridge.layers.norm import LayerNorm
from mlx_hf_bridge.layers.rotary_attention import RotaryAttention
from mlx_hf_bridge.models import bert

# Keys of the authors' remote code -> transformers' keys; transformers has no such table.
_OLD_KEYS = {
    "n_embd": "hidden_size",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_inner": "intermediate_size",
    "n_positions": "max_position_embeddings",
    "layer_norm_epsilon": "layer_norm_eps",
    "rotary_emb_base": "rope_theta",
    "rotary_emb_fraction": "partial_rotary_factor",
}
# The authors' names of feed-forward blocks with a gate -> the gate's activation.
_GATES = {"swiglu": "silu", "geglu": "gelu", "glu": "sigmoid"}
# Those of blocks without one. The authors' code computes all of them as "gelu", and only its masked-LM head otherwise.
_PLAIN = {"gelu": "gelu", "gelu_new": "gelu_new", "gelu_fast": "gelu_new", "gelu_pytorch_tanh": "gelu_new"}
# The length that the authors' models were trained to, where config.json does not say.
_TRAINED = 2048


@dataclass(frozen=True, kw_only=True)
class NomicBertConfig(RotaryConfig):
    """Rotary config with NomicBERT's default base, and the keys of the authors' remote code.

    Attributes:
        activation_function: The authors' name of the feed-forward block; None in files of transformers, whose blocks
            all have a gate.
        qkv_proj_bias: Whether attention's linear layers have biases.
        mlp_fc1_bias: Whether the first linear layer of a feed-forward block has a bias, and the masked-LM head.
        mlp_fc2_bias: Whether the second one has.
        num_experts: Experts of a layer with a mixture of experts.
        moe_top_k: Experts that a token uses.
        moe_every_n_layers: Distance of such layers, of which the second is the first; 0 for none.
        rotary_scaling_factor: Factor of a "dynamic" rotation, beyond `max_trained_positions`; None for none.
        max_trained_positions: The length that the authors' models were trained to.
    """

    activation_function: str | None = None
    qkv_proj_bias: bool = False
    mlp_fc1_bias: bool = False
    mlp_fc2_bias: bool = False
    num_experts: int = 0
    moe_top_k: int = 1
    moe_every_n_layers: int = 0
    rotary_scaling_factor: float | None = None
    max_trained_positions: int = _TRAINED

    default_theta: ClassVar = 1000.0
    minimum_values: ClassVar = {"num_experts": 0, "moe_every_n_layers": 0}
    unsupported_values: ClassVar = {
        **RotaryConfig.unsupported_values,
        "prenorm": bool,
        "use_rms_norm": bool,
        "rotary_emb_interleaved": bool,
        "rotary_emb_scale_base": bool,
        "rotary_head_dim": bool,
        "norm_mlp": bool,
        "num_heads_kv": bool,
        "activation_function": lambda value: value not in (None, *_GATES, *_PLAIN),
        "expert_choice_router": bool,
        "moe_normalize_expert_weights": bool,
        "num_shared_experts": bool,
        "ffn_div": lambda value: value not in (None, 1),
    }

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Self:
        """Return the config of a parsed config.json, which may have the keys of the authors' remote code."""
        renamed = {new: raw[old] for old, new in _OLD_KEYS.items() if old in raw}
        block, padded = str(raw.get("activation_function")), {}
        if block in _GATES or block in _PLAIN:
            renamed["hidden_act"] = _GATES.get(block, "gelu")
            padded = _padded_vocabulary(raw)
        return super().from_json({**renamed, **raw, **padded})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.has_experts and not 1 <= self.moe_top_k <= self.num_experts:
            raise ConfigError(
                f"config.json has num_experts={self.num_experts} and moe_top_k={self.moe_top_k}, expected 1 or more, "
                "and the second no larger than the first. Take the original file."
            )

    @property
    def has_gate(self) -> bool:
        """Whether feed-forward blocks have a gate."""
        return self.activation_function not in _PLAIN

    @property
    def has_experts(self) -> bool:
        """Whether some layers have a mixture of experts."""
        return self.moe_every_n_layers > 1 and self.num_hidden_layers > 1

    @property
    def in_transformers(self) -> bool:
        """Whether transformers' class computes it: no experts, no biases, no other blocks, no scaling of its own."""
        biases = self.qkv_proj_bias or self.mlp_fc1_bias or self.mlp_fc2_bias
        usual = self.activation_function in (None, "swiglu")
        return usual and not (biases or self.has_experts or self.scales_positions)

    @property
    def scales_positions(self) -> bool:
        """Whether the authors' rotary_scaling_factor applies; what transformers writes wins if both are given."""
        return bool(self.rotary_scaling_factor) and not (self.rope_scaling or self.rope_parameters)

    @property
    def rope_type(self) -> str:
        """The rope type; "dynamic" for the authors' rotary_scaling_factor."""
        return "dynamic" if self.scales_positions else super().rope_type

    @property
    def rope_factor(self) -> float:
        """The factor of a scaled rope type."""
        return self.rotary_scaling_factor or 0.0 if self.scales_positions else super().rope_factor

    @property
    def trained_length(self) -> int:
        """The length up to which a "dynamic" rotation does not change."""
        return self.max_trained_positions if self.scales_positions else super().trained_length


def _padded_vocabulary(raw: Mapping[str, Any]) -> dict[str, int]:
    """Return vocab_size rounded up as the authors' code does, {} where config.json does not say so."""
    size, multiple = raw.get("vocab_size"), raw.get("pad_vocab_size_multiple")
    if multiple is None or type(size) is not int:
        return {}
    if type(multiple) is not int or multiple < 1:
        raise ConfigError(
            f"config.json has pad_vocab_size_multiple={multiple!r:.80}, expected an integer of 1 or more."
        )
    return {"vocab_size": -(-size // multiple) * multiple}


def embeddings(config: RotaryConfig) -> NormalizedEmbeddings:
    """Return the embeddings: tokens and token types, then a norm."""
    norm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
    return NormalizedEmbeddings(config.vocab_size, config.hidden_size, norm, config.type_vocab_size)


def feed_forward(config: NomicBertConfig, number: int) -> nn.Module:
    """Return the feed-forward block of a layer: a mixture of experts in some, with a gate in most models."""
    width, inner, activation = config.hidden_size, config.intermediate_size, activation_for(config.hidden_act)
    if config.has_experts and number % config.moe_every_n_layers == 1:
        return MixtureOfExperts(width, inner, activation, config.num_experts, config.moe_top_k)
    if config.has_gate:
        return GatedFeedForward(width, inner, activation, config.mlp_fc1_bias, down_bias=config.mlp_fc2_bias)
    return FeedForward(width, inner, activation, config.mlp_fc1_bias, down_bias=config.mlp_fc2_bias)


def layer(config: NomicBertConfig, number: int) -> PostNormLayer:
    """Return layer `number`."""
    width = config.hidden_size
    attention = RotaryAttention(width, config.num_attention_heads, config.head_dim, bias=config.qkv_proj_bias)
    return PostNormLayer(attention, feed_forward(config, number), width, config.layer_norm_eps)


def encoder(config: NomicBertConfig) -> Encoder:
    """Return the encoder."""
    layers = [layer(config, number) for number in range(config.num_hidden_layers)]
    return Encoder(embeddings(config), layers, rotary=rotary(config))


ATTENTION_NAMES = {
    "embeddings.word_embeddings": "embeddings.word",
    "embeddings.token_type_embeddings": "embeddings.token_type",
    "embeddings.LayerNorm": "embeddings.norm",
    "layers.{i}.self_attn.q_proj": "layers.{i}.attention.qkv#0",
    "layers.{i}.self_attn.k_proj": "layers.{i}.attention.qkv#1",
    "layers.{i}.self_attn.v_proj": "layers.{i}.attention.qkv#2",
    "layers.{i}.self_attn.o_proj": "layers.{i}.attention.out",
    "layers.{i}.post_attention_layernorm": "layers.{i}.attention_norm",
    "layers.{i}.post_mlp_layernorm": "layers.{i}.feed_forward_norm",
    "pooler.dense": "pooler.dense",
}
_BLOCK_NAMES = {
    "layers.{i}.mlp.gate_proj": "layers.{i}.feed_forward.gate_up#0",
    "layers.{i}.mlp.up_proj": "layers.{i}.feed_forward.gate_up#1",
    "layers.{i}.mlp.down_proj": "layers.{i}.feed_forward.down",
    # Blocks without a gate, and mixtures of experts, which transformers' class does not have.
    "encoder.layers.{i}.mlp.fc1": "layers.{i}.feed_forward.up",
    "encoder.layers.{i}.mlp.router.layer": "layers.{i}.feed_forward.router",
    "encoder.layers.{i}.mlp.experts.mlp.w1": "layers.{i}.feed_forward.experts_up",
    "encoder.layers.{i}.mlp.experts.mlp.w2": "layers.{i}.feed_forward.experts_down",
    "encoder.layers.{i}.mlp.experts": "layers.{i}.feed_forward",
}
# Names in the authors' files (transformers/conversion_mapping.py).
_ALTERNATE_NAMES = {
    "emb_ln": "embeddings.LayerNorm",
    "encoder.layers.{i}.attn.Wqkv": "layers.{i}.attention.qkv",
    "encoder.layers.{i}.attn.out_proj": "layers.{i}.self_attn.o_proj",
    "encoder.layers.{i}.norm1": "layers.{i}.post_attention_layernorm",
    "encoder.layers.{i}.norm2": "layers.{i}.post_mlp_layernorm",
    "encoder.layers.{i}.mlp.fc11": "layers.{i}.mlp.up_proj",
    "encoder.layers.{i}.mlp.fc12": "layers.{i}.mlp.gate_proj",
    "encoder.layers.{i}.mlp.fc2": "layers.{i}.mlp.down_proj",
}

_DECODER = "cls.predictions.decoder"
_MASKED_LM = masked_lm_head(
    {"cls.predictions.transform.dense": "dense", "cls.predictions.transform.layer_norm": "norm"},
    "cls.predictions",
    _DECODER,
)


def authors_masked_lm(config: NomicBertConfig) -> MaskedLMHead:
    """Return the masked-LM head of the authors' code, with biases and an activation of its own."""
    name = config.activation_function or ""
    activation = activation_for("silu" if name == "swiglu" else _PLAIN.get(name, "gelu"))
    width, eps, tied = config.hidden_size, config.layer_norm_eps, config.tie_word_embeddings
    return MaskedLMHead(width, width, config.vocab_size, activation, eps, tied, bias=config.mlp_fc1_bias)


def masked_lm_variant(config: NomicBertConfig) -> Head:
    """Return the masked-LM head of transformers' class, or that of the authors' code for its files."""
    if config.activation_function is None:
        return _MASKED_LM
    return Head(authors_masked_lm, _MASKED_LM.names, tied={_DECODER: ""}, untied={_DECODER: "decoder"})


FAMILY = Family(
    model_type="nomic_bert",
    config=NomicBertConfig,
    encoder=encoder,
    names={**ATTENTION_NAMES, **_BLOCK_NAMES},
    prefix="nomic_bert",
    hf_prefix="NomicBert",
    tokenizer="BertTokenizer",
    pooler=bert.FAMILY.pooler,
    heads={
        MASKED_LM: Head(
            build=lambda config: masked_lm_variant(config).build(config),
            names=_MASKED_LM.names,
            variant_for=masked_lm_variant,
        ),
        SEQUENCE_CLASSIFICATION: POOLED_SEQUENCE_HEAD,
        TOKEN_CLASSIFICATION: TOKEN_HEAD,
    },
    alternate_names=_ALTERNATE_NAMES,
    alternate_prefixes=("bert",),
    base_model_has_pooler=False,
)
