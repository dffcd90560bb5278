"""Models of one task: a loaded model with the LoRA of a task added (jina-embeddings-v3).

The weights are shared with the model without a task, quantized or not; only the two matrices of each LoRA are read, so
that a task costs little memory. In float this equals merged weights, and in a quantized model the LoRA stays exact.
"""

import copy
import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_hf_bridge.architecture.family import BASE_TASK
from mlx_hf_bridge.checkpoints.checkpoint import open_weight_files, read_checkpoint
from mlx_hf_bridge.checkpoints.sources import HubOptions, locate
from mlx_hf_bridge.errors import InputError, WeightsError
from mlx_hf_bridge.inference.model import Model
from mlx_hf_bridge.layers.linear import Embedding, QuantizedEmbedding
from mlx_hf_bridge.layers.low_rank import LowRankEmbedding, LowRankLinear
from mlx_hf_bridge.loading.load import LoadedModel
from mlx_hf_bridge.runtime.executor import run
from mlx_hf_bridge.weights.name_mapping import NameMapping

_LORA = re.compile(r"(.+)\.parametrizations\.weight\.0\.lora_([AB])")


def tasks_of(loaded: LoadedModel) -> tuple[str, ...]:
    """Return the names of the tasks that the model has a LoRA for.

    Args:
        loaded: The model.

    Returns:
        The names, in the order of the LoRA's tensors; () for most models.
    """
    return tuple(getattr(loaded.config, "lora_adaptations", None) or ())


def check_task(loaded: LoadedModel, task: str | None) -> None:
    """Check that the model has a LoRA for a task.

    Args:
        loaded: The model.
        task: The task; None and "" stand for the weights without a LoRA.

    Raises:
        InputError: If it has none.
    """
    if task and task not in tasks_of(loaded):
        raise InputError(
            f"task={task!r}, and {loaded.source.name} has {', '.join(tasks_of(loaded))}. Name one of these, or leave "
            "task out for the weights without an adapter."
        )


def model_of_task(loaded: LoadedModel, task: str) -> Model:
    """Return the model with the LoRA of a task; its weights are those of the loaded model, not copies.

    Args:
        loaded: The model.
        task: One of its tasks.

    Returns:
        A model of the same kind.

    Raises:
        InputError: If the model has no such task.
        WeightsError: If a tensor is missing or has another shape.
    """
    check_task(loaded, task)
    return run(lambda: _with_task(loaded, tasks_of(loaded).index(task)))


def _with_task(loaded: LoadedModel, index: int) -> Model:
    names, scale = NameMapping(loaded.family, loaded.config, BASE_TASK), _scale(loaded.config)
    modules = dict(loaded.model.named_modules())
    replaced: dict[str, nn.Module] = {}
    for module, factors in _factors(loaded, index).items():
        target = names.resolve(f"{module}.weight")
        path = None if target is None else target.path
        # A pooler that was not loaded has no module.
        if path and path in modules:
            base = modules[path]
            kind = LowRankEmbedding if isinstance(base, (Embedding, QuantizedEmbedding)) else LowRankLinear
            replaced[path] = kind(base, factors["A"], factors["B"], scale)
    model: Model = _replace(loaded.model, replaced, "")
    mx.eval([factor for layer in replaced.values() for factor in (layer.down, layer.up)])
    return model


def _scale(config: Any) -> float:
    return float(config.lora_alpha / config.lora_rank)


def _factors(loaded: LoadedModel, index: int) -> Mapping[str, Mapping[str, mx.array]]:
    """Return the factors A and B of one task by the name of the module that they are added to."""
    count, found = len(tasks_of(loaded)), defaultdict[str, dict[str, mx.array]](dict)
    for file in open_weight_files(read_checkpoint(locate(loaded.folder, HubOptions()))):
        for name, array in file.arrays():
            if match := _LORA.fullmatch(name):
                if array.ndim != 3 or array.shape[0] != count:
                    raise WeightsError(
                        f"{name} in {loaded.folder} has the shape {tuple(array.shape)}, expected a matrix for each of "
                        f"the {count} tasks of config.json (lora_adaptations). Take the original checkpoint."
                    )
                found[match[1]][match[2]] = array[index]
    if not found or any(len(factors) != 2 for factors in found.values()):
        raise WeightsError(
            f"{loaded.folder} lacks tensors of the LoRA of its tasks (lora_A, lora_B), which config.json names. Take "
            "the original checkpoint, or leave task out."
        )
    return found


def _replace(module: Any, replaced: Mapping[str, nn.Module], path: str) -> Any:
    """Return the tree of modules with some replaced; those above one of these are copies, all others are shared."""
    if path in replaced:
        return replaced[path]
    if isinstance(module, list):
        return [_replace(item, replaced, f"{path}.{index}") for index, item in enumerate(module)]
    if not isinstance(module, nn.Module) or not any(one.startswith(f"{path}." if path else "") for one in replaced):
        return module
    clone = copy.copy(module)
    for name, child in module.children().items():
        clone[name] = _replace(child, replaced, f"{path}.{name}".lstrip("."))
    return clone
