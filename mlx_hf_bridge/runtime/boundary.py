"""The boundary of the public API: an error that no check foresaw leaves it as a BridgeError of the same builtin type.

Checks stand where arguments and files are read, and say most. This is for the rest: the message names the arguments
that are not of their annotated types, or all that were given. Errors of the caller's own code (callbacks, iterators,
subclasses) pass as they are.
"""

import functools
import inspect
import re
import sys
from collections.abc import Callable, Generator, Mapping
from types import TracebackType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from mlx_hf_bridge.errors import (
    ArgumentAttributeError,
    ArgumentIndexError,
    ArgumentRangeError,
    ArgumentRuntimeError,
    ArgumentTypeError,
    BackendError,
    BridgeError,
    InputError,
    RepositoryError,
    UnknownNameError,
    UnservedUseError,
)

F = TypeVar("F", bound=Callable[..., Any])
C = TypeVar("C", bound=type)

# The first that matches. MemoryError, KeyboardInterrupt and the like are nobody's argument.
_KINDS: tuple[tuple[type[Exception], type[BridgeError]], ...] = (
    (ImportError, BackendError),
    (OSError, RepositoryError),
    (TypeError, ArgumentTypeError),
    (AttributeError, ArgumentAttributeError),
    (KeyError, UnknownNameError),
    (LookupError, ArgumentIndexError),
    (OverflowError, ArgumentRangeError),
    (ValueError, InputError),
    (NotImplementedError, UnservedUseError),
    (RuntimeError, ArgumentRuntimeError),
)
# The attribute of errors that were made here.
_UNFORESEEN = "_is_unforeseen"
_PASSING = (BridgeError, Warning, MemoryError, AssertionError, StopIteration, StopAsyncIteration)
# Packages whose code is no callback of a caller.
_PACKAGE = __name__.partition(".")[0]
_LIBRARIES = {
    *(
        "filelock",
        "h11",
        "hf_xet",
        "httpcore",
        "httpcore2",
        "httpx",
        "httpx2",
        "huggingface_hub",
        "idna",
        "jinja2",
        "mlx",
        "numpy",
    ),
    *("requests", "rich", "safetensors", "sentence_transformers", "tokenizers", "torch", "tqdm", "transformers"),
    *("urllib3", "yaml", _PACKAGE, *sys.stdlib_module_names),
}
_MOST_LETTERS, _MOST_ARGUMENTS = 80, 4


class PublicAPI:
    """Base of the classes that users call; their public methods, constructors and properties are guarded."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # A class of the caller's own that extends one of these has errors of its own.
        if cls.__module__.partition(".")[0] == _PACKAGE:
            guard_methods(cls)


def guard_methods(guarded_class: C) -> C:
    """Guard the public methods, the constructor and the properties that a class itself defines; a class decorator.

    Args:
        guarded_class: The class, which is changed in place.

    Returns:
        The class.
    """
    for name, value in list(vars(guarded_class).items()):
        if name.startswith("_") and name not in ("__init__", "__call__"):
            continue
        if isinstance(value, (classmethod, staticmethod)):
            setattr(guarded_class, name, type(value)(guarded(value.__func__)))
        elif isinstance(value, property):
            getter, setter = _guarded_or_none(value.fget), _guarded_or_none(value.fset)
            setattr(guarded_class, name, property(getter, setter, value.fdel, value.__doc__))
        elif inspect.isfunction(value):
            setattr(guarded_class, name, guarded(value))
    return guarded_class


def guarded(function: F) -> F:
    """Return a function with the errors of this package only; also while its result is iterated over.

    Args:
        function: A public function or method.

    Returns:
        The function, with its name, signature and docstring.
    """

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            result = function(*args, **kwargs)
        except BaseException as error:
            if (own := bridge_error(error, lambda: _describe(function, args, kwargs))) is not None:
                raise own from error
            raise
        return _iterate(result, function, args, kwargs) if inspect.isgenerator(result) else result

    guard: Any = call
    return guard  # type: ignore[no-any-return]


def _guarded_or_none(function: F | None) -> F | None:
    return None if function is None else guarded(function)


def _iterate(
    results: Generator[Any, Any, Any], function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Generator[Any, Any, Any]:
    try:
        return (yield from results)
    except BaseException as error:
        if (own := bridge_error(error, lambda: _describe(function, args, kwargs))) is not None:
            raise own from error
        raise


def bridge_error(error: BaseException, describe: Callable[[], str]) -> BridgeError | None:
    """Return the error of this package that stands for another one.

    Args:
        error: The error, as it was caught.
        describe: Returns what was done and with which values, a sentence without its end.

    Returns:
        A child of BridgeError and of the error's own builtin type; None if the error is to pass as it is.
    """
    if isinstance(error, BridgeError) and vars(error).get(_UNFORESEEN):
        # Raised by a boundary behind this one, which knows less of what the caller gave.
        error = error.__cause__ or error
    # The error of a panic in Rust (tokenizers, safetensors) is none of Exception.
    is_panic = type(error).__name__ == "PanicException"
    if isinstance(error, _PASSING) or not (is_panic or isinstance(error, Exception)):
        return None
    if not is_panic and (_is_of_transformers(error) or _is_of_the_caller(error.__traceback__)):
        return None
    usual = ArgumentRuntimeError if is_panic else InputError
    kind = next((own for theirs, own in _KINDS if isinstance(error, theirs)), usual)
    own = kind(
        f"{describe()} ({type(error).__name__}: {_message(error)}). Check what was given against the documentation."
    )
    setattr(own, _UNFORESEEN, True)
    return own


def _is_of_transformers(error: BaseException) -> bool:
    """Whether the error is of a class of transformers' own, which its callers catch by that name."""
    return type(error).__module__.partition(".")[0] in ("transformers", "sentence_transformers")


