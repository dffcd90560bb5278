"""Rotary position settings of config.json, in the three forms that transformers has written over time.

Rope types "default", "linear" and "dynamic" are implemented, with all of each head rotated; `rope_theta_from` is for
families that have the default type only. Reference: transformers/modeling_rope_utils.py.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import mlx.nn as nn

from mlx_hf_bridge.architecture.config import EncoderConfig
from mlx_hf_bridge.errors import ConfigError
from mlx_hf_bridge.layers.rotary import DynamicRotary, Rotary


def rope_theta_from(
    parameters: Mapping[str, Any] | None, default: float, kinds: tuple[str, ...] = ("default",)
) -> float:
    """Return the rotary base that `rope_parameters` or the older `rope_scaling` gives.

    Args:
        parameters: The mapping of config.json, e.g. {"rope_type": "default", "rope_theta": 10000.0}; None = not given.
        default: The base to use where the mapping has none.
        kinds: Rope types that the caller computes.

    Returns:
        The base theta of the rotation frequencies theta^(-2i/K), K = width of a head.

    Raises:
        ConfigError: If it is no such mapping, or asks for another rope type or a partial rotation.
    """
    given = parameters or {}
    if not isinstance(given, Mapping) or isinstance(given.get("rope_theta", 1.0), (bool, str)):
        raise ConfigError(f"config.json has rope_parameters={parameters!r}, expected rope_type and rope_theta.")
    kind, part = rope_type_of(given), given.get("partial_rotary_factor")
    if kind not in kinds or part not in (None, 1):
        raise ConfigError(
            f"config.json has rope_type={kind!r} and partial_rotary_factor={part!r}; supported are "
            f"{', '.join(map(repr, kinds))} and 1. Use transformers on torch for this model."
        )
    theta = float(given.get("rope_theta") or default)
    if not 0 < theta < math.inf:
        raise ConfigError(f"config.json has rope_theta={theta}, expected a number above 0. Take the original file.")
    return theta


def rope_type_of(parameters: Mapping[str, Any]) -> Any:
    """Return the rope type of a mapping: "default" if it names none, under the newer or the older key.

    Args:
        parameters: The value of `rope_parameters` or `rope_scaling`.

    Returns:
        The rope type, e.g. "linear".
    """
    return parameters.get("rope_type") or parameters.get("type") or "default"


def rope_factor_from(parameters: Mapping[str, Any]) -> float:
    """Return the factor of a scaled rope type.

    Args:
        parameters: The value of `rope_parameters` or `rope_scaling`.

    Returns:
        The factor, 1 or more.

    Raises:
        ConfigError: If there is none, or it is smaller: such a factor would shorten the context.
    """
    factor: Any = parameters.get("factor")
    if type(factor) not in (int, float) or not 1 <= factor < math.inf:
        raise ConfigError(
            f"config.json has rope_type={rope_type_of(parameters)!r} with factor={factor!r}, expected a number of 1 or "
            "more. Take the file of the original checkpoint."
        )
    return float(factor)


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
        rope_types: Class variable, the rope types that the family computes.
    """

    rope_parameters: Mapping[str, Any] | None = None
    rope_scaling: Mapping[str, Any] | None = None
    rope_theta: float | None = None
    partial_rotary_factor: float | None = None

    reads_head_dim: ClassVar[bool] = True
    default_theta: ClassVar[float] = 10_000.0
    rope_types: ClassVar[tuple[str, ...]] = ("default", "linear", "dynamic")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_head_width(self.attention_head_dim)
        # Raises for values that cannot be computed with.
        assert self.theta > 0
        if self.rope_type != "default":
            assert self.rope_factor > 0

    @property
    def _rope(self) -> Mapping[str, Any]:
        part = {} if self.partial_rotary_factor is None else {"partial_rotary_factor": self.partial_rotary_factor}
        # transformers 5 writes rope_parameters, older versions rope_scaling next to rope_theta.
        return {**part, **(self.rope_scaling or self.rope_parameters or {})}

    @property
    def theta(self) -> float:
        """The rotary base."""
        return rope_theta_from(self._rope, self.rope_theta or self.default_theta, self.rope_types)

    @property
    def rope_type(self) -> str:
        """How the rotation depends on `rope_factor`: not at all ("default"), or one of the scaled rope types."""
        return str(rope_type_of(self._rope))

    @property
    def rope_factor(self) -> float:
        """The factor of a scaled rope type."""
        return rope_factor_from(self._rope)

    def rope_parameter(self, name: str) -> float | None:
        """Return a further number of a scaled rope type, such as "mixed_b" of "ntk"; None if there is none.

        Args:
            name: The key in `rope_parameters` or `rope_scaling`.

        Returns:
            The number.

        Raises:
            ConfigError: If the value is no number above 0.
        """
        value = self._rope.get(name)
        if value is not None and (type(value) not in (int, float) or not 0 < value < math.inf):
            raise ConfigError(f"config.json has rope_parameters with {name}={value!r}, expected a number above 0.")
        return value

    @property
    def independent_length(self) -> int:
        """Longest batch in which padding changes no text's outputs.

        A "dynamic" rotation depends on the length of the batch beyond the trained length.
        """
        return self.trained_length if self.rope_type == "dynamic" else super().independent_length

    @property
    def trained_length(self) -> int:
        """The length up to which a "dynamic" rotation does not change."""
        return self.max_position_embeddings

    @property
    def attention_head_dim(self) -> int:
        """Width of an attention head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def has_position_table(self) -> bool:
        """Whether positions are looked up in a table: no, they are rotary."""
        return False


def rotary(config: RotaryConfig) -> nn.Module:
    """Return the rotary positions of a config, for all layers.

    Args:
        config: The model's config.

    Returns:
        A module that maps a batch to its rotations.
    """
    width = config.attention_head_dim
    if config.rope_type == "dynamic":
        return DynamicRotary(width, config.theta, config.rope_factor, config.trained_length)
    return Rotary(width, config.theta, stretch=config.rope_factor if config.rope_type == "linear" else 1.0)
