"""What a facade answers itself; the rest of its transformers class is guarded in making.py."""

from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import mlx.core as mx
import torch
from torch import nn

from mlx_hf_bridge.facade.fallback import BRIDGE, assign_probe, fall_back_to_torch, get_bridge, get_probe
from mlx_hf_bridge.facade.saving import save
from mlx_hf_bridge.pretrained.model import MLXPreTrainedModel


def torch_dtype(dtype: mx.Dtype) -> torch.dtype:
    """mx.float16 -> torch.float16."""
    named: torch.dtype = getattr(torch, str(dtype).rpartition(".")[2])
    return named


class Facade(nn.Module):
    """The part of a facade's class that stands before its transformers class."""

    @property
    def mlx_model(self) -> MLXPreTrainedModel:
        """The MLX model that computes the answers."""
        model: MLXPreTrainedModel = self.__dict__[BRIDGE].model
        return model

    @property
    def device(self) -> torch.device:
        """The CPU, whose memory MLX shares."""
        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the answers."""
        return get_probe(self).dtype

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """A dtype changes that of the answers; a device is accepted and changes nothing."""
        dtype = torch._C._nn._parse_to(*args, **kwargs)[1]
        return self if dtype is None else self._apply(lambda tensor: tensor.to(dtype))

    def cpu(self) -> Self:
        """The model as it is, as for every device."""
        return self

    def cuda(self, device: Any = None) -> Self:
        """The model as it is, as for every device."""
        return self

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        with torch.no_grad():
            dtype = fn(get_probe(self)).dtype
        assign_probe(self, dtype, get_probe(self).requires_grad)
        return self

    def train(self, mode: bool = True) -> Self:
        """Training belongs to torch; without a torch model to become, forward refuses to run in training mode."""
        bridge = get_bridge(self)
        if mode and bridge and bridge.fall_back:
            fall_back_to_torch(self, "train() was called")
            return self.train()
        self.training = mode
        return self

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Whether answers ask for a gradient where gradients are enabled."""
        get_probe(self).requires_grad_(requires_grad)
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """There are none yet."""

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """MLX's kernels are compiled already."""

    def num_parameters(self, *args: Any, **kwargs: Any) -> int:
        """The torch model's, read from its shape."""
        number: int = self.__dict__[BRIDGE].shape.num_parameters(*args, **kwargs)
        return number

    def named_modules(self, memo: Any = None, prefix: str = "", remove_duplicate: bool = True) -> Any:
        """A container that asks its parts sees one module; who asks this one wants submodules, which torch has."""
        if memo is None:
            fall_back_to_torch(self, "its submodules were asked for")
            return self.named_modules(memo, prefix, remove_duplicate)
        if self in memo:
            return iter(())
        memo.add(self)
        return iter([(prefix, self)])

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> None:
        """A checkpoint of what was loaded: config.json and the weights, packed ones in MLX's storage."""
        if save(self, Path(save_directory), options):
            return
        fall_back_to_torch(
            self, "save_pretrained() was called" + (f" with {', '.join(sorted(options))}" if options else "")
        )
        self.save_pretrained(save_directory, **options)

    def __getattr__(self, name: str) -> Any:
        with suppress(AttributeError):
            return super().__getattr__(name)
        bridge = get_bridge(self)
        if bridge is None or bridge.shape is None or not hasattr(bridge.shape, name):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        fall_back_to_torch(self, f"its attribute {name!r} was asked for")
        return getattr(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, (nn.Module, nn.Parameter)):
            fall_back_to_torch(self, f"its attribute {name!r} was set")
            setattr(self, name, value)
        else:
            super().__setattr__(name, value)

    def __repr__(self) -> str:
        return repr(self.__dict__[BRIDGE].shape)
