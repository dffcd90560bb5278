"""A facade's forward: the transformers class's own signature and outputs, computed by MLX."""

import inspect
import time
from collections.abc import Callable, Iterator
from functools import WRAPPER_ASSIGNMENTS, cache
from typing import Any, get_args, get_type_hints

import torch
from torch import nn
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from mlx_hf_bridge.errors import ForkedProcessError, InputError, TokenRangeError
from mlx_hf_bridge.facade.fallback import Bridge, fall_back_to_torch, get_bridge, get_probe
from mlx_hf_bridge.facade.gradient import DeferredGradient
from mlx_hf_bridge.pretrained.model import MLXPreTrainedModel

_SERVED = set(inspect.signature(MLXPreTrainedModel.__call__).parameters) - {"self"}
# Settings of a call that stand in the config where the caller is silent; transformers' classes take them all.
_ASKED = ("output_hidden_states", "output_attentions", "return_dict")

# What tokenizers give to every model; a forward that does not declare one, and takes anything, ignores it.
_OF_TOKENIZERS = ("attention_mask", "token_type_ids")


def forward_for(hf_class: type[PreTrainedModel]) -> Callable[..., Any]:
    """The forward of a facade of this class, which torch.compile leaves alone."""
    signature = inspect.signature(hf_class.forward)
    extra = {name for name, item in signature.parameters.items() if item.kind is item.VAR_KEYWORD}
    served = _SERVED & {*signature.parameters, *_ASKED}
    swallowed = set(_OF_TOKENIZERS) - set(signature.parameters) if extra else set()

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        bridge = get_bridge(self)
        if bridge is None:  # a bound method that was taken before the facade became the torch model
            return self.forward(*args, **kwargs)
        given = dict(signature.bind(self, *args, **kwargs).arguments)
        given.pop("self")
        for name in extra:
            given |= given.pop(name, {})
        for name in swallowed:
            given.pop(name, None)
        if refused := _refused(self, bridge, given, served):
            fall_back_to_torch(self, refused)
            return self.forward(*args, **kwargs)
        try:
            return _answered(self, bridge, hf_class, given)
        except TokenRangeError:  # torch refuses these too
            raise
        except (InputError, ForkedProcessError) as error:
            if bridge.fall_back is None:
                raise
            fall_back_to_torch(self, f"MLX refused the call ({error})")
            return self.forward(*args, **kwargs)

    compiled_around: Any = torch.compiler.disable(forward)
    for name in WRAPPER_ASSIGNMENTS:
        setattr(compiled_around, name, getattr(hf_class.forward, name))
    compiled_around.__wrapped__ = hf_class.forward
    served_forward: Callable[..., Any] = compiled_around
    return served_forward


def _refused(model: nn.Module, bridge: Bridge, given: dict[str, Any], served: set[str]) -> str:
    """What of a call MLX does not serve, as the middle of a sentence; "" = nothing."""
    if model.training:
        return "forward was called in training mode"
    if others := [
        name for name, value in given.items() if name not in served and value is not None and value is not False
    ]:
        return f"forward was given {', '.join(others)}"
    vectors = given.get("inputs_embeds")
    if vectors is not None and vectors.requires_grad and torch.is_grad_enabled():
        return "inputs_embeds asks for a gradient"
    return ""


def _answered(model: nn.Module, bridge: Bridge, hf_class: Any, given: dict[str, Any]) -> Any:
    asked = {name: _asked(model.config, name, given) for name in _ASKED}
    arrays = {name: value for name, value in given.items() if name in _SERVED and name not in _ASKED}
    as_dict = asked.pop("return_dict")
    probe, wanted = get_probe(model), _output_class(hf_class)

    def compute() -> Any:
        start = time.perf_counter()
        output = _as_class(wanted, bridge.model(**arrays, **asked, return_dict=True))
        output = tree_map(lambda tensor: tensor.to(probe.dtype), output)
        if bridge.on_call:
            bridge.on_call(time.perf_counter() - start)
        return output

    def again() -> Any:
        fall_back_to_torch(model, "a gradient was asked for")
        return model(**given)

    if bridge.fall_back and probe.requires_grad and torch.is_grad_enabled():
        output = _differentiable(probe, compute, again)
    else:
        output = compute()
    return output if as_dict else output.to_tuple()


def _asked(config: Any, name: str, given: dict[str, Any]) -> bool:
    value = given.get(name)
    return bool(getattr(config, name, name == "return_dict") if value is None else value)


def _differentiable(probe: nn.Parameter, compute: Callable[[], Any], again: Callable[[], Any]) -> Any:
    """Answers that know how to get their gradients: by the torch model, when one is asked for."""
    specs = []

    def leaves() -> tuple[torch.Tensor, ...]:
        flat, spec = tree_flatten(compute())
        specs.append(spec)
        return tuple(flat)

    answers = DeferredGradient.apply(probe, leaves, lambda: tree_flatten(again())[0])
    return tree_unflatten(list(answers), specs[0])


def _as_class(wanted: Any, output: Any) -> Any:
    fits = wanted is not None and set(output) <= set(wanted.__dataclass_fields__)
    return wanted(**output) if fits else output


@cache
def _output_class(hf_class: Any) -> type[ModelOutput] | None:
    """The class that forward says it returns."""
    hint = get_type_hints(hf_class.forward).get("return")
    return next(_output_classes(hint), None)


def _output_classes(hint: Any) -> Iterator[type[ModelOutput]]:
    if isinstance(hint, type) and issubclass(hint, ModelOutput):
        yield hint
    for part in get_args(hint):
        yield from _output_classes(part)
