"""Training needs torch: models fall back before an optimizer is built from their parameters.

A container's `parameters()` yields a facade's one parameter without elements, which would train nothing.
"""

import functools
from collections.abc import Iterator
from types import ModuleType
from typing import Any, NoReturn

import torch
from torch import nn

from mlx_hf_bridge.errors import UnservedUseError
from mlx_hf_bridge.facade import fall_back_to_torch
from mlx_hf_bridge.facade.fallback import facade_of, get_bridge
from mlx_hf_bridge.zero_change.patches import Patches


def replace_training(patches: Patches, trainer: ModuleType) -> None:
    """Make Trainer.train, also of sentence-transformers' trainers, move the models in its model to torch.

    Args:
        patches: Records the replacement.
        trainer: The module transformers.trainer.
    """
    original = trainer.Trainer.train

    @functools.wraps(original)
    def train(self: Any, *args: Any, **kwargs: Any) -> Any:
        for module in (self.model, *_parts(self.model)):
            fall_back_to_torch(module, "transformers.Trainer trains it")
        return original(self, *args, **kwargs)

    patches.replace(trainer.Trainer, "train", train)


def replace_optimizers(patches: Patches) -> None:
    """Make optimizers that are given a facade's parameter use the torch model's parameters instead."""
    original = torch.optim.Optimizer.__init__

    @functools.wraps(original)
    def __init__(self: Any, params: Any, defaults: dict[str, Any]) -> None:
        # An iterator can be read once, and it is read here and by the optimizer.
        given = params if isinstance(params, torch.Tensor) else list(params)
        if isinstance(given, list):
            given = [own for parameter in given for own in _resolve(parameter)]
        original(self, given, defaults)

    patches.replace(torch.optim.Optimizer, "__init__", __init__)


def _parts(model: nn.Module) -> list[nn.Module]:
    # A facade lists no parts without falling back; the model itself is moved by the caller.
    return [] if get_bridge(model) else list(model.modules())


def _resolve(given: Any) -> Iterator[Any]:
    """Yield the parameters for one entry of an optimizer's `params`: a parameter, a name with one, or a group."""
    if isinstance(given, dict):
        if not isinstance(given["params"], (torch.Tensor, list, tuple, set)):
            given["params"] = list(
                given["params"]
            )  # an iterator can be read once; the optimizer makes a list of it too
        inside = [given["params"]] if isinstance(given["params"], torch.Tensor) else given["params"]
        if any(_facade_of(entry) is not None for entry in inside):
            _refuse_group()
        yield given
    elif (facade := _facade_of(given)) is None:
        yield given
    else:
        fall_back_to_torch(facade, "an optimizer was given its parameters")
        yield from (
            facade.named_parameters(given[0].rpartition(".")[0]) if isinstance(given, tuple) else facade.parameters()
        )


def _facade_of(given: Any) -> nn.Module | None:
    parameter = given[1] if isinstance(given, tuple) else given
    return facade_of(parameter) if isinstance(parameter, nn.Parameter) else None


def _refuse_group() -> NoReturn:
    raise UnservedUseError(
        "an optimizer's groups were made from a model on MLX, which has no weights to sort into groups. Call "
        "train() on the model before reading its parameters: it falls back to torch then."
    )
