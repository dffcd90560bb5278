"""A facade's parameters: named, shaped and typed as the torch model's, whose values they get when those are needed."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

# What describes a parameter without its values. Everything else, methods of later torch versions too, needs the values;
# `is_leaf` is not here, so that an optimizer, which reads it, gets the parameters of the torch model.
_PROPERTIES = (
    *("device", "dtype", "grad", "grad_fn", "is_cpu", "is_cuda", "is_meta", "is_mps", "is_quantized", "is_sparse"),
    *("is_xla", "is_xpu", "itemsize", "layout", "nbytes", "ndim", "requires_grad", "retains_grad", "shape"),
)
_METHODS = (
    *("__len__", "dim", "element_size", "get_device", "is_complex", "is_floating_point", "ndimension", "nelement"),
    *("numel", "requires_grad_", "size"),
)
_NEEDS_NO_VALUES = {
    *(getattr(Tensor, name).__get__ for name in _PROPERTIES if hasattr(Tensor, name)),
    *(getattr(Tensor, name) for name in _METHODS),
    *(torch.is_complex, torch.is_floating_point, torch.numel, Tensor.requires_grad.__set__),  # type: ignore[attr-defined]
}


class LazyParameter(nn.Parameter):
    """A parameter that becomes the torch model's own, with its values, when they are read or written."""

    # Loads the torch model, given the reason; set on every instance.
    load: Callable[[str], None]

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Load the torch model before torch uses the values of a parameter.

        Args:
            func: torch's function, method or property.
            types: Types of the tensors; not used.
            args: Its arguments.
            kwargs: Its arguments by name.

        Returns:
            What the function returns.
        """
        if func not in _NEEDS_NO_VALUES:
            for value in tree_leaves((args, kwargs)):
                if isinstance(value, LazyParameter):
                    # A property's getter is named __get__; its property has the name that the caller wrote.
                    name = getattr(getattr(func, "__self__", None), "__name__", func.__name__)
                    value.load(f"the values of its parameters were requested ({name})")
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        self.load("its parameters were copied")
        # By now an ordinary parameter.
        return copy.deepcopy(self, memo)

    def __reduce_ex__(self, protocol: Any) -> Any:
        self.load("its parameters were pickled")
        return self.__reduce_ex__(protocol)


def lazy_parameter(
    shape: Sequence[int], dtype: torch.dtype, requires_grad: bool, load: Callable[[str], None]
) -> LazyParameter:
    """Create a parameter without memory for its values.

    Args:
        shape: Its shape.
        dtype: Its dtype.
        requires_grad: Whether it requires a gradient.
        load: Loads the torch model, given the reason, and hands its values over (`hand_over`).

    Returns:
        The parameter.
    """
    parameter = LazyParameter(_without_memory(shape, dtype), requires_grad)
    parameter.load = load
    return parameter


def _without_memory(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Return a tensor whose elements are all the same number in memory."""
    # An inference tensor could not be given the values later.
    with torch.inference_mode(False):
        return torch.zeros((), dtype=dtype, device="cpu").expand(tuple(shape))


def set_dtype(parameters: Mapping[str, Any], dtype: torch.dtype) -> None:
    """Change the dtype of lazy parameters in place, as torch.nn.Module.to does.

    Args:
        parameters: Name to lazy parameter.
        dtype: The new dtype.
    """
    with torch._C.DisableTorchFunctionSubclass():
        for parameter in parameters.values():
            parameter.data = _without_memory(parameter.shape, dtype)


def hand_over(parameters: Mapping[str, Any], real: nn.Module) -> None:
    """Turn lazy parameters into those of the torch model, so that whoever holds one holds the model's.

    Args:
        parameters: Name in the torch model to lazy parameter.
        real: The torch model; its parameters are replaced by these, with its values.
    """
    found = dict(real.named_parameters(remove_duplicate=False))
    replaced: dict[int, nn.Parameter] = {}
    for name, lazy in parameters.items():
        own = found[name]
        with torch._C.DisableTorchFunctionSubclass():
            lazy.data = own.data
        lazy.__class__ = type(own)
        lazy.__dict__ = dict(own.__dict__)
        replaced[id(own)] = lazy
    for module in real.modules():
        for key, parameter in module._parameters.items():
            # Tied parameters are in several places.
            module._parameters[key] = replaced.get(id(parameter), parameter)
