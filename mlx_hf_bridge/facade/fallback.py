"""Fall back from MLX to torch: a facade becomes the torch model that it stands for."""

import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from mlx_hf_bridge.errors import UnservedUseError
from mlx_hf_bridge.facade.parameters import hand_over, lazy_parameter
from mlx_hf_bridge.facade.torch_state import without_torch_state
from mlx_hf_bridge.pretrained.model import MLXPreTrainedModel
from mlx_hf_bridge.runtime.boundary import guarded

BRIDGE = "_mlx_bridge"
# Reentrant: loading the torch model may call methods that fall back themselves.
_lock = threading.RLock()
# Attributes that every torch module has.
_MODULE_ATTRIBUTES = set(nn.Module().__dict__)


@dataclass
class Bridge:
    """What a facade holds instead of weights.

    Attributes:
        model: The MLX model.
        dtype: The dtype of the outputs when the facade was built.
        fall_back: Loads the torch model, given the reason; None if there is no torch model.
        on_call: Called with the seconds of every forward pass, or None.
        shape: The torch model on the meta device, without memory.
    """

    model: MLXPreTrainedModel
    dtype: torch.dtype
    fall_back: Callable[[str], PreTrainedModel] | None = None
    on_call: Callable[[float], None] | None = None
    shape: PreTrainedModel | None = None


def get_bridge(module: nn.Module) -> Bridge | None:
    """Return the bridge of a facade.

    Args:
        module: Any torch module.

    Returns:
        The bridge; None if the module is not a facade, or has fallen back to torch.
    """
    bridge: Bridge | None = module.__dict__.get(BRIDGE)
    return bridge


def lazy_parameters(module: nn.Module) -> dict[str, Any]:
    """Return the parameters that a facade has so far; the first one has the dtype of its outputs.

    Args:
        module: A facade.

    Returns:
        Name in the torch model to parameter.
    """
    parameters: dict[str, Any] = module._parameters
    return parameters


def first_parameter(module: nn.Module) -> nn.Parameter:
    """Return the first of a facade's parameters, which has the dtype of its outputs.

    Args:
        module: A facade.

    Returns:
        The parameter.
    """
    first: nn.Parameter = next(iter(lazy_parameters(module).values()))
    return first


def add_parameters(module: nn.Module, dtype: torch.dtype, requires_grad: bool = True, most: int | None = 1) -> None:
    """Give a facade the parameters that it does not have yet, in the torch model's order.

    Args:
        module: A facade.
        dtype: The dtype of its outputs.
        requires_grad: Whether the new ones require gradients.
        most: How many it is to have; None is all. One is enough for programs that read the dtype and the device, and
            costs no time.
    """
    bridge = get_bridge(module)
    assert bridge is not None
    assert bridge.shape is not None
    load = partial(_load, weakref.ref(module))
    # A new dict, since a caller may be iterating over the present one.
    added = {
        name: lazy_parameter(parameter.shape, dtype, requires_grad, load)
        for name, parameter in islice(bridge.shape.named_parameters(), most)
        if name not in module._parameters
    }
    module._parameters = {**module._parameters, **added}


def _load(module: Callable[[], nn.Module | None], reason: str) -> None:
    """Fall back to torch for a parameter; the facade is held weakly, since it holds the parameter."""
    if (owner := module()) is None:
        raise UnservedUseError(
            f"a parameter of a model on MLX was kept beyond its model, and {reason}; its values are gone with the "
            "model. Keep a reference to the model."
        )
    fall_back_to_torch(owner, reason)


@guarded
def fall_back_to_torch(module: nn.Module, reason: str) -> None:
    """Turn a facade into its torch model, including its class; nothing happens to other modules.

    Args:
        module: Any torch module.
        reason: What was requested, as the middle of a sentence ("train() was called").

    Raises:
        UnservedUseError: If the facade has no torch model to become.
    """
    with _lock:
        bridge = get_bridge(module)
        if bridge is None:
            return
        if bridge.fall_back is None:
            raise UnservedUseError(
                f"{type(module).__name__} is computed by MLX, for inference only, and {reason}. Load the model with "
                "transformers on torch for that."
            )
        with without_torch_state():
            real = bridge.fall_back(reason)
            _become(module, bridge, real)


def _become(module: nn.Module, bridge: Bridge, real: Any) -> None:
    first = first_parameter(module)
    # What callers did to the facade since it was built is repeated on the torch model.
    if first.dtype != bridge.dtype:
        real.to(first.dtype)
    if not first.requires_grad and len(lazy_parameters(module)) == 1:
        real.requires_grad_(False)
    hand_over(lazy_parameters(module), real)
    real.train(module.training)
    real.__dict__.update({name: value for name, value in own_attributes(module).items() if name != "config"})
    _share_config(real, module.config)
    # By object, since torch.nn.Module.__setattr__ would register what it is given.
    object.__setattr__(module, "__dict__", real.__dict__)
    # The object itself changes, so that every reference to it is a torch model from here on.
    object.__setattr__(module, "__class__", type(real))


def own_attributes(module: nn.Module) -> dict[str, Any]:
    """Return the attributes that a caller has set on a facade since it was built.

    Args:
        module: A facade.

    Returns:
        Attribute name to value.
    """
    bridge = get_bridge(module)
    initial = bridge.shape.__dict__ if bridge and bridge.shape else {}
    known = {*_MODULE_ATTRIBUTES, BRIDGE}
    found = {name: value for name, value in module.__dict__.items() if name not in known}
    return {name: value for name, value in found.items() if name not in initial or value is not initial[name]}


def _share_config(real: PreTrainedModel, config: Any) -> None:
    """Give every submodule that holds the loaded config the caller's config, which may have been changed."""
    loaded = real.config
    for module in real.modules():
        if module.__dict__.get("config") is loaded:
            module.config = config
