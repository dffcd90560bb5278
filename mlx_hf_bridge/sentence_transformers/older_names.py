"""Older names of arguments and methods that sentence-transformers still takes, with its warnings.

Reference: sentence_transformers/util/decorators.py; tests/test_st_older_names.py reads its uses.
"""

import functools
import inspect
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

from mlx_hf_bridge.errors import ArgumentTypeError

logger = logging.getLogger(__name__)

F = TypeVar("F", bound=Callable[..., Any])
# Messages that were logged: once for each process, as by transformers' warning_once.
_logged: set[str] = set()


def _warn_once(message: str) -> None:
    if message not in _logged:
        _logged.add(message)
        logger.warning(message)


def older_names(renames: Mapping[str, str], without_effect: Sequence[str] = ()) -> Callable[[F], F]:
    """Return a decorator that lets a function take arguments by older names.

    Args:
        renames: Today's names by older ones; a value that is given by both names is taken from today's.
        without_effect: Names of arguments that are accepted and ignored.

    Returns:
        A decorator; the function gets today's names only.
    """

    def decorate(function: F) -> F:
        # As older versions of the class say it: "encode", or the class for its constructor.
        where = function.__qualname__.removesuffix(".__init__")

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            for old in without_effect:
                if old in kwargs:
                    _warn_once(f"The {where} `{old}` argument is deprecated and has no effect. Leave it out.")
                    del kwargs[old]
            for old, new in renames.items():
                if old in kwargs:
                    _warn_once(f"The {where} `{old}` argument was renamed and is now deprecated. Use `{new}` instead.")
                    value = kwargs.pop(old)
                    kwargs.setdefault(new, value)
            return function(*args, **kwargs)

        target: Any = wrapper
        target.older_names = (*renames, *without_effect, *getattr(function, "older_names", ()))
        return cast(F, wrapper)

    return decorate


def older_positions(names: Sequence[str]) -> Callable[[F], F]:
    """Return a decorator that lets a constructor take keyword arguments by position, after the model's name.

    Args:
        names: The keyword arguments in the order of their older positions.

    Returns:
        A decorator for `__init__`.
    """

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
            # More than these stay where they are, for the error of the constructor.
            for name, value in zip(names, args[1 : len(names) + 1], strict=False):
                _warn_once(f"Passing `{name}` to {type(self).__name__} by position is deprecated. Pass it by name.")
                kwargs.setdefault(name, value)
            return function(self, *args[:1], *args[len(names) + 1 :], **kwargs)

        target: Any = wrapper
        target.older_positions = tuple(names)
        return cast(F, wrapper)

    return decorate


def deprecated(message: str, category: type[Warning] = DeprecationWarning) -> Callable[[F], F]:
    """Return a decorator that warns at every call of a method.

    Args:
        message: What to use instead.
        category: The class of the warning. Default: DeprecationWarning.

    Returns:
        A decorator.
    """

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            # The guard of the public API stands between.
            warnings.warn(message, category, stacklevel=3)
            return function(*args, **kwargs)

        return cast(F, wrapper)

    return decorate


def check_constructor_arguments(owner: object, init: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Raise an error that is clear for arguments that a constructor does not take.

    Args:
        owner: The object that is constructed.
        init: Its `__init__`, with the complete signature.
        args: The arguments by position.
        kwargs: The arguments by name.

    Raises:
        ArgumentTypeError: If an argument is not known, or more than the model's name is given by position.
    """
    name = type(owner).__name__
    known = [one for one in inspect.signature(init).parameters if one not in ("self", "kwargs")]
    unknown = sorted(set(kwargs) - {*known, *getattr(init, "older_names", ())})
    if unknown:
        raise ArgumentTypeError(
            f"{name}() got {', '.join(unknown)}, which it does not take; it takes {', '.join(known)}. Leave it out, or "
            "give options of the encoder in model_kwargs, of the tokenizer in processor_kwargs."
        )
    if len(args) > 1 + len(getattr(init, "older_positions", ())):
        raise ArgumentTypeError(
            f"{name}() got {len(args)} arguments by position, expected the model's name alone. Pass the others by name."
        )
