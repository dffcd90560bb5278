"""Qwen3 as an embedder and reranker (Yang et al., arXiv 2505.09388); reference: transformers/models/qwen3.

Differs from BERT: causal attention, rotary positions, norms of each head's queries and keys, grouped-query attention,
RMSNorm before each block and after the last layer, a gated feed-forward block. That the last token is pooled is said in
the repo's sentence-transformers files.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from mlx_hf_bridge.architecture import llama
from mlx_hf_bridge.architecture.family import (
    CAUSAL_LM,
    QUESTION_ANSWERING,
    SEQUENCE_CLASSIFICATION,
    TOKEN_CLASSIFICATION,
    Family,
    Head,
)
from mlx_hf_bridge.architecture.heads import SPAN_HEAD
from mlx_hf_bridge.architecture.llama import GroupedQueryConfig
from mlx_hf_bridge.architecture.rope import rotary
from mlx_hf_bridge.errors import ConfigError
from mlx_hf_bridge.layers.embeddings import TokenEmbeddings
from mlx_hf_bridge.layers.encoder import Encoder
from mlx_hf_bridge.layers.heads import LastTokenClassifier, NextTokenScores, TokenClassifier
from mlx_hf_bridge.layers.norm import RMSNorm
from mlx_hf_bridge.layers.pre_norm import PreNormLayer
from mlx_hf_bridge.layers.token_batch import TokenBatch


@dataclass(frozen=True, kw_only=True)
class Qwen3Config(GroupedQueryConfig):
    """Qwen3's keys, with the defaults of transformers; sliding windows are unsupported."""

    layer_norm_eps: float = 1e-6
    pad_token_id: int | None = None
    head_dim: int | None = 128
    layer_types: Sequence[str] | None = None
    is_causal: bool = True

    unsupported_values: ClassVar = {"use_sliding_window": bool}

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(kind != "full_attention" for kind in self.layer_types or ()):
            raise ConfigError(
                f"config.json has layer_types={self.layer_types!r}; expected only full_attention. "
                "Use transformers on torch for this model."
            )


def layer(config: Qwen3Config) -> PreNormLayer:
    """Return one layer, with norms of queries and keys."""
    query_norm, key_norm = (RMSNorm(config.attention_head_dim, config.layer_norm_eps) for _ in range(2))
    return llama.layer(config, query_norm=query_norm, key_norm=key_norm)


def encoder(config: Qwen3Config) -> Encoder:
    """Return the encoder."""
    return Encoder(
        TokenEmbeddings(config.vocab_size, config.hidden_size),
        [layer(config) for _ in range(config.num_hidden_layers)],
        final_norm=RMSNorm(config.hidden_size, config.layer_norm_eps),
        # Decoders that were turned into bidirectional encoders say so in config.json (masking_utils.py).
        attention_mask=TokenBatch.causal_mask if config.is_causal else TokenBatch.key_mask,
        rotary=rotary(config),
    )


NAMES = {
    **llama.NAMES,
    "layers.{i}.self_attn.q_norm": "layers.{i}.attention.query_norm",
    "layers.{i}.self_attn.k_norm": "layers.{i}.attention.key_norm",
}
# Of a tied decoder the files may hold a copy, which transformers ignores.
NEXT_TOKEN_HEAD = Head(
    build=lambda config: NextTokenScores(config.hidden_size, config.vocab_size, config.tie_word_embeddings),
    names={},
    untied={"lm_head": "decoder"},
)
LAST_TOKEN_HEAD = Head(
    build=lambda config: LastTokenClassifier(config.hidden_size, config.num_labels, config.pad_token_id),
    names={"score": "out"},
)

FAMILY = Family(
    model_type="qwen3",
    config=Qwen3Config,
    encoder=encoder,
    names=NAMES,
    prefix="model",
    alternate_prefixes=("transformer",),
    hf_prefix="Qwen3",
    tokenizer="Qwen2Tokenizer",
    heads={
        SEQUENCE_CLASSIFICATION: LAST_TOKEN_HEAD,
        TOKEN_CLASSIFICATION: Head(
            build=lambda config: TokenClassifier(config.hidden_size, config.num_labels), names={"score": "out"}
        ),
        QUESTION_ANSWERING: SPAN_HEAD,
        CAUSAL_LM: NEXT_TOKEN_HEAD,
    },
    uses_token_type_ids=False,
)
