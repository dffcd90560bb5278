"""LUKE (Yamada et al., arXiv 2010.01057); reference: transformers/models/luke/modeling_luke.py.

Differs from RoBERTa: it can also read entities. Only texts are supported, for which the entity embeddings and queries
are not needed; their tensors are dropped.
"""

import dataclasses
from dataclasses import dataclass, field

from mlx_hf_bridge.architecture.config import OffsetPositionsConfig
from mlx_hf_bridge.architecture.family import SEQUENCE_CLASSIFICATION
from mlx_hf_bridge.architecture.heads import POOLED_SEQUENCE_HEAD
from mlx_hf_bridge.models import bert, roberta


@dataclass(frozen=True)
class LukeConfig(OffsetPositionsConfig):
    """RoBERTa's config with an untied masked-LM head."""

    # LukeForMaskedLM has its own decoder, whatever config.json says.
    tie_word_embeddings: bool = field(default=False, init=False)


_ENTITY_QUERIES = ("w2e_query", "e2w_query", "e2e_query")

FAMILY = dataclasses.replace(
    roberta.FAMILY,
    model_type="luke",
    config=LukeConfig,
    prefix="luke",
    hf_prefix="Luke",
    tokenizer="LukeTokenizer",
    heads={**roberta.HEADS, SEQUENCE_CLASSIFICATION: POOLED_SEQUENCE_HEAD},
    ignored_suffixes=(
        *bert.FAMILY.ignored_suffixes,
        *(f"{query}.{leaf}" for query in _ENTITY_QUERIES for leaf in ("weight", "bias")),
    ),
    ignored_prefixes=("entity_embeddings", "entity_predictions"),
)
