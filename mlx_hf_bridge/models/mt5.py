"""mT5 (Xue et al., arXiv 2010.11934); reference: transformers/models/mt5/modeling_mt5.py.

Identical to T5 v1.1, with a vocabulary for 101 languages.
"""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from mlx_hf_bridge.models import t5


@dataclass(frozen=True, kw_only=True)
class MT5Config(t5.T5Config):
    """T5's config with a gated feed-forward block by default."""

    decoder_start_token_id: int | None = 0

    default_feed_forward: ClassVar[str] = "gated-gelu"


FAMILY = dataclasses.replace(t5.FAMILY, model_type="mt5", config=MT5Config, hf_prefix="MT5")
