"""A container's walk through its modules, when it comes to a facade.

torch.nn.Module lists modules, parameters and buffers through `named_modules` of its children. Parameters are lazy
(parameters.py), so listing them costs nothing. Submodules and buffers exist only in the torch model, so that a walk
which goes on beyond the facade falls back to torch.
"""

import sys
from collections.abc import Iterator
from typing import Any

from torch import nn

from mlx_hf_bridge.facade.fallback import add_parameters, fall_back_to_torch, first_parameter, get_bridge

_TORCH = nn.Module.__module__
# Functions and modules that list parts of a container for inference, and only read a device or look for an object of
# their own (checked in sentence-transformers 6.2 and accelerate 1.15); torch.compile leaves a facade's forward alone.
_HARMLESS_CALLERS = (
    "accelerate.accelerator.verify_device_map",
    "accelerate.utils.other",
    "sentence_transformers.base.model",
    "sentence_transformers.sparse_encoder.model_card",
    "torch._dynamo",
)


def walk(model: Any, memo: set[Any], prefix: str, remove_duplicate: bool) -> Iterator[tuple[str, Any]]:
    """Yield a facade to a container, and its submodules if the walk goes on.

    Args:
        model: The facade.
        memo: The modules that the container has seen.
        prefix: The facade's name within the container.
        remove_duplicate: As in torch.nn.Module.

    Yields:
        Names and modules.
    """
    # As torch does: a module that two attributes share is listed once.
    if model in memo:
        return
    functions, caller = _callers()
    lists_parameters, lists_buffers = "named_parameters" in functions, "named_buffers" in functions
    if caller.startswith(_HARMLESS_CALLERS):
        memo.add(model)
        yield prefix, model
        return
    # With duplicates, tied parameters have several names.
    if (lists_parameters and not remove_duplicate) or (lists_buffers and _has_buffers(model)):
        fall_back_to_torch(model, f"its {'parameters' if lists_parameters else 'buffers'} were requested")
        yield from model.named_modules(memo, prefix, remove_duplicate)
        return
    if remove_duplicate:
        memo.add(model)
    if lists_parameters:
        first = first_parameter(model)
        add_parameters(model, first.dtype, first.requires_grad, most=None)
    yield prefix, model
    if not (lists_parameters or lists_buffers):
        fall_back_to_torch(model, "its submodules were requested")
        for name, child in model.named_children():
            yield from child.named_modules(memo, f"{prefix}.{name}" if prefix else name, remove_duplicate)


def _callers() -> tuple[list[str], str]:
    """Return the functions of torch.nn.Module that walk, and the module and name of the function that called them."""
    frame = sys._getframe(2)
    functions = []
    while frame.f_back is not None and frame.f_globals.get("__name__") == _TORCH:
        functions.append(frame.f_code.co_name)
        frame = frame.f_back
    return functions, f"{frame.f_globals.get('__name__')}.{frame.f_code.co_name}"


def _has_buffers(model: Any) -> bool:
    bridge = get_bridge(model)
    return bridge is not None and bridge.shape is not None and next(bridge.shape.buffers(), None) is not None
