"""The progress bar that everything long shows."""

import sys
from typing import TYPE_CHECKING, Any, Self

from tqdm.auto import tqdm

from mlx_hf_bridge.runtime.progress_lines import ProgressLines, style

if TYPE_CHECKING:
    _Bar = tqdm[Any]  # generic only for type checkers
else:
    _Bar = tqdm


class ProgressBar(_Bar):
    """tqdm without its monitor thread.

    tqdm starts that thread with the first bar, shown or not, and a thread cannot be started any more when the
    interpreter shuts down: encoding in a `__del__` would wait forever. The thread only refreshes bars that became slow;
    here every update looks at the clock instead.

    A bar that is not shown uses nothing of tqdm: Ctrl-C while tqdm takes its lock would leave the lock taken, and no
    other thread could make a bar any more.
    """

    monitor_interval = 0

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        if kwargs.get("disable", False) is None and _is_hidden(kwargs) and style() == "lines":
            lines: Any = ProgressLines(*args, **kwargs)
            return lines  # type: ignore[no-any-return]
        return object.__new__(cls) if _is_hidden(kwargs) else super().__new__(cls, *args, **kwargs)

    def __init__(self, iterable: Any = None, *args: Any, **kwargs: Any) -> None:
        if _is_hidden(kwargs):
            self.iterable, self.disable, self.n = iterable, True, 0
            self.total, self.leave = kwargs.get("total"), False
            return
        kwargs.setdefault("miniters", 1)
        if unit := kwargs.get("unit"):
            # tqdm writes "40text" otherwise.
            kwargs["unit"] = f" {unit.strip()}"
        super().__init__(iterable, *args, **kwargs)

    def __str__(self) -> str:
        # Of slow steps tqdm shows the seconds for each: "13.5s/ stage".
        shown = str(super().__str__())
        # As long as before, since the next line overwrites this one.
        return shown.replace("s/ ", "s/").ljust(len(shown))


def _is_hidden(options: dict[str, Any]) -> bool:
    """Whether tqdm would show nothing: disable is True, or None where there is no terminal."""
    disable, file = options.get("disable", False), options.get("file") or sys.stderr
    return bool(disable) or style() == "none" or (disable is None and hasattr(file, "isatty") and not file.isatty())
