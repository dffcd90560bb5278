"""Turn off logging for a while, in any number of threads."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_inside = 0
_before = logging.NOTSET


@contextmanager
def no_logging(level: int) -> Iterator[None]:
    """Disable log messages of all loggers up to a level.

    What was disabled before is restored when the last thread leaves: each restoring what it found would leave logging
    disabled if one enters before another leaves.

    Args:
        level: The highest level that is disabled.

    Yields:
        Nothing.
    """
    global _inside, _before
    with _lock:
        if _inside == 0:
            _before = logging.root.manager.disable
        _inside += 1
        logging.disable(max(level, logging.root.manager.disable))
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                logging.disable(_before)
