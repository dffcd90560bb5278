"""What config.json says of rotary positions, in its three spellings; the plain form is the one that is computed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from mlx_hf_bridge.architecture.config import EncoderConfig
from mlx_hf_bridge.errors import ConfigError


def rope_theta_from(parameters: Mapping[str, Any] | None, otherwise: float) -> float:
    """The base of the periods that `parameters` gives, else `otherwise`; ConfigError for scaled or partial forms."""
    given = parameters or {}
    if not isinstance(given, Mapping) or isinstance(given.get("rope_theta", 1.0), (bool, str)):
        raise ConfigError(f"config.json has rope_parameters={parameters!r}, expected rope_type and rope_theta.")
    kind, part = given.get("rope_type", given.get("type", "default")), given.get("partial_rotary_factor")
    if kind != "default" or part not in (None, 1):
        raise ConfigError(
            f"config.json has rope_type={kind!r} and partial_rotary_factor={part!r}; computed here are 'default' and "
            "1. Use transformers on torch for this model."
        )
    theta = given.get("rope_theta") or otherwise
    return float(theta)


@dataclass(frozen=True, kw_only=True)
class RotaryConfig(EncoderConfig):
    """Families with rotary positions, which need no table: any length can be computed, to `max_length` was trained.

    The base of the periods is in `rope_parameters`, in files from before transformers 5 in `rope_theta`, else the
    family's `default_theta`.
    """

    rope_parameters: Mapping[str, Any] | None = None
    rope_scaling: Mapping[str, Any] | None = None
    rope_theta: float | None = None
    partial_rotary_factor: float | None = None

    default_theta: ClassVar[float] = 10_000.0

    def __post_init__(self) -> None:
        super().__post_init__()
        assert self.theta > 0

    @property
    def theta(self) -> float:
        """The base of the periods."""
        part = {} if self.partial_rotary_factor is None else {"partial_rotary_factor": self.partial_rotary_factor}
        given = self.rope_scaling or self.rope_parameters or {}
        return rope_theta_from({**part, **given}, self.rope_theta or self.default_theta)

    @property
    def attention_head_dim(self) -> int:
        return self.head_dim or self.hidden_size // self.num_attention_heads

    def last_position(self, ids: np.ndarray) -> int:
        """0, since places are computed with and not looked up."""
        return 0


@dataclass(frozen=True, kw_only=True)
class GroupedQueryConfig(RotaryConfig):
    """Llama's kin, in which several queries may share keys and values."""

    type_vocab_size: int = field(default=0, init=False)
    tie_word_embeddings: bool = False
    num_key_value_heads: int | None = None
    attention_bias: bool = False

    attribute_map: ClassVar = {"layer_norm_eps": "rms_norm_eps"}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_attention_heads % self.num_kv_heads:
            raise ConfigError(
                f"config.json has num_key_value_heads={self.num_kv_heads} for num_attention_heads="
                f"{self.num_attention_heads}; the second must be a multiple of the first. Take the original file."
            )

    @property
    def num_kv_heads(self) -> int:
        """How many heads of keys and values there are."""
        return self.num_key_value_heads or self.num_attention_heads
