"""EuroBERT (Boizard et al., arXiv 2503.05500); reference: transformers/models/eurobert/modeling_eurobert.py.

Llama's layers without the causal mask: rotary positions, RMS norms first, a gate, and keys and values that several
queries may share; no segments, no pooler.
"""

from dataclasses import dataclass

import mlx.nn as nn

from mlx_hf_bridge.architecture.family import MASKED_LM, SEQUENCE_CLASSIFICATION, TOKEN_CLASSIFICATION, Family, Head
from mlx_hf_bridge.architecture.heads import TOKEN_HEAD
from mlx_hf_bridge.architecture.rope import GroupedQueryConfig
from mlx_hf_bridge.errors import ConfigError
from mlx_hf_bridge.layers.embeddings import WordEmbeddings
from mlx_hf_bridge.layers.encoder import Encoder
from mlx_hf_bridge.layers.feed_forward import GatedFeedForward, activation_for, gelu
from mlx_hf_bridge.layers.heads import TokenClassifier
from mlx_hf_bridge.layers.norm import RMSNorm
from mlx_hf_bridge.layers.pre_norm import PreNormLayer
from mlx_hf_bridge.layers.rotary_attention import RotaryAttention
from mlx_hf_bridge.layers.transformed_heads import PreparedHead, Transform, WordScores, first_slot, mean_of_tokens
from mlx_hf_bridge.models import nomic_bert

# What is pooled before the classifier, if anything; "late" means its answers.
_POOLS = {"bos": first_slot, "mean": mean_of_tokens, "late": None}


@dataclass(frozen=True, kw_only=True)
class EuroBertConfig(GroupedQueryConfig):
    layer_norm_eps: float = 1e-5
    mlp_bias: bool = False
    classifier_pooling: str = "late"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.classifier_pooling not in _POOLS:
            raise ConfigError(
                f"config.json has classifier_pooling={self.classifier_pooling!r}, expected one of {', '.join(_POOLS)}."
            )


def layer(
    config: GroupedQueryConfig,
    mlp_bias: bool = False,
    query_norm: nn.Module | None = None,
    key_norm: nn.Module | None = None,
) -> PreNormLayer:
    """One layer; norms of each head's queries and keys for those who have them."""
    width, eps = config.hidden_size, config.layer_norm_eps
    attention = RotaryAttention(
        width,
        config.num_attention_heads,
        config.head_dim,
        config.num_kv_heads,
        config.attention_bias,
        query_norm=query_norm,
        key_norm=key_norm,
    )
    feed_forward = GatedFeedForward(width, config.intermediate_size, activation_for(config.hidden_act), mlp_bias)
    return PreNormLayer(attention, RMSNorm(width, eps), feed_forward, RMSNorm(width, eps))


def encoder(config: EuroBertConfig) -> Encoder:
    return Encoder(
        WordEmbeddings(config.vocab_size, config.hidden_size),
        [layer(config, config.mlp_bias) for _ in range(config.num_hidden_layers)],
        final_norm=RMSNorm(config.hidden_size, config.layer_norm_eps),
        rotary=nomic_bert.rotary(config),
    )


def classifier(config: EuroBertConfig) -> PreparedHead:
    """EuroBertForSequenceClassification: gelu whatever `hidden_act` says."""
    return PreparedHead(
        Transform(config.hidden_size, gelu),
        TokenClassifier(config.hidden_size, config.num_labels),
        pool=_POOLS[config.classifier_pooling],
        pool_answers=mean_of_tokens if config.classifier_pooling == "late" else None,
    )


def words(config: EuroBertConfig) -> WordScores:
    return WordScores(config.hidden_size, config.vocab_size, config.tie_word_embeddings, config.mlp_bias)


NAMES = {
    "embed_tokens": "embeddings.word",
    "layers.{i}.self_attn.q_proj": "layers.{i}.attention.query",
    "layers.{i}.self_attn.k_proj": "layers.{i}.attention.kv#0",
    "layers.{i}.self_attn.v_proj": "layers.{i}.attention.kv#1",
    "layers.{i}.self_attn.o_proj": "layers.{i}.attention.out",
    "layers.{i}.input_layernorm": "layers.{i}.attention_norm",
    "layers.{i}.mlp.gate_proj": "layers.{i}.feed_forward.gate_up#0",
    "layers.{i}.mlp.up_proj": "layers.{i}.feed_forward.gate_up#1",
    "layers.{i}.mlp.down_proj": "layers.{i}.feed_forward.down",
    "layers.{i}.post_attention_layernorm": "layers.{i}.feed_forward_norm",
    "norm": "final_norm",
}

FAMILY = Family(
    model_type="eurobert",
    config=EuroBertConfig,
    encoder=encoder,
    names=NAMES,
    prefix="model",
    hf_prefix="EuroBert",
    tokenizer="PreTrainedTokenizerFast",
    heads={
        MASKED_LM: Head(build=words, names={}, tied={"lm_head": ""}, untied={"lm_head": "decoder"}),
        SEQUENCE_CLASSIFICATION: Head(build=classifier, names={"dense": "transform.dense", "classifier": "head.out"}),
        TOKEN_CLASSIFICATION: TOKEN_HEAD,
    },
    uses_token_type_ids=False,
)
