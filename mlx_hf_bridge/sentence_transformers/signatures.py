"""Signatures and argument descriptions that are written once and shared by several methods and constructors.

`inspect.signature`, `help()` and notebooks see the complete signature and docstring; type checkers and editors get
them from ParamSpec (methods) and from Unpack[ConstructorOptions] (constructors).
"""

import functools
import inspect
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, ParamSpec, TypeVar

from mlx_hf_bridge.sentence_transformers.older_names import check_constructor_arguments

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C", bound=type)

_SECTIONS = ("Args", "Returns", "Yields", "Raises", "Example")
# sentence-transformers' own arguments come first, and what this package adds comes last.
_FIRST_ADDED = "quantization_config"


def shares_docstring(
    source: Callable[P, R], without: Collection[str] = ()
) -> Callable[[Callable[..., Any]], Callable[P, R]]:
    """Return a decorator that gives a method the signature of another one, and the sections of its docstring.

    The decorated method is written with `*args` and `**kwargs`. Its own docstring comes first; an argument or a
    section that it describes itself is not taken from `source`.

    Args:
        source: The method whose arguments are shared, of the same class or a base class.
        without: Names of arguments of `source` that the decorated method does not take.

    Returns:
        A decorator for a method that passes its arguments on to `source`.
    """

    def decorate(method: Callable[..., Any]) -> Any:
        signature = inspect.signature(source)
        kept = [parameter for name, parameter in signature.parameters.items() if name not in without]
        target: Any = method
        # What help() and editors show; calls are not affected.
        target.__signature__ = signature.replace(parameters=kept)
        target.__annotations__ = {
            name: annotation for name, annotation in source.__annotations__.items() if name not in without
        }
        target.__doc__ = merge_docstrings(method.__doc__, source.__doc__, (parameter.name for parameter in kept))
        return target

    return decorate


def extends_constructor(base: type, before: Mapping[str, str] | None = None) -> Callable[[C], C]:
    """Return a class decorator that completes the constructor's signature and the class docstring from a base class.

    The class's `__init__` names the arguments that it adds, and passes `**kwargs: Unpack[ConstructorOptions]` on.

    Args:
        base: The class whose constructor takes the other arguments.
        before: For an added argument, the argument of `base` that it stands before; otherwise added arguments stand
            before `quantization_config`, the first one that sentence-transformers does not have.

    Returns:
        A decorator for a subclass of `base`.
    """

    def decorate(cls: C) -> C:
        shared, given = _parameters(base), _parameters(cls)
        added = [name for name, one in given.items() if name not in shared and one.kind is one.KEYWORD_ONLY]
        merged: list[inspect.Parameter] = []
        for name, parameter in shared.items():
            merged += [given[one] for one in added if (before or {}).get(one, _FIRST_ADDED) == name]
            merged.append(parameter)
        target: Any = cls
        target.__init__ = _checked(target.__init__)
        target.__init__.__signature__ = inspect.Signature(merged, return_annotation=None)
        target.__doc__ = merge_docstrings(cls.__doc__, base.__doc__, (parameter.name for parameter in merged))
        return cls

    return decorate


def _checked(init: Any) -> Any:
    """Return a constructor that names arguments which it does not take, and those that it takes."""

    @functools.wraps(init)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> None:
        check_constructor_arguments(self, wrapper, args, kwargs)
        init(self, *args, **kwargs)

    return wrapper


def _parameters(cls: type) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(vars(cls)["__init__"]).parameters


def merge_docstrings(own: str | None, shared: str | None, names: Iterable[str]) -> str | None:
    """Return a Google-style docstring with the sections that it lacks, and the arguments that it lacks, from another.

    Args:
        own: The docstring to complete; None under `python -OO`, which then is returned.
        shared: The docstring that the rest is taken from.
        names: The arguments to describe, in order; others are dropped from "Args:".

    Returns:
        The summary of `own` with the sections of both, indented as `inspect.cleandoc` leaves them.
    """
    if own is None or shared is None:
        return own
    summary, sections = _split(own)
    _, others = _split(shared)
    described = _entries(others.get("Args", "")) | _entries(sections.get("Args", ""))
    args = "".join(described[name] for name in names if name in described)
    merged = {**others, **sections, **({"Args": args} if args else {})}
    parts = [summary, *(f"{name}:\n{merged[name].rstrip()}" for name in _SECTIONS if name in merged)]
    return "\n\n".join(parts)


def _split(doc: str) -> tuple[str, dict[str, str]]:
    """The text before the first section, and the lines of each section by its heading."""
    pieces = re.split(rf"^({'|'.join(_SECTIONS)}):\n", inspect.cleandoc(doc) + "\n", flags=re.MULTILINE)
    return pieces[0].rstrip(), dict(zip(pieces[1::2], pieces[2::2], strict=True))


def _entries(args: str) -> dict[str, str]:
    """The lines of an "Args:" section by the argument that they describe."""
    blocks = [block.rstrip() + "\n" for block in re.split(r"^(?= {4}[\w*])", args, flags=re.MULTILINE) if block.strip()]
    return {block.lstrip(" *").partition(":")[0].partition(" ")[0]: block for block in blocks}
