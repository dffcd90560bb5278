"""BertGeneration's encoder (Rothe et al., arXiv 1907.12461); reference: models/bert_generation/ of transformers.

Differs from BERT: no token types, no pooler, no heads.
"""

import dataclasses
from dataclasses import dataclass, field

from mlx_hf_bridge.architecture.config import EncoderConfig
from mlx_hf_bridge.models import bert


@dataclass(frozen=True)
class BertGenerationConfig(EncoderConfig):
    """BERT's config without token types."""

    type_vocab_size: int = field(default=0, init=False)


FAMILY = dataclasses.replace(
    bert.FAMILY,
    model_type="bert-generation",
    config=BertGenerationConfig,
    hf_prefix="BertGeneration",
    tokenizer="BertGenerationTokenizer",
    pooler=None,
    heads={},
    uses_token_type_ids=False,
    ignored_prefixes=("lm_head",),
    hf_base_suffix="Encoder",
)
