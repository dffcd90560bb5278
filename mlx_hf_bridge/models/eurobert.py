"""EuroBERT (Boizard et al., arXiv 2503.05500); reference: transformers/models/eurobert/modeling_eurobert.py.

Llama's layers without the causal mask. Differs from BERT: rotary positions, RMSNorm before each block and after the
last layer, a gated feed-forward block, grouped-query attention, no token types, no pooler.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from mlx_hf_bridge.architecture import llama
from mlx_hf_bridge.architecture.family import MASKED_LM, SEQUENCE_CLASSIFICATION, TOKEN_CLASSIFICATION, Family, Head
from mlx_hf_bridge.architecture.heads import TOKEN_HEAD
from mlx_hf_bridge.architecture.llama import GroupedQueryConfig
from mlx_hf_bridge.architecture.rope import rotary
from mlx_hf_bridge.errors import ConfigError
from mlx_hf_bridge.layers.activations import gelu
from mlx_hf_bridge.layers.embeddings import TokenEmbeddings
from mlx_hf_bridge.layers.encoder import Encoder
from mlx_hf_bridge.layers.heads import TokenClassifier
from mlx_hf_bridge.layers.norm import RMSNorm
from mlx_hf_bridge.layers.transformed_heads import LMHead, Transform, TransformedHead, mean_pool, take_first_position

# classifier_pooling -> pooling of hidden states before the classifier; "late" averages the classifier's outputs.
_POOLS = {"bos": take_first_position, "mean": mean_pool, "late": None}


@dataclass(frozen=True, kw_only=True)
class EuroBertConfig(GroupedQueryConfig):
    """EuroBERT's keys: biases of the feed-forward block, and how the classifier pools."""

    layer_norm_eps: float = 1e-5
    mlp_bias: bool = False
    classifier_pooling: str = "late"

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Self:
        """Return the config of a parsed config.json; files of the authors' remote code say `clf_pooling`."""
        renamed = {"classifier_pooling": raw["clf_pooling"]} if raw.get("clf_pooling") else {}
        return super().from_json({**renamed, **raw})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.classifier_pooling not in _POOLS:
            raise ConfigError(
                f"config.json has classifier_pooling={self.classifier_pooling!r}, expected one of {', '.join(_POOLS)}."
            )


def encoder(config: EuroBertConfig) -> Encoder:
    """Return the encoder."""
    return Encoder(
        TokenEmbeddings(config.vocab_size, config.hidden_size),
        [llama.layer(config, config.mlp_bias) for _ in range(config.num_hidden_layers)],
        final_norm=RMSNorm(config.hidden_size, config.layer_norm_eps),
        rotary=rotary(config),
    )


def classifier(config: EuroBertConfig) -> TransformedHead:
    """Return the head of EuroBertForSequenceClassification, which uses gelu whatever `hidden_act` says."""
    return TransformedHead(
        Transform(config.hidden_size, gelu),
        TokenClassifier(config.hidden_size, config.num_labels),
        pool=_POOLS[config.classifier_pooling],
        pool_outputs=mean_pool if config.classifier_pooling == "late" else None,
    )


def masked_lm(config: EuroBertConfig) -> LMHead:
    """Return the masked-LM head: the token embeddings as decoder, or its own."""
    return LMHead(config.hidden_size, config.vocab_size, config.tie_word_embeddings, config.mlp_bias)


FAMILY = Family(
    model_type="eurobert",
    config=EuroBertConfig,
    encoder=encoder,
    names=llama.NAMES,
    prefix="model",
    hf_prefix="EuroBert",
    tokenizer="PreTrainedTokenizerFast",
    heads={
        MASKED_LM: Head(build=masked_lm, names={}, tied={"lm_head": ""}, untied={"lm_head": "decoder"}),
        SEQUENCE_CLASSIFICATION: Head(build=classifier, names={"dense": "transform.dense", "classifier": "head.out"}),
        TOKEN_CLASSIFICATION: TOKEN_HEAD,
    },
    uses_token_type_ids=False,
)
