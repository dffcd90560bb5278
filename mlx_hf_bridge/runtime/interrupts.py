"""Ctrl-C for the command line: from its first moment to its last, exit code 130 without a traceback.

This file is imported before anything that takes long. A program that imports the package keeps Python's own handling.
"""

import itertools
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

INTERRUPTED = 130  # the exit code that shells give a program that Ctrl-C ended
_COMMAND, _PACKAGE = "mlx-hf-bridge", __name__.partition(".")[0]
_SECONDS_BETWEEN_LOOKS = 0.02
_count = 0


def watch() -> None:
    """End this process at once on Ctrl-C, if it is the command line, which so far only imports modules."""
    # Not where Ctrl-C is ignored, as under nohup.
    if _is_command_line() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)


def stop_watching() -> None:
    """Give Ctrl-C back to Python, for a program that is run in this process."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def raising() -> Iterator[None]:
    """Raise KeyboardInterrupt on Ctrl-C inside the `with` block, so that what was begun is cleaned up.

    Does nothing in a process that is not watched.

    Yields:
        Nothing.

    Raises:
        KeyboardInterrupt: Also in place of an error that an interrupt caused.
    """
    if signal.getsignal(signal.SIGINT) is not _leave:
        yield
        return
    hook = sys.unraisablehook

    def raise_again(unraisable: Any) -> None:
        # Python only prints what is raised in destructors and callbacks, and in this function: so a moment later.
        if unraisable.exc_type is KeyboardInterrupt:
            signal.setitimer(signal.ITIMER_REAL, _SECONDS_BETWEEN_LOOKS)
        else:
            hook(unraisable)

    sys.unraisablehook = raise_again
    signal.signal(signal.SIGALRM, _interrupt)
    signal.signal(signal.SIGINT, _interrupt)
    try:
        yield
    except BaseException as error:
        if _count:
            raise KeyboardInterrupt from error
        raise
    finally:
        # Python gives signals back to the system when it ends, which would kill a process that has done its work; one
        # that is ignored stays so.
        signal.signal(signal.SIGINT, _leave if _count else signal.SIG_IGN)
        signal.setitimer(signal.ITIMER_REAL, 0)
    if _count:
        raise KeyboardInterrupt


def _leave(number: int, frame: FrameType | None) -> None:
    os._exit(INTERRUPTED)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt, but not inside an import: C code that is being initialized prints it, or loses it."""
    global _count
    _count += 1
    if not _is_importing(frame):
        raise KeyboardInterrupt
    signal.setitimer(signal.ITIMER_REAL, _SECONDS_BETWEEN_LOOKS)


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def is_installed_command() -> bool:
    """Return whether this process is `mlx-hf-bridge ...`, and not one that it started."""
    # Processes that multiprocessing starts have other words in the original arguments.
    words = (next(iter(getattr(sys, "argv", [])), ""), *sys.orig_argv[1:2])
    return len(words) > 1 and all(word.rpartition(os.sep)[2] == _COMMAND for word in words)


def _is_command_line() -> bool:
    """Whether this process is `mlx-hf-bridge ...` or `python -m mlx_hf_bridge ...`."""
    first = next(iter(getattr(sys, "argv", [])), "")
    if first != "-m":
        return first.rpartition(os.sep)[2] == _COMMAND
    # While Python looks for the module of -m, its name is only in the original arguments.
    words = sys.orig_argv
    return f"-m{_PACKAGE}" in words or ("-m", _PACKAGE) in itertools.pairwise(words)
