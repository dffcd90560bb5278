"""mT5's encoder (Xue et al., arXiv 2010.11934): T5 v1.1 with a vocabulary of 101 languages."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from mlx_hf_bridge.models import t5


@dataclass(frozen=True, kw_only=True)
class MT5Config(t5.T5Config):
    default_feed_forward: ClassVar[str] = "gated-gelu"


FAMILY = dataclasses.replace(t5.FAMILY, model_type="mt5", config=MT5Config, hf_prefix="MT5")
