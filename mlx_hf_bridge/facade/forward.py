"""A facade's forward: the transformers class's own signature and outputs, computed by MLX."""

import inspect
import time
from collections.abc import Callable, Iterator
from functools import WRAPPER_ASSIGNMENTS, cache
from typing import Any, get_args, get_type_hints

import torch
from torch import nn
from torch.nn.modules import module as hooks
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from mlx_hf_bridge.errors import ForkedProcessError, InputError, TokenRangeError
from mlx_hf_bridge.facade.fallback import Bridge, fall_back_to_torch, first_parameter, get_bridge, lazy_parameters
from mlx_hf_bridge.facade.gradient import DeferredGradient
from mlx_hf_bridge.facade.torch_state import active_torch_state
from mlx_hf_bridge.pretrained.model import MLXPreTrainedModel

_SUPPORTED = set(inspect.signature(MLXPreTrainedModel.__call__).parameters) - {"self"}
# Options of a call that default to the config's value; every transformers class takes them.
_OPTIONS = ("output_hidden_states", "output_attentions", "return_dict")

# Hooks that torch.nn.modules.module.register_module_..._hook registers for every module, so for submodules too.
_GLOBAL_HOOKS = (
    "_global_forward_hooks",
    "_global_forward_pre_hooks",
    "_global_backward_hooks",
    "_global_backward_pre_hooks",
)

# Returned by tokenizers for every model; a forward with **kwargs that does not declare one ignores it.
_TOKENIZER_OUTPUTS = ("attention_mask", "token_type_ids")


def forward_for(hf_class: type[PreTrainedModel]) -> Callable[..., Any]:
    """Return the forward method for facades of a transformers class; torch.compile skips it.

    Args:
        hf_class: The transformers class, whose signature and docstring the method has.

    Returns:
        The method.
    """
    signature = inspect.signature(hf_class.forward)
    extra = {name for name, item in signature.parameters.items() if item.kind is item.VAR_KEYWORD}
    supported = _SUPPORTED & {*signature.parameters, *_OPTIONS}
    ignored = set(_TOKENIZER_OUTPUTS) - set(signature.parameters) if extra else set()

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        bridge = get_bridge(self)
        if bridge is None:  # a bound method that was taken before the facade became the torch model
            return self.forward(*args, **kwargs)
        # By the class's own signature, so that wrong arguments give torch's TypeError.
        given = dict(signature.bind(self, *args, **kwargs).arguments)
        given.pop("self")
        for name in extra:
            given |= given.pop(name, {})
        for name in ignored:
            given.pop(name, None)
        # Arguments that only this model type has (`bbox`) are computed where the class takes them.
        own = set(bridge.model.loaded.config.extra_inputs) & set(signature.parameters)
        if reason := _unsupported(self, bridge, given, supported | own):
            fall_back_to_torch(self, reason)
            return self.forward(*args, **kwargs)
        try:
            return _compute(self, bridge, hf_class, given)
        except TokenRangeError:  # torch raises an IndexError here too
            raise
        except (InputError, ForkedProcessError) as error:
            # Without a torch model to fall back to, the error is the answer.
            if bridge.fall_back is None:
                raise
            fall_back_to_torch(self, f"MLX does not support the call ({error})")
            return self.forward(*args, **kwargs)

    # torch.compile cannot trace MLX's calls.
    uncompiled: Any = torch.compiler.disable(forward)
    for name in WRAPPER_ASSIGNMENTS:
        setattr(uncompiled, name, getattr(hf_class.forward, name))
    uncompiled.__wrapped__ = hf_class.forward
    method: Callable[..., Any] = uncompiled
    return method


def _unsupported(model: nn.Module, bridge: Bridge, given: dict[str, Any], supported: set[str]) -> str:
    """Return what MLX does not support of a call, as the middle of a sentence; "" if it supports the call."""
    if model.training:
        return "forward was called in training mode"
    if any(getattr(hooks, name) for name in _GLOBAL_HOOKS):
        return "hooks of all modules were registered"
    if others := [
        name for name, value in given.items() if name not in supported and value is not None and value is not False
    ]:
        return f"forward was given {', '.join(others)}"
    if state := active_torch_state(first_parameter(model).device.type, list(given.values())):
        return state
    vectors = given.get("inputs_embeds")
    if vectors is not None and vectors.requires_grad and torch.is_grad_enabled():
        return "inputs_embeds requires a gradient"
    return ""


def _compute(model: nn.Module, bridge: Bridge, hf_class: Any, given: dict[str, Any]) -> Any:
    options = {name: _option(model.config, name, given) for name in _OPTIONS}
    known = _SUPPORTED | set(bridge.model.loaded.config.extra_inputs)
    arrays = {name: value for name, value in given.items() if name in known and name not in _OPTIONS}
    as_dict = options.pop("return_dict")
    dtype, output_class = model.dtype, _output_class(hf_class)

    def compute() -> Any:
        start = time.perf_counter()
        output = _as_class(output_class, bridge.model(**arrays, **options, return_dict=True))
        # MLX computes in its own dtype; callers get the one that the model claims to have.
        output = tree_map(lambda tensor: tensor.to(dtype), output)
        if bridge.on_call:
            bridge.on_call(time.perf_counter() - start)
        return output

    def compute_on_torch() -> Any:
        fall_back_to_torch(model, "a gradient was requested")
        return model(**given)

    requires_grad = any(parameter.requires_grad for parameter in lazy_parameters(model).values())
    if bridge.fall_back and requires_grad and torch.is_grad_enabled():
        output = _differentiable(compute, compute_on_torch)
    else:
        output = compute()
    return output if as_dict else output.to_tuple()


def _option(config: Any, name: str, given: dict[str, Any]) -> bool:
    value = given.get(name)
    return bool(getattr(config, name, name == "return_dict") if value is None else value)


def _differentiable(compute: Callable[[], Any], compute_on_torch: Callable[[], Any]) -> Any:
    """Return MLX's outputs in torch's graph; the torch model computes their gradients when backward() is called."""
    specs = []

    def leaves() -> tuple[torch.Tensor, ...]:
        flat, spec = tree_flatten(compute())
        specs.append(spec)
        return tuple(flat)

    # What makes the outputs require a gradient; it has no elements.
    leaf = torch.empty(0, requires_grad=True)
    outputs = DeferredGradient.apply(leaf, leaves, lambda: tree_flatten(compute_on_torch())[0])
    return tree_unflatten(list(outputs), specs[0])


def _as_class(output_class: Any, output: Any) -> Any:
    # Outputs that the class lacks would be an error of its constructor.
    fits = output_class is not None and set(output) <= set(output_class.__dataclass_fields__)
    return output_class(**output) if fits else output


@cache
def _output_class(hf_class: Any) -> type[ModelOutput] | None:
    """Return the output class in forward's return annotation."""
    hint = get_type_hints(hf_class.forward).get("return")
    return next(_output_classes(hint), None)


def _output_classes(hint: Any) -> Iterator[type[ModelOutput]]:
    if isinstance(hint, type) and issubclass(hint, ModelOutput):
        yield hint
    for part in get_args(hint):
        yield from _output_classes(part)
