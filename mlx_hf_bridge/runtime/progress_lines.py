"""Progress as lines of text, one every few seconds, where a bar cannot be drawn."""

import sys
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, Literal, Self

_SECONDS = 5.0
Style = Literal["bars", "lines", "none"]
_style: Style = "bars"


def set_style(style: Style) -> None:
    """Choose how progress is shown, for this process.

    Args:
        style: "bars" shows bars on terminals, and nothing elsewhere; "lines" prints lines elsewhere, as the command
            line does; "none" shows nothing.
    """
    global _style
    _style = style


def style() -> Style:
    """Return how progress is shown: "bars" (the default), "lines" or "none"."""
    return _style


class ProgressLines:
    """The part of a tqdm bar that this package uses, as lines: "Encoding: 4,096 of 10,000 texts, 812.3 texts/s".

    Args:
        iterable: What to iterate over. Default: None.
        desc: What is done.
        total: How many there are, if known.
        unit: The singular of what is counted.
        initial: How many are done already. Default: 0.
        options: Other options of tqdm, which have no meaning here.
    """

    def __init__(
        self,
        iterable: Iterable[Any] | None = None,
        desc: str = "",
        total: int | None = None,
        unit: str = "step",
        initial: int = 0,
        **options: Any,
    ) -> None:
        self.iterable = iterable
        self.desc = desc
        self.total = total
        self.unit = unit.strip()
        self.initial = self.n = initial
        self.disable = False
        self.postfix = ""
        self._start = self._printed = time.monotonic()

    def update(self, n: float = 1) -> None:
        """Count n more, and print a line if the last is some seconds old."""
        self.n += int(n)
        now = time.monotonic()
        if now - self._printed >= _SECONDS:
            self._printed = now
            self._print(now)

    def set_postfix_str(self, s: str = "", refresh: bool = True) -> None:
        """Set what stands at the end of the lines."""
        self.postfix = s

    def close(self) -> None:
        """Print the last line, if there were others."""
        if self._printed > self._start:
            self._printed = self._start
            self._print(time.monotonic())

    def _print(self, now: float) -> None:
        done, seconds = self.n - self.initial, now - self._start
        count = f"{self.n:,}" if self.total is None else f"{self.n:,} of {self.total:,}"
        rate = f", {done / seconds:,.1f} {self.unit}s/s" if done and seconds > 0 else ""
        more = f" ({self.postfix})" if self.postfix else ""
        sys.stderr.write(f"{self.desc}: {count} {self.unit}s{rate}{more}\n")

    def __iter__(self) -> Iterator[Any]:
        for item in self.iterable or ():
            yield item
            self.update()
        self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
