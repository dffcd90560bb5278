"""Arrays put into the model, parts of joined modules one below the other."""

from collections import defaultdict
from collections.abc import Mapping

import mlx.core as mx

from mlx_hf_bridge.inference.model import Model
from mlx_hf_bridge.weights.name_mapping import ParameterSlot, TensorTarget
from mlx_hf_bridge.weights.validation import Shape, named_parameters


def random_init(empty: Mapping[ParameterSlot, Shape], spread: float, dtype: mx.Dtype) -> dict[ParameterSlot, mx.array]:
    """Weights of a standard deviation of `spread`, norms of 1 and biases of 0, as an untrained model has them."""
    return {spot: _draw(spot[1], shape, spread).astype(dtype) for spot, shape in empty.items()}


def _draw(leaf: str, shape: Shape, spread: float) -> mx.array:
    if leaf != "weight":
        return mx.zeros(shape)
    return mx.random.normal(shape, scale=spread) if len(shape) > 1 else mx.ones(shape)


def assign_weights(
    model: Model,
    targets: Mapping[str, TensorTarget],
    arrays: Mapping[str, mx.array],
    others: Mapping[ParameterSlot, mx.array],
) -> None:
    """Put arrays by their checkpoint names, and `others` by their spots, into the model, which they must fill."""
    parts: dict[str, dict[int, mx.array]] = defaultdict(dict)
    for name, array in arrays.items():
        place = targets[name]
        parts[f"{place.path}.{place.leaf}"][place.slice_index] = array
    for (path, leaf, part), array in others.items():
        parts[f"{path}.{leaf}"][part] = array
    wanted = {parameter for parameter, _ in named_parameters(model)}
    joined = [(name, _join(found)) for name, found in parts.items() if name in wanted]
    model.load_weights(joined, strict=True)


def _join(parts: Mapping[int, mx.array]) -> mx.array:
    ordered = [parts[part] for part in sorted(parts)]
    return ordered[0] if len(ordered) == 1 else mx.concatenate(ordered, axis=0)
