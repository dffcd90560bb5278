"""MVP (Tang et al., arXiv 2206.12131); reference: transformers/models/mvp/modeling_mvp.py.

Identical to BART. Its prompts (`use_prompt`), keys and values that every layer attends to as well, are not supported.
"""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from mlx_hf_bridge.models import bart


@dataclass(frozen=True, kw_only=True)
class MvpConfig(bart.BartConfig):
    """BART's keys, without prompts."""

    unsupported_values: ClassVar = {**bart.BartConfig.unsupported_values, "use_prompt": bool}
    default_labels: ClassVar[int] = 2


FAMILY = dataclasses.replace(bart.FAMILY, model_type="mvp", config=MvpConfig, hf_prefix="Mvp", tokenizer="MvpTokenizer")
