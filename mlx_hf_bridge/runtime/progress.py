"""The progress bar that everything long shows."""

from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

if TYPE_CHECKING:
    _Bar = tqdm[Any]  # generic only for type checkers
else:
    _Bar = tqdm


class ProgressBar(_Bar):
    """tqdm without its monitor thread.

    tqdm starts that thread with the first bar, shown or not, and a thread cannot be started any more when the
    interpreter shuts down: encoding in a `__del__` would wait forever. The thread only refreshes bars that became slow;
    here every update looks at the clock instead.
    """

    monitor_interval = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("miniters", 1)
        super().__init__(*args, **kwargs)
