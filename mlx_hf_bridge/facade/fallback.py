"""The way from MLX to torch: a facade becomes the torch model that stands behind it."""

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
# The one parameter by which containers know the dtype and the device.
PROBE = "mlx_dtype"
_turn = threading.RLock()
_owners: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
# What every torch module has of its own.
_OF_MODULES = set(nn.Module().__dict__)


@dataclass
class Bridge:
    """What a facade holds in the place of weights.

    dtype: of the answers when it was made. shape: the torch model without memory, on the meta device.
    """

    model: MLXPreTrainedModel
    dtype: torch.dtype
    fall_back: Callable[[str], PreTrainedModel] | None = None
    on_call: Callable[[float], None] | None = None
    shape: PreTrainedModel | None = None


class Probe(nn.Parameter):
    """A facade's one parameter: it has no elements, and counts as many as the torch model's have together."""

    def numel(self) -> int:
        """What a container's count of its parameters adds up."""
        owner = facade_of(self)
        bridge = None if owner is None else get_bridge(owner)
        return super().numel() if bridge is None or bridge.shape is None else bridge.shape.num_parameters()

    nelement = numel


def get_bridge(module: nn.Module) -> Bridge | None:
    """What stands behind a facade; None for any other module, and for what was a facade."""
    bridge: Bridge | None = module.__dict__.get(BRIDGE)
    return bridge


def get_probe(module: nn.Module) -> nn.Parameter:
    """A facade's one parameter."""
    probe = module._parameters[PROBE]
    assert probe is not None
    return probe


def assign_probe(module: nn.Module, dtype: torch.dtype, requires_grad: bool) -> None:
    """Give a facade the parameter that carries its dtype."""
    probe = Probe(torch.empty(0, dtype=dtype), requires_grad)
    _owners[probe] = weakref.ref(module)
    module._parameters[PROBE] = probe


def facade_of(parameter: nn.Parameter) -> nn.Module | None:
    """The facade that a parameter is of; None for weights."""
    owner = _owners.get(parameter)
    return owner() if owner else None


def fall_back_to_torch(module: nn.Module, reason: str) -> None:
    """Make a facade the torch model, class and all; nothing happens to other modules.

    reason: what was asked, as the middle of a sentence. UnservedUseError where there is no torch model to become.
    """
    with _turn:
        bridge = get_bridge(module)
        if bridge is None:
            return
        if bridge.fall_back is None:
            raise UnservedUseError(
                f"{type(module).__name__} is computed by MLX for inference alone, and {reason}. Load the model with "
                "transformers on torch for that."
            )
        real = bridge.fall_back(reason)
        _hand_over(module, bridge, real)


def _hand_over(module: nn.Module, bridge: Bridge, real: Any) -> None:
    probe = get_probe(module)
    if probe.dtype != bridge.dtype:
        real.to(probe.dtype)
    if not probe.requires_grad:
        real.requires_grad_(False)
    real.train(module.training)
    real.__dict__.update({name: value for name, value in own_attributes(module).items() if name != "config"})
    _share_config(real, module.config)
    object.__setattr__(module, "__dict__", real.__dict__)
    object.__setattr__(module, "__class__", type(real))


def own_attributes(module: nn.Module) -> dict[str, Any]:
    """What a caller has set on a facade since it was made."""
    bridge = get_bridge(module)
    initial = bridge.shape.__dict__ if bridge and bridge.shape else {}
    known = {*_OF_MODULES, BRIDGE}
    found = {name: value for name, value in module.__dict__.items() if name not in known}
    return {name: value for name, value in found.items() if name not in initial or value is not initial[name]}


def _share_config(real: PreTrainedModel, config: Any) -> None:
    """The config that the caller holds, and may have changed, in every submodule that read the loaded one."""
    loaded = real.config
    for module in real.modules():
        if module.__dict__.get("config") is loaded:
            module.config = config
