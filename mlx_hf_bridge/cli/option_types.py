"""Types of option values, each with one message that says what was given, what is expected, and what may be meant."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from mlx_hf_bridge.cli.command import did_you_mean

if TYPE_CHECKING:
    _ParamType = click.ParamType[Any]  # generic only for type checkers
else:
    _ParamType = click.ParamType
_MOST_DIGITS = 100


class OneOf(_ParamType):
    """A value out of a few.

    Args:
        choices: The values, as strings or integers.
        others: What else is taken, for the message: "a .json file". Needs `accepts`.
        ending: The ending of other values that are taken.
    """

    name = "choice"

    def __init__(self, choices: Sequence[str | int], others: str = "", ending: str = "") -> None:
        self.choices = choices
        self.others = others
        self.ending = ending

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """Return "a|b|c" for the help page."""
        return "|".join(map(str, self.choices))

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the value; a usage error if it is none of the choices."""
        by_text = {str(choice): choice for choice in self.choices}
        if str(value) in by_text:
            return by_text[str(value)]
        if self.ending and str(value).endswith(self.ending):
            return value
        known = f"{', '.join(by_text)}{f', or {self.others}' if self.others else ''}"
        raise click.BadParameter(f"{value!r} is not one of {known}{did_you_mean(str(value), by_text)}", ctx, param)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
        """Return the choices that begin so."""
        from click.shell_completion import CompletionItem

        return [CompletionItem(str(choice)) for choice in self.choices if str(choice).startswith(incomplete)]


class Count(_ParamType):
    """An integer of 1 or more.

    Args:
        most: The largest.
        least: The smallest. Default: 1.
        what: What it is, for the message.
    """

    name = "N"

    def __init__(self, most: int | None = None, least: int = 1, what: str = "") -> None:
        self.most = most
        self.least = least
        self.what = what or f"an integer of {least} or more"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the integer; a usage error if it is none, or out of range."""
        text = str(value)
        # Python reads no integers of more than 4,300 digits.
        number = int(text) if text.isdecimal() and len(text) < _MOST_DIGITS else -1
        if number < self.least or (self.most is not None and number > self.most):
            self.fail(f"{text!r} is not {self.what}", param, ctx)
        return number


class Size(_ParamType):
    """A number greater than 0.

    Args:
        zero: Whether 0 is taken too.
        unit: A letter that may follow, such as "d".
        what: What it is, for the message.
    """

    name = "N"

    def __init__(self, zero: bool = False, unit: str = "", what: str = "a number greater than 0") -> None:
        self.zero = zero
        self.unit = unit
        self.what = what

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number; a usage error if it is none, or too small."""
        try:
            number = float(str(value).removesuffix(self.unit) if self.unit else value)
        except ValueError:
            number = -1.0
        if not (number > 0 or (self.zero and number == 0)):
            self.fail(f"{str(value)!r} is not {self.what}", param, ctx)
        return number


POSITIVE_COUNT = Count()
POSITIVE_SIZE = Size()
PORT = Count(65535, 0, "a port, a number from 0 to 65535")
DAYS = Size(zero=True, unit="d", what="a number of days")
