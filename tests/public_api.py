"""The public functions and objects of the package, found in its own modules, and bad arguments for all of them."""

import importlib
import inspect
import os
import pkgutil
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

import mlx_hf_bridge
from mlx_hf_bridge.errors import BridgeError

# Rooms of which every name needs a package that is not installed, or is transformers' own file.
NOT_WALKED = ("mlx_hf_bridge.integrations", "mlx_hf_bridge.pipelines.transformers_tasks", "mlx_hf_bridge.__main__")


class Endless:
    """An object whose repr is endless, for a message."""

    def __repr__(self) -> str:
        return "x" * 10**5


# Values that are wrong nearly everywhere; functions of none where a value is used up.
BAD: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "an integer": lambda: 5,
    "a negative integer": lambda: -1,
    "an integer of 64 bits": lambda: 2**63,
    "an integer of 400 digits": lambda: 10**400,
    "an integer that cannot be printed": lambda: 10**5000,
    "true": lambda: True,
    "NaN": lambda: float("nan"),
    "infinity": lambda: float("inf"),
    "a complex number": lambda: 1j,
    "no text": lambda: "",
    "a text": lambda: "the cat",
    "a long text": lambda: "x" * 2500,
    "a lone surrogate": lambda: "a\ud800",
    "NUL": lambda: "a\0b",
    "bytes": lambda: b"\xff",
    "an empty list": list,
    "a list of None": lambda: [None],
    "a list of lists": lambda: [[]],
    "a list of surrogates": lambda: ["\ud800"],
    "a list of long texts": lambda: ["x" * 2500] * 3,
    "an empty dict": dict,
    "a dict": lambda: {"a": 5},
    "a dict of integers": lambda: {5: 5},
    "a set": lambda: {1},
    "a tuple": lambda: (1, "a"),
    "an object": object,
    "an object of a long repr": Endless,
    "a function": lambda: lambda: 0,
    "a class": lambda: dict,
    "an iterator": lambda: iter([5]),
    "an array": lambda: np.ones((2, 3)),
    "an array of NaN": lambda: np.full((2, 24), np.nan),
    "an array of objects": lambda: np.array([None, {}], dtype=object),
    "an array of texts": lambda: np.array(["a", "b"]),
    "a file": lambda: Path(__file__),
    "a path below a file": lambda: Path(__file__, "inside"),
    "a name that is not UTF-8": lambda: os.fsdecode(b"folder/\xff"),
}
VECTORS = np.ones((2, 24), np.float32)
# Valid values of arguments without a default; others get a text.
VALID: dict[str, Any] = {
    **{name: ["the cat", "a dog"] for name in ("sentences", "inputs", "texts", "documents")},
    **dict.fromkeys(("embeddings", "embeddings1", "embeddings2", "query_embeddings", "corpus_embeddings"), VECTORS),
    "input": {"input_ids": np.array([[2, 5, 3]]), "attention_mask": np.array([[1, 1, 1]])},
    "task": "feature-extraction",
    "repo_id": "me/x",
}


def public_names() -> dict[str, Any]:
    """Return what the modules of the package export in `__all__`, other than errors, by its dotted name."""
    found: dict[str, Any] = {}
    for module in pkgutil.walk_packages(mlx_hf_bridge.__path__, "mlx_hf_bridge."):
        if module.name.startswith(NOT_WALKED):
            continue
        exported = importlib.import_module(module.name)
        for name in getattr(exported, "__all__", ()):
            if not _is_error(getattr(exported, name)):
                found.setdefault(f"{module.name}.{name}", getattr(exported, name))
    return found | {f"mlx_hf_bridge.{name}": getattr(mlx_hf_bridge, name) for name in _top_level()}


def _top_level() -> list[str]:
    return [name for name in mlx_hf_bridge.__all__ if not _is_error(getattr(mlx_hf_bridge, name))]


def _is_error(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, Exception)


def public_functions() -> dict[str, Callable[..., Any]]:
    """Return the functions, and the constructors and from_pretrained of the classes, by name, each once."""
    found: dict[str, Callable[..., Any]] = {}
    for name, value in public_names().items():
        short = name.rpartition(".")[2]
        if isinstance(value, type):
            found[short] = getattr(value, "from_pretrained", value)
        elif callable(value):
            found[short] = value
    return found


def public_methods(owner: Any) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield the public methods of an object, its call, and the setters of its properties."""
    for name in sorted(dir(type(owner))):
        if name.startswith("_") and name != "__call__":
            continue
        static = inspect.getattr_static(type(owner), name)
        if isinstance(static, property):
            if static.fset is not None:
                yield f"{name} =", partial(static.fset, owner)
        elif callable(getattr(owner, name)):
            yield name, getattr(owner, name)


def calls(name: str, function: Callable[..., Any], many: bool) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield calls of a function with one bad argument each, and a text that says which.

    Args:
        name: The function's name.
        function: The function.
        every: Whether each argument gets every bad value, rather than three that differ from argument to argument.
    """
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # of a type written in C
        return
    named = [one for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
    valid = {one.name: VALID.get(one.name, "the cat") for one in named if one.default is one.empty}
    yield f"{name}() with valid arguments", lambda: function(**valid)
    for one in named:
        first = crc32(f"{name} {one.name}".encode())
        chosen = list(BAD) if many else [list(BAD)[(first + step) % len(BAD)] for step in (0, 13, 26)]
        for bad in chosen:
            yield f"{name}({one.name}={bad})", lambda key=one.name, bad=bad: function(**{**valid, key: BAD[bad]()})
    if any(one.kind is one.VAR_KEYWORD for one in parameters):
        yield f"{name}(no_such_argument=5)", lambda: function(**valid, no_such_argument=5)


def foreign(label: str, call: Callable[[], Any], others: tuple[str, ...] = ()) -> str | None:
    """Return what is wrong with the error of a call; None for a result, or an error as it should be.

    Args:
        label: What is called.
        call: The call.
        others: Packages whose own classes of errors, and errors raised in their own code, are as they should be.
    """
    try:
        result = call()
        if inspect.isgenerator(result):
            list(result)
    except BridgeError as error:
        text = str(error)
        if len(text) > 2000 or not text.replace("\n", " ").replace("\t", " ").isprintable():
            return f"{label}: {len(text)} characters: {text[:80]!r}"
    except BaseException as error:
        # Python's own answer to an argument that a signature does not have.
        if isinstance(error, TypeError) and "unexpected keyword argument" in str(error):
            return None
        if {type(error).__module__.partition(".")[0], _raised_in(error)} & set(others):
            return None
        return f"{label}: {type(error).__name__}: {error!s:.200}"
    return None


def _raised_in(error: BaseException) -> str:
    """Return the package whose code raised an error."""
    frames = list(traceback.walk_tb(error.__traceback__))
    return str(frames[-1][0].f_globals.get("__name__", "")).partition(".")[0]
