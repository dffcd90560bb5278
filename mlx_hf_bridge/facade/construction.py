"""A facade is made: the subclass of a transformers class, and an instance of it that holds no weights."""

import copy
import inspect
from collections.abc import Callable
from functools import cache, wraps
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from mlx_hf_bridge.facade.fallback import BRIDGE, Bridge, assign_probe, fall_back_to_torch, get_probe, own_attributes
from mlx_hf_bridge.facade.forward import forward_for
from mlx_hf_bridge.facade.model import Facade

# Methods that are right as they are: they read the class and the config alone, or go through what Facade answers.
_UNTOUCHED = {
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
    """A facade in evaluation mode, with the attributes that the transformers class sets and without its weights."""
    bridge.shape = _shape(hf_class, config, "pooler" in bridge.model.loaded.model)
    model = object.__new__(_class_for(hf_class))
    nn.Module.__init__(model)
    fresh = set(model.__dict__)
    model.__dict__.update({name: value for name, value in bridge.shape.__dict__.items() if name not in fresh})
    model.__dict__[BRIDGE] = bridge
    assign_probe(model, bridge.dtype, requires_grad=True)
    return model.eval()


def _shape(hf_class: type[PreTrainedModel], config: PretrainedConfig, pooler: bool) -> PreTrainedModel:
    """The torch model without memory; drawing weights on the meta device touches no random state."""
    takes_pooler = "add_pooling_layer" in inspect.signature(hf_class.__init__).parameters
    with torch.device("meta"):
        return hf_class(config, add_pooling_layer=pooler) if takes_pooler else hf_class(config)


@cache
def _class_for(hf_class: Any) -> type[Any]:
    """The subclass under the name of its parent, which is how pipelines and libraries know a model's task."""
    names = (name for name in dir(hf_class) if not name.startswith("_"))
    methods = {name: inspect.getattr_static(hf_class, name) for name in names}
    guarded = {
        name: _guarded(name, method)
        for name, method in methods.items()
        if inspect.isfunction(method) and name not in _UNTOUCHED and name not in Facade.__dict__
    }
    own = {
        "__module__": hf_class.__module__,
        "__qualname__": hf_class.__qualname__,
        "__doc__": hf_class.__doc__,
        "__reduce_ex__": _reduced,
        "__deepcopy__": _copied,
        "_load_from_state_dict": _guarded("_load_from_state_dict", nn.Module._load_from_state_dict, "load_state_dict"),
        "forward": forward_for(hf_class),
    }
    return type(hf_class.__name__, (Facade, hf_class), guarded | own)


def _guarded(name: str, method: Callable[..., Any], public: str | None = None) -> Callable[..., Any]:
    """A method that only torch has; `public` is what a caller knows it by."""

    @wraps(method)
    def guarded(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        fall_back_to_torch(self, f"{public or name}() was called")
        return getattr(self, name)(*args, **kwargs)

    return guarded


def _hf_class(model: Facade) -> type[PreTrainedModel]:
    bases: tuple[type, ...] = type(model).__bases__
    return bases[1]


def _copied(model: Facade, memo: dict[int, Any]) -> Facade:
    """A copy that shares the MLX model, which nothing changes."""
    bridge = model.__dict__[BRIDGE]
    config = copy.deepcopy(model.config, memo)
    copied: Facade = build_facade(
        _hf_class(model), Bridge(bridge.model, bridge.dtype, bridge.fall_back, bridge.on_call), config
    )
    memo[id(model)] = copied
    _restore(copied, copy.deepcopy(_own_state(model), memo))
    return copied


def _reduced(model: Facade, protocol: Any) -> tuple[Any, ...]:
    """Pickles and other processes read the converted folder again."""
    bridge = model.__dict__[BRIDGE]
    parts = (bridge.model, bridge.dtype, bridge.fall_back, bridge.on_call)
    return _remade, (_hf_class(model), parts, model.config, _own_state(model))


def _remade(
    hf_class: type[PreTrainedModel], parts: tuple[Any, ...], config: PretrainedConfig, state: dict[str, Any]
) -> Facade:
    model: Facade = build_facade(hf_class, Bridge(*parts), config)
    _restore(model, state)
    return model


def _own_state(model: Facade) -> dict[str, Any]:
    """What a caller may have changed since the facade was made."""
    return {
        "attributes": {name: value for name, value in own_attributes(model).items() if name != "config"},
        "training": model.training,
        "probe": (model.dtype, get_probe(model).requires_grad),
    }


def _restore(model: Facade, state: dict[str, Any]) -> None:
    model.__dict__.update(state["attributes"], training=state["training"])
    assign_probe(model, *state["probe"])