def _is_of_the_caller(traceback: TracebackType | None) -> bool:
    """Whether code was running behind the boundary that is neither this package's nor its libraries'."""
    # The first frame is the guard's.
    frame = traceback.tb_next if traceback else None
    while frame is not None:
        if frame.tb_frame.f_globals.get("__name__", "").partition(".")[0] not in _LIBRARIES:
            return True
        frame = frame.tb_next
    return False


def _describe(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """Say what was called, with the arguments that are not of their types; with all if these are as they should be."""
    where = function.__qualname__.removesuffix(".__init__").removesuffix(".__call__")
    try:
        given = inspect.signature(function).bind(*args, **kwargs).arguments
    except (TypeError, ValueError):
        return f"{where}() failed"
    given = {name: value for name, value in given.items() if name not in ("self", "cls")}
    hints = _hints(function)
    wrong = {name: value for name, value in given.items() if not _fits(value, hints.get(name, Any))}
    parts = [
        f"{name}={_text(value)}" + (f", expected {_expected(hints[name])}" if name in wrong else "")
        for name, value in list((wrong or given).items())[:_MOST_ARGUMENTS]
    ]
    return f"{where}() got {'; '.join(parts)}" if parts else f"{where}() failed"


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(function)
    except (NameError, TypeError, AttributeError):  # names that only type checkers import
        return {}


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of an annotated type, as far as can be told at a glance."""
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, one) for one in get_args(hint))
    if origin is Literal:
        return any(value is one or (isinstance(value, type(one)) and value == one) for one in get_args(hint))
    if hint is Any:
        return True
    if hint is None:
        return value is None
    kind = origin or hint
    if kind is float:
        return isinstance(value, (int, float))
    return isinstance(value, kind) if isinstance(kind, type) else True


def _expected(hint: Any) -> str:
    text = hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint)
    # Without the modules of names.
    return re.sub(r"\b(\w+\.)+(?=\w)", "", text).replace("NoneType", "None")


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # an argument of it that cannot be printed
        return "no message"


def _text(value: Any) -> str:
    """Return the start of a value's repr, whatever that does."""
    try:
        text = repr(value)
    except Exception:  # integers of many digits, and classes of the caller's own
        text = f"<{type(value).__name__}>"
    text = " ".join(text[: 2 * _MOST_LETTERS].split())
    return text if len(text) <= _MOST_LETTERS else f"{text[:_MOST_LETTERS]}..."
