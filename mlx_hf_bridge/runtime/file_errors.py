"""Errors that Python and its libraries raise while a file's values are read, as errors that name the file."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlx_hf_bridge.errors import BridgeError, ConfigError, InputError, RepositoryError

_ERRORS = (TypeError, AttributeError, KeyError, ValueError, IndexError, ArithmeticError, AssertionError, RecursionError)


def check_encodable(folder: Path) -> None:
    """Check that MLX can open files in a folder, whose path it takes as UTF-8.

    Args:
        folder: A folder; it need not exist.

    Raises:
        RepositoryError: If its path has bytes that are not UTF-8.
    """
    try:
        str(folder).encode()
    except UnicodeEncodeError as error:
        raise RepositoryError(
            f"the path {str(folder)!a:.300} is not valid UTF-8, and MLX opens no file there. Rename the folder."
        ) from error


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


def unreadable_text(name: str, error: OSError | UnicodeDecodeError) -> InputError:
    """Describe why a user's text file cannot be read.

    Args:
        name: The file, or "stdin".
        error: What reading it raised.

    Returns:
        The error to raise.
    """
    if isinstance(error, FileNotFoundError):
        return InputError(f"there is no file {name}. Check the path.")
    if isinstance(error, UnicodeDecodeError):
        byte = error.object[error.start]
        return InputError(
            f"{name} is not UTF-8 text (it has the byte 0x{byte:02x}). Convert it, for example from Latin-1: "
            "iconv -f latin1 -t utf-8."
        )
    return InputError(f"{name} cannot be read ({error.strerror or error}). Give another file.")


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
