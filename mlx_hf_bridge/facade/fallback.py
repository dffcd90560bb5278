"""Fall back from MLX to torch: a facade becomes the torch model that it stands for."""

import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.weak import WeakTensorKeyDictionary
from transformers import PreTrainedModel

from mlx_hf_bridge.errors import UnservedUseError
from mlx_hf_bridge.pretrained.model import MLXPreTrainedModel

BRIDGE = "_mlx_bridge"
# The name of the one parameter, from which containers read the dtype and the device.
PROBE = "mlx_dtype"
# Reentrant: loading the torch model may call methods that fall back themselves.
_lock = threading.RLock()
# Weak, so that a parameter and its facade do not keep each other alive.
_owners: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
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


class Probe(nn.Parameter):
    """The one parameter of a facade: it has no elements, and its numel() is that of the whole torch model."""

    def numel(self) -> int:
        """Return the model's number of parameters, which containers add up.

        Returns:
            The number of elements.
        """
        owner = facade_of(self)
        bridge = None if owner is None else get_bridge(owner)
        return super().numel() if bridge is None or bridge.shape is None else bridge.shape.num_parameters()

    nelement = numel


def get_bridge(module: nn.Module) -> Bridge | None:
    """Return the bridge of a facade.

    Args:
        module: Any torch module.

    Returns:
        The bridge; None if the module is not a facade, or has fallen back to torch.
    """
    bridge: Bridge | None = module.__dict__.get(BRIDGE)
    return bridge


def get_probe(module: nn.Module) -> nn.Parameter:
    """Return a facade's one parameter.

    Args:
        module: A facade.

    Returns:
        The parameter.
    """
    probe = module._parameters[PROBE]
    assert probe is not None
    return probe


def assign_probe(module: nn.Module, dtype: torch.dtype, requires_grad: bool) -> None:
    """Give a facade the parameter that carries its dtype.

    Args:
        module: A facade.
        dtype: The dtype of its outputs.
        requires_grad: Whether its outputs require gradients.
    """
    # No elements: containers that add up memory or move parameters find nothing to do.
    probe = Probe(torch.empty(0, dtype=dtype), requires_grad)
    _owners[probe] = weakref.ref(module)
    module._parameters[PROBE] = probe


def facade_of(parameter: nn.Parameter) -> nn.Module | None:
    """Return the facade that a parameter belongs to.

    Args:
        parameter: Any torch parameter.

    Returns:
        The facade; None for ordinary parameters.
    """
    owner = _owners.get(parameter)
    return owner() if owner else None


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
        real = bridge.fall_back(reason)
        _become(module, bridge, real)


def _become(module: nn.Module, bridge: Bridge, real: Any) -> None:
    probe = get_probe(module)
    # What callers did to the facade since it was built is repeated on the torch model.
    if probe.dtype != bridge.dtype:
        real.to(probe.dtype)
    if not probe.requires_grad:
        real.requires_grad_(False)
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
