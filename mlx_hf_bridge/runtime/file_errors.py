"""Errors that Python and its libraries raise while a file's values are read, as errors that name the file."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlx_hf_bridge.errors import BridgeError, ConfigError

_ERRORS = (TypeError, AttributeError, KeyError, ValueError, IndexError, ArithmeticError, AssertionError, RecursionError)


@contextmanager
def config_errors(path: Path | str) -> Iterator[None]:
    """Turn Python's errors while a file's values are read into a ConfigError that names the file.

    Args:
        path: The file.

    Yields:
        Nothing.

    Raises:
        ConfigError: If a value has a type or form that the reader does not expect.
    """
    try:
        yield
    except BridgeError:
        raise
    except _ERRORS as error:
        raise ConfigError(
            f"{path} has a value of another type or form than expected ({error!r:.200}). Take the original file."
        ) from error


@contextmanager
def panics_as_exceptions() -> Iterator[None]:
    """Turn a panic of a library that is written in Rust (tokenizers) into a RuntimeError.

    Yields:
        Nothing.

    Raises:
        RuntimeError: If the library panics, for which it raises what is no Exception and would end the program.
    """
    try:
        yield
    except BaseException as error:
        # The class is in no module that can be imported.
        if type(error).__name__ != "PanicException":
            raise
        raise RuntimeError(f"{str(error) or 'panic':.200}") from error
