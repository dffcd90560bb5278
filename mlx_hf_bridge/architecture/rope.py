"""Rotary position settings of config.json, in the three forms that transformers has written over time.

Only the default rope type (no scaling, all of each head rotated) is implemented.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from mlx_hf_bridge.architecture.config import EncoderConfig
from mlx_hf_bridge.errors import ConfigError


def rope_theta_from(parameters: Mapping[str, Any] | None, default: float) -> float:
    """Return the rotary base that `rope_parameters` or the older `rope_scaling` gives.

    Args:
        parameters: The mapping of config.json, e.g. {"rope_type": "default", "rope_theta": 10000.0}; None = not given.
        default: The base to use where the mapping has none.

    Returns:
        The base theta of the rotation frequencies theta^(-2i/K), K = width of a head.

    Raises:
        ConfigError: If it is no such mapping, or asks for a scaled rope type or a partial rotation.
    """
    given = parameters or {}
    if not isinstance(given, Mapping) or isinstance(given.get("rope_theta", 1.0), (bool, str)):
        raise ConfigError(f"config.json has rope_parameters={parameters!r}, expected rope_type and rope_theta.")
    kind, part = given.get("rope_type", given.get("type", "default")), given.get("partial_rotary_factor")
    if kind != "default" or part not in (None, 1):
        raise ConfigError(
            f"config.json has rope_type={kind!r} and partial_rotary_factor={part!r}; supported are 'default' and "
            "1. Use transformers on torch for this model."
        )
    theta = float(given.get("rope_theta") or default)
    if not 0 < theta < math.inf:
        raise ConfigError(f"config.json has rope_theta={theta}, expected a number above 0. Take the original file.")
    return theta


def check_head_width(width: int) -> None:
    """Check that the heads of a model with rotary positions can be rotated.

    Args:
        width: Width of an attention head.

    Raises:
        ConfigError: If it is odd, since pairs of coordinates are rotated.
    """
    if width % 2:
        raise ConfigError(
            f"config.json gives attention heads of width {width}, expected an even number (head_dim, or hidden_size / "
            "num_attention_heads): rotary positions rotate pairs. Take the file of the original checkpoint."
        )


@dataclass(frozen=True, kw_only=True)
class RotaryConfig(EncoderConfig):
    """Config of models with rotary positions (Su et al., arXiv 2104.09864).

    There is no position table: inputs longer than the trained length can be computed too. The rotary base is in
    `rope_parameters`, in files from before transformers 5 in `rope_theta`, else it is `default_theta`.

    Attributes:
        rope_parameters: Rope type and base as transformers 5 writes them.
        rope_scaling: Older name of `rope_parameters`; wins if both are given.
        rope_theta: The rotary base as older files give it.
        partial_rotary_factor: The rotated share of each head; only 1 is supported.
        default_theta: Class variable, the base where config.json has none.
    """

    rope_parameters: Mapping[str, Any] | None = None
    rope_scaling: Mapping[str, Any] | None = None
    rope_theta: float | None = None
    partial_rotary_factor: float | None = None

    default_theta: ClassVar[float] = 10_000.0

    def __post_init__(self) -> None:
        super().__post_init__()
        # Raises for values that cannot be computed with.
        assert self.theta > 0
        check_head_width(self.attention_head_dim)

    @property
    def theta(self) -> float:
        """The rotary base."""
        part = {} if self.partial_rotary_factor is None else {"partial_rotary_factor": self.partial_rotary_factor}
        # transformers 5 writes rope_parameters, older versions rope_scaling next to rope_theta.
        given = self.rope_scaling or self.rope_parameters or {}
        return rope_theta_from({**part, **given}, self.rope_theta or self.default_theta)

    @property
    def attention_head_dim(self) -> int:
        """Width of an attention head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def has_position_table(self) -> bool:
        """Whether positions are looked up in a table: no, they are rotary."""
        return False
