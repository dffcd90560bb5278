"""Build facades: the subclass of a transformers class, and an instance of it without weights."""

import copy
import inspect
from collections.abc import Callable
from functools import cache, wraps
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from mlx_hf_bridge.facade.fallback import (
    BRIDGE,
    Bridge,
    add_parameters,
    fall_back_to_torch,
    lazy_parameters,
    own_attributes,
)
from mlx_hf_bridge.facade.forward import forward_for
from mlx_hf_bridge.facade.model import Facade
from mlx_hf_bridge.facade.parameters import set_dtype

# Methods that work unchanged: they only read the class and the config, or call methods that Facade overrides.
_INHERITED = {
    "add_model_tags",
    "bfloat16",
    "double",
    "eval",
    "extra_repr",
    "float",
    "get_compiled_call",
    "get_correct_attn_implementation",
    "get_correct_experts_implementation",
    "get_experts_implementation",
    "half",
    "type",
    "warn_if_padding_and_no_attention_mask",
}


def build_facade(hf_class: Any, bridge: Bridge, config: PretrainedConfig) -> Any:
    """Build a facade in evaluation mode, with the attributes that the transformers class sets but without its weights.

    Args:
        hf_class: The transformers class.
        bridge: The MLX model behind the facade, and how to fall back to torch.
        config: The object to use as `.config`.

    Returns:
        The facade, an instance of a subclass of `hf_class`.
    """
    bridge.shape = _shape(hf_class, config, "pooler" in bridge.model.loaded.model)
    # __init__ of the transformers class would allocate its weights.
    model = object.__new__(_class_for(hf_class))
    nn.Module.__init__(model)
    fresh = set(model.__dict__)
    model.__dict__.update({name: value for name, value in bridge.shape.__dict__.items() if name not in fresh})
    model.__dict__[BRIDGE] = bridge
    add_parameters(model, bridge.dtype)
    return model.eval()


def _shape(hf_class: type[PreTrainedModel], config: PretrainedConfig, pooler: bool) -> PreTrainedModel:
    """Build the torch model on the meta device, which takes no memory and does not advance the random state."""
    takes_pooler = "add_pooling_layer" in inspect.signature(hf_class.__init__).parameters
    # Tensors on the meta device have shapes and no memory.
    with torch.device("meta"):
        return hf_class(config, add_pooling_layer=pooler) if takes_pooler else hf_class(config)


@cache
def _class_for(hf_class: Any) -> type[Any]:
    """Return the subclass under the name of its parent, by which pipelines and libraries know a model's task."""
    names = (name for name in dir(hf_class) if not name.startswith("_"))
    # getattr_static runs no properties or descriptors.
    methods = {name: inspect.getattr_static(hf_class, name) for name in names}
    guarded = {
        name: _guard(name, method)
        for name, method in methods.items()
        # Every public method that is not known to be harmless: methods of later transformers versions fall back too.
        if inspect.isfunction(method) and name not in _INHERITED and name not in Facade.__dict__
    }
    own = {
        "__module__": hf_class.__module__,
        "__qualname__": hf_class.__qualname__,
        "__doc__": hf_class.__doc__,
        "__reduce_ex__": _reduce,
        "__deepcopy__": _copy,
        "_load_from_state_dict": _guard("_load_from_state_dict", nn.Module._load_from_state_dict, "load_state_dict"),
        "forward": forward_for(hf_class),
    }
    # Cached by `cache`, so that all facades of a class have one type.
    return type(hf_class.__name__, (Facade, hf_class), guarded | own)


def _guard(name: str, method: Callable[..., Any], public: str | None = None) -> Callable[..., Any]:
    """Wrap a method that needs torch so that it falls back first; `public` is the name that callers know it by."""

    @wraps(method)
    def guarded(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        fall_back_to_torch(self, f"{public or name}() was called")
        return getattr(self, name)(*args, **kwargs)

    return guarded


def _hf_class(model: Facade) -> type[PreTrainedModel]:
    bases: tuple[type, ...] = type(model).__bases__
    return bases[1]


def _copy(model: Facade, memo: dict[int, Any]) -> Facade:
    """Copy a facade; the copy shares the MLX model, which is never modified."""
    bridge = model.__dict__[BRIDGE]
    config = copy.deepcopy(model.config, memo)
    copied: Facade = build_facade(
        _hf_class(model), Bridge(bridge.model, bridge.dtype, bridge.fall_back, bridge.on_call), config
    )
    # Before its attributes are copied, since one of them may refer to the model.
    memo[id(model)] = copied
    _restore(copied, copy.deepcopy(_own_state(model), memo))
    return copied


def _reduce(model: Facade, protocol: Any) -> tuple[Any, ...]:
    """Pickle a facade by reference: unpickling reads the converted folder again."""
    bridge = model.__dict__[BRIDGE]
    parts = (bridge.model, bridge.dtype, bridge.fall_back, bridge.on_call)
    return _rebuild, (_hf_class(model), parts, model.config, _own_state(model))


def _rebuild(
    hf_class: type[PreTrainedModel], parts: tuple[Any, ...], config: PretrainedConfig, state: dict[str, Any]
) -> Facade:
    model: Facade = build_facade(hf_class, Bridge(*parts), config)
    _restore(model, state)
    return model


def _own_state(model: Facade) -> dict[str, Any]:
    """Return what a caller may have changed since the facade was built."""
    return {
        "attributes": {name: value for name, value in own_attributes(model).items() if name != "config"},
        "training": model.training,
        "dtype": model.dtype,
        "requires_grad": {name: parameter.requires_grad for name, parameter in lazy_parameters(model).items()},
    }


def _restore(model: Facade, state: dict[str, Any]) -> None:
    model.__dict__.update(state["attributes"], training=state["training"])
    wanted = state["requires_grad"]
    add_parameters(model, state["dtype"], most=len(wanted))
    set_dtype(lazy_parameters(model), state["dtype"])
    for name, parameter in lazy_parameters(model).items():
        parameter.requires_grad_(wanted[name])
