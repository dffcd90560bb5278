"""`ModelInput`: an argument that only some model types have, such as LayoutLM's boxes, and the checks of its values.

Axes: B texts, L tokens; any other letter is an axis whose length the caller chooses.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from mlx_hf_bridge.errors import InputError, TokenRangeError

# No limit: something else checks the values.
UNLIMITED = 2**31 - 1


@dataclass(frozen=True)
class ModelInput:
    """An argument of a model's call in addition to ids, masks, token types and positions.

    Attributes:
        size: Values from 0 to `size` - 1 are allowed; a tuple has one size for each index of the last axis. 0 accepts
            the argument where all of its values are 0, and ignores it.
        axes: The shape: "B" and "L" are those of the ids, other letters vary, and numbers are sizes.
        key: The key of config.json that `size` comes from, for errors.
        is_float: Whether the values are floats; their range is then not checked.
        smallest: The smallest allowed value, -1 where it marks padding.
        per_text: Whether an array (B,) is accepted too, one value for all tokens of a text.
        indexes: The axis whose positions the values are ("L"), whose length then bounds them; None for no axis.
        needs: Names of other arguments that must be given with this one.
        check: Function of the values that raises InputError for those that the model cannot read; None for no check.
    """

    size: int | tuple[int, ...] = UNLIMITED
    axes: tuple[str | int, ...] = ("B", "L")
    key: str = "config.json"
    is_float: bool = False
    smallest: int = 0
    per_text: bool = False
    indexes: str | None = None
    needs: tuple[str, ...] = ()
    check: Callable[[np.ndarray], None] | None = None


def check_values(name: str, values: np.ndarray, spec: ModelInput) -> None:
    """Check that every value is inside the model's tables, since MLX does not check indices.

    Args:
        name: Name of the argument.
        values: Its values, in the shape of `spec.axes`.
        spec: What the model takes.

    Raises:
        TokenRangeError: If a value is outside its table.
        InputError: If the values do not fit each other.
    """
    if spec.is_float or not values.size:
        return
    if isinstance(spec.size, tuple):
        for column, size in enumerate(spec.size):
            check_range(f"{name}[..., {column}]", values[..., column], size, spec.key, spec.smallest)
    else:
        check_range(name, values, spec.size, spec.key, spec.smallest)
    if spec.check is not None:
        spec.check(values)


def check_range(name: str, values: np.ndarray, size: int, key: str, smallest: int = 0) -> None:
    """Check that integers are inside a table.

    Args:
        name: Name of the argument.
        values: Its values, of any shape.
        size: Rows of the table.
        key: The key of config.json that `size` comes from.
        smallest: The smallest allowed value.

    Raises:
        TokenRangeError: If a value is below `smallest`, or `size` or more.
    """
    low, high = int(values.min()), int(values.max())
    if low < smallest or high >= size:
        raise TokenRangeError(
            f"{name} has values from {low} to {high}, and the model's table has {smallest} to {size - 1} ({key}). "
            "Check that the tokenizer belongs to the model."
        )


def check_companions(given: Mapping[str, object], known: Mapping[str, ModelInput]) -> None:
    """Check that arguments are given with those that they need.

    Args:
        given: The arguments that are given, by name.
        known: All arguments of the model, by name.

    Raises:
        InputError: If one is missing.
    """
    for name in given:
        if missing := [other for other in known[name].needs if other not in given]:
            raise InputError(f"{name} was given without {' and '.join(missing)}, which it needs. Pass them together.")
