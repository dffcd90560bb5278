"""The methods that a facade implements itself; those that need torch are wrapped in construction.py."""

from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import mlx.core as mx
import torch
from torch import nn

from mlx_hf_bridge.facade.fallback import BRIDGE, fall_back_to_torch, first_parameter, get_bridge, lazy_parameters
from mlx_hf_bridge.facade.parameters import set_dtype
from mlx_hf_bridge.facade.saving import save
from mlx_hf_bridge.facade.walk import walk
from mlx_hf_bridge.pretrained.model import MLXPreTrainedModel


def torch_dtype(dtype: mx.Dtype) -> torch.dtype:
    """Convert a dtype of MLX to torch's.

    Args:
        dtype: The dtype, such as mx.float16.

    Returns:
        The dtype of that name.
    """
    named: torch.dtype = getattr(torch, str(dtype).rpartition(".")[2])
    return named


class Facade(nn.Module):
    """The base class that comes before the transformers class in every facade's class."""

    @property
    def mlx_model(self) -> MLXPreTrainedModel:
        """The MLX model that computes the outputs."""
        model: MLXPreTrainedModel = self.__dict__[BRIDGE].model
        return model

    @property
    def device(self) -> torch.device:
        """The CPU, whose memory MLX shares."""
        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the outputs."""
        return first_parameter(self).dtype

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Change the dtype of the outputs if a dtype is given; a device is accepted and changes nothing.

        Args:
            *args: A device, a dtype, or both, as for torch.nn.Module.to.
            **kwargs: torch's arguments by name.

        Returns:
            The model itself.
        """
        # torch's own parser of .to()'s forms: device, dtype, tensor, and keywords.
        dtype = torch._C._nn._parse_to(*args, **kwargs)[1]
        return self if dtype is None else self._apply(lambda tensor: tensor.to(dtype))

    def cpu(self) -> Self:
        """Return the model unchanged: MLX's memory is shared with the CPU.

        Returns:
            The model itself.
        """
        return self

    def cuda(self, device: Any = None) -> Self:
        """Return the model unchanged: it stays on MLX's own device.

        Args:
            device: Not used.

        Returns:
            The model itself.
        """
        return self

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        # Containers call half() or to() by passing a function here; what it does to a number shows what is meant.
        given = torch.full((1,), 1.5, dtype=self.dtype)
        with torch.no_grad():
            result = fn(given.clone())
        if result.is_meta or not torch.equal(result.to(given), given):
            fall_back_to_torch(self, "a function was applied to its parameters")
            return self._apply(fn, recurse)
        set_dtype(lazy_parameters(self), result.dtype)
        return self

    def train(self, mode: bool = True) -> Self:
        """Fall back to torch for training, or set evaluation mode.

        Without a torch model to become, training mode is set, and forward refuses to run in it.

        Args:
            mode: Whether to train.

        Returns:
            The model itself.
        """
        bridge = get_bridge(self)
        if mode and bridge and bridge.fall_back:
            fall_back_to_torch(self, "train() was called")
            return self.train()
        self.training = mode
        return self

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Set whether outputs require a gradient where gradients are enabled.

        Args:
            requires_grad: Whether they do.

        Returns:
            The model itself.
        """
        for parameter in lazy_parameters(self).values():
            parameter.requires_grad_(requires_grad)
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Do nothing: a facade holds no gradients.

        Args:
            set_to_none: Not used.
        """

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: MLX compiles its own kernels.

        Args:
            *args: Not used.
            **kwargs: Not used.
        """

    def num_parameters(self, *args: Any, **kwargs: Any) -> int:
        """Return the number of parameters of the torch model.

        Args:
            *args: Arguments of PreTrainedModel.num_parameters.
            **kwargs: Its arguments by name.

        Returns:
            The number of parameters.
        """
        number: int = self.__dict__[BRIDGE].shape.num_parameters(*args, **kwargs)
        return number

    def named_modules(self, memo: Any = None, prefix: str = "", remove_duplicate: bool = True) -> Any:
        """Yield what a container asks for when it lists its modules, parameters or buffers (walk.py).

        A direct call falls back to torch, since it asks for submodules, which only the torch model has.

        Args:
            memo: The modules that a container has seen; None for a direct call.
            prefix: The facade's name within the container.
            remove_duplicate: As in torch.nn.Module.

        Returns:
            An iterator over names and modules.
        """
        if memo is None:
            fall_back_to_torch(self, "its submodules were requested")
            return self.named_modules(memo, prefix, remove_duplicate)
        return walk(self, memo, prefix, remove_duplicate)

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> None:
        """Save config.json and the weights that were loaded; quantized weights in MLX's format.

        Falls back to torch for options that need it.

        Args:
            save_directory: The folder; created if needed.
            **options: Arguments of PreTrainedModel.save_pretrained.

        Raises:
            RepositoryError: If the path is a file.
        """
        if save(self, Path(save_directory), options):
            return
        fall_back_to_torch(
            self, "save_pretrained() was called" + (f" with {', '.join(sorted(options))}" if options else "")
        )
        self.save_pretrained(save_directory, **options)

    def __getattr__(self, name: str) -> Any:
        # torch's own lookup first; what follows is for attributes that only the torch model has.
        with suppress(AttributeError):
            return super().__getattr__(name)
        bridge = get_bridge(self)
        if bridge is None or bridge.shape is None or not hasattr(bridge.shape, name):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        fall_back_to_torch(self, f"its attribute {name!r} was requested")
        return getattr(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        # A layer or weight that a caller puts in would have no effect on MLX.
        if isinstance(value, (nn.Module, nn.Parameter)):
            fall_back_to_torch(self, f"its attribute {name!r} was set")
            setattr(self, name, value)
        else:
            super().__setattr__(name, value)

    def __repr__(self) -> str:
        return repr(self.__dict__[BRIDGE].shape)
