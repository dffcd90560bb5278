"""What torch does to every operation in a `with` block, and MLX does not: autocast, function transforms, modes."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch.autograd import forward_ad
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import _get_current_dispatch_mode


def active_torch_state(device_type: str, tensors: list[Any]) -> str:
    """Return which state of torch changes the result of its operations at this moment.

    Args:
        device_type: Type of the device that the model claims to be on ("cpu", "mps", "cuda").
        tensors: The tensors that a call is given; other objects are ignored.

    Returns:
        The middle of a sentence; "" if no such state is active.
    """
    if torch.is_autocast_enabled(device_type):
        return "forward was called under torch.autocast"
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return "forward was called inside a function transform (torch.func)"
    if _get_current_dispatch_mode() is not None or any(
        # The device for new tensors is such a mode too, and changes no result.
        not isinstance(mode, DeviceContext)
        for mode in _get_current_function_mode_stack()
    ):
        return "forward was called under a mode that sees every operation of torch"
    if any(
        isinstance(tensor, torch.Tensor)
        and tensor.is_floating_point()
        and forward_ad.unpack_dual(tensor).tangent is not None
        for tensor in tensors
    ):
        return "forward was given a dual tensor of forward-mode differentiation"
    return ""


@contextmanager
def without_torch_state() -> Iterator[None]:
    """Suspend the state of torch that would change a model that is loaded inside the `with` block.

    Parameters made in inference mode cannot be trained later, and function transforms refuse what loading does.

    Yields:
        Nothing.
    """
    with torch.inference_mode(False), temporarily_clear_interpreter_stack():
        yield
