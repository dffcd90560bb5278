"""Functions compiled by mx.compile, one for each shape, and no more of them than memory should hold."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import mlx.core as mx

# mx.compile keeps a trace for each shape. Beyond this number of them the least recently used one is dropped.
MAX_COMPILED_SHAPES = 64
# Sizes are rounded up in so many steps from one power of two to the next: padding adds less than an eighth.
_STEPS = 8


class CompiledCalls:
    """Functions compiled by mx.compile, by a key such as the shapes of their arguments.

    MLX's own cache of traces belongs to a thread, so each thread has functions of its own.
    """

    def __init__(self) -> None:
        self._local = threading.local()

    def __len__(self) -> int:
        return len(self._calls)

    @property
    def _calls(self) -> "OrderedDict[Hashable, Callable[..., Any]]":
        if not hasattr(self._local, "calls"):
            self._local.calls = OrderedDict()
        calls: OrderedDict[Hashable, Callable[..., Any]] = self._local.calls
        return calls

    def get(self, key: Hashable, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the compiled function of a key.

        Args:
            key: What the trace depends on besides the arrays that are passed.
            function: The function to compile if none has this key.

        Returns:
            The compiled function.
        """
        calls = self._calls
        # Popped and put back, which moves the key to the end: the order is that of use.
        call = calls.pop(key, None) or mx.compile(function)
        calls[key] = call
        while len(calls) > MAX_COMPILED_SHAPES:
            calls.popitem(last=False)
        return call

    def __reduce__(self) -> tuple[type["CompiledCalls"], tuple[()]]:
        # Copies, and models in other processes, compile for themselves.
        return CompiledCalls, ()


def rounded_up(size: int) -> int:
    """Return the size that arrays are padded to, so that few shapes are compiled.

    Args:
        size: Number of texts or of tokens, 1 or more.

    Returns:
        The next of eight steps to the next power of two: 17 becomes 18, and 500 becomes 512.
    """
    step = max(1, (1 << (size - 1).bit_length()) // (2 * _STEPS))
    return -(-size // step) * step


def arrays_of(module: Any) -> list[mx.array]:
    """Return the arrays of a module and the modules below it, those that are no parameters included.

    Args:
        module: An nn.Module, or a dict or list of them.

    Returns:
        The arrays, in the order of the attributes.
    """
    return [owner[key] for owner, key in _slots(module, [])]


def called_with(module: Any, arrays: list[mx.array], function: Callable[..., Any], *args: Any) -> Any:
    """Call a function while a module has other arrays, so that a trace takes its weights as arguments.

    A trace that took them as constants would not see that they are changed later.

    Args:
        module: An nn.Module, or a dict or list of them.
        arrays: An array for each one of `arrays_of(module)`.
        function: What to call.
        *args: Its arguments.

    Returns:
        What the function returns.
    """
    slots = _slots(module, [])
    before = [owner[key] for owner, key in slots]
    try:
        for (owner, key), array in zip(slots, arrays, strict=True):
            owner[key] = array
        return function(*args)
    finally:
        for (owner, key), array in zip(slots, before, strict=True):
            owner[key] = array


def _slots(tree: Any, found: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """Append each array's container and key to a list, and return the list."""
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        if isinstance(value, mx.array):
            found.append((tree, key))
        elif isinstance(value, (dict, list)):
            _slots(value, found)
    return found
