"""`Budget`: how long one rendering of a chat template may take, and how large its values may grow.

jinja2's sandbox keeps a template away from Python; it limits nothing but the length of a range.
"""

import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

# Turns of loops, calls, filters and operators of one rendering, and its seconds: published templates take some hundred
# steps and a few milliseconds.
_STEPS = 100_000
_SECONDS = 5.0
# Characters and items of all values that a rendering makes: these, and so many copies of its inputs.
_CHARACTERS, _COPIES = 2**22, 200
# The largest integer argument of a call or filter, such as a width; longer numbers in a format are refused.
_LARGEST = 100_000
_LONG_NUMBER = re.compile(r"\d{6}")
# Bits of an integer, beyond any that a template computes.
_BITS = 4096


class TemplateLimitError(ValueError):
    """A chat template has gone beyond its limits."""


@dataclass
class Budget:
    """What one rendering may still use.

    Args:
        started: When it began, of time.monotonic().
        inputs: Characters and items of what it is given.
    """

    started: float
    inputs: int

    def __post_init__(self) -> None:
        self.steps, self.characters = _STEPS, _CHARACTERS + _COPIES * self.inputs

    def step(self) -> None:
        """Count one turn of a loop, call or filter."""
        self.steps -= 1
        if self.steps < 0 or time.monotonic() - self.started > _SECONDS:
            raise TemplateLimitError(f"it takes more than {_STEPS:,} steps or {_SECONDS:.0f} seconds")

    def spend(self, count: int) -> None:
        """Count characters or items of a value.

        Args:
            count: How many, before they are allocated where they can be many.
        """
        self.characters -= count
        if self.characters < 0:
            raise TemplateLimitError("its values are too large")

    def run(self, call: Callable[..., Any], function: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Call a function or method for a template, with the size of its result estimated first.

        Args:
            call: The sandbox's own way to call it.
            function: What is called; of a method, its object counts.
            args: Its arguments.
            kwargs: Its keyword arguments.

        Returns:
            The result.
        """
        self.step()
        name = getattr(function, "__name__", "")
        if name == "join" and args and isinstance(args[0], Iterator):
            args = [list(self._items(args[0])), *args[1:]]
        self._check_arguments((*args, *kwargs.values()))
        self._check_growth(name, getattr(function, "__self__", None), args)
        # Arguments too: objects such as a cycler give them back.
        self.measure((*args, *kwargs.values()))
        return self.measure(call(*args, **kwargs))

    def filter(
        self,
        name: str,
        function: Callable[..., Any],
        passed: Sequence[Any],
        args: Sequence[Any],
        kwargs: dict[str, Any],
    ) -> Any:
        """Apply a filter for a template, with the size of its result estimated first.

        Args:
            name: The filter's name.
            function: The filter.
            passed: The context that jinja2 passes to it, if any.
            args: The value, and further arguments.
            kwargs: Its keyword arguments.

        Returns:
            The result.
        """
        self.step()
        value, *rest = args or [None]
        given = (*rest, *kwargs.values())
        self._check_arguments(given)
        if name in ("join", "sum"):
            # Of values that may be one text or list many times.
            value = self.measure(list(self._items(value)))
        elif isinstance(value, Iterator):
            value = self._items(value)
        else:
            self.spend(_length(value))
        if name == "format" and isinstance(value, str):
            self._check_format(value, given)
        self._check_growth(name, value, given)
        if not args:
            return self.measure(function(*passed, **kwargs))
        return self.measure(function(*passed, value, *rest, **kwargs))

    def check_operator(self, operator: str, left: Any, right: Any) -> None:
        """Check what an operator would make.

        Args:
            operator: "+", "*", "**" or "%".
            left: Its first operand.
            right: Its second operand.
        """
        self.step()
        if operator == "%" and isinstance(left, (str, bytes)):
            self._check_format(str(left), right if isinstance(right, tuple) else (right,))
        elif isinstance(left, (int, float)) and isinstance(right, (int, float)):
            bits = _bits(left) * max(abs(right), 1) if operator == "**" else _bits(left) + _bits(right)
            if bits > _BITS:
                raise TemplateLimitError("its numbers are too large")
        elif operator == "*":
            sizes = [abs(one) if isinstance(one, int) else _size(one) for one in (left, right)]
            self.spend(sizes[0] * sizes[1])
        else:
            self.spend(_size(left) + _size(right))

    def measure(self, value: Any) -> Any:
        """Count a value that a template has made.

        Args:
            value: The value; what containers hold counts each time that they hold it.

        Returns:
            The value.
        """
        self.spend(_size(value))
        return value

    def limit_format(self, text: str, function: Callable[..., str]) -> Callable[..., str]:
        """Return str.format of a text, checked before it is called.

        Args:
            text: The text.
            function: The sandbox's form of the method.

        Returns:
            A function of the same arguments.
        """

        def limited(*args: Any, **kwargs: Any) -> str:
            self._check_format(text, (*args, *kwargs.values()))
            return function(*args, **kwargs)

        return limited

    def _check_arguments(self, given: Iterable[Any]) -> None:
        if any(isinstance(one, int) and abs(one) > _LARGEST for one in given):
            raise TemplateLimitError(f"it passes a number above {_LARGEST:,}")

    def _check_format(self, text: str, given: Iterable[Any]) -> None:
        """Check a format for widths, which stand in it or are among its arguments."""
        given = list(given)
        self._check_arguments(given)
        if _LONG_NUMBER.search(text):
            raise TemplateLimitError("it formats with a width of six digits or more")
        fields = text.count("{") + text.count("%")
        widths = [int(number) for number in re.findall(r"\d+", text)] + [abs(x) for x in given if isinstance(x, int)]
        self.spend(len(text) + fields * (max(widths, default=0) + max(map(_size, given), default=0)))

    def _check_growth(self, name: str, value: Any, given: Sequence[Any]) -> None:
        """Count what the methods and filters whose result can be longer than their inputs would make."""
        if name in ("strftime_now", "strftime") and any(_LONG_NUMBER.search(str(one)) for one in given):
            raise TemplateLimitError("it formats a date with a width of six digits or more")
        length, sizes = _length(value), [abs(x) if isinstance(x, int) else _length(x) for x in given]
        if name == "replace" and len(given) > 1:
            old = max(1, _length(given[0]))
            self.spend(length + (length // old + 1) * sizes[1])
        elif name == "join" and isinstance(value, str) and given:
            items = given[0] if isinstance(given[0], (list, tuple, str)) else ()
            # A text joins texts; of anything else only lists and texts can be looked through first.
            self.spend(sum(map(_length, items)) + length * len(items))
        elif name in _PADDING:
            self.spend(length + sum(sizes))
        elif name in _PER_CHARACTER:
            self.spend((length + 1) * (1 + sum(sizes)))
        elif name == "translate" and given and isinstance(given[0], dict):
            self.spend(length * max(map(_length, given[0].values()), default=1))

    def _items(self, value: Any) -> Iterator[Any]:
        for one in value:
            self.step()
            yield one


# Methods and filters that fill a text up to a width, and those that may put something at every character.
_PADDING = frozenset(("center", "ljust", "rjust", "zfill", "batch", "slice"))
_PER_CHARACTER = frozenset(("expandtabs", "indent", "wordwrap", "tojson", "pprint", "xmlattr", "urlize"))


def _size(value: Any) -> int:
    """Return the characters and items of a value, those of nested containers included; many for one that has many."""
    if not isinstance(value, (list, tuple, dict, set, frozenset)):
        return _length(value)
    size = 0
    open_: list[Any] = [value]
    # Lists that hold a list twice, over and over, are small in memory and endless to walk through.
    while open_ and size <= _CHARACTERS:
        one = open_.pop()
        size += 17 + 8 * len(one)
        for item in (*one.keys(), *one.values()) if isinstance(one, dict) else one:
            if isinstance(item, (list, tuple, dict, set, frozenset)):
                open_.append(item)
            else:
                size += 1 + _length(item)
    return size


def _length(value: Any) -> int:
    return len(value) if isinstance(value, (str, bytes, list, tuple, dict, set, frozenset)) else 1


def _bits(number: Any) -> int:
    return number.bit_length() if isinstance(number, int) else 64
