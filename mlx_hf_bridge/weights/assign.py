"""Arrays put into the model, parts of joined modules one below the other."""

from collections import defaultdict
from collections.abc import Mapping

import mlx.core as mx

from mlx_hf_bridge.inference.model import Model
from mlx_hf_bridge.weights.name_mapping import Place
from mlx_hf_bridge.weights.validation import Shape, Spot, flat


def drawn(empty: Mapping[Spot, Shape], spread: float, dtype: mx.Dtype) -> dict[Spot, mx.array]:
    """Weights of a standard deviation of `spread`, norms of 1 and biases of 0, as an untrained model has them."""
    return {spot: _draw(spot[1], shape, spread).astype(dtype) for spot, shape in empty.items()}


def _draw(leaf: str, shape: Shape, spread: float) -> mx.array:
    if leaf != "weight":
        return mx.zeros(shape)
    return mx.random.normal(shape, scale=spread) if len(shape) > 1 else mx.ones(shape)


def fill(
    model: Model, placed: Mapping[str, Place], arrays: Mapping[str, mx.array], others: Mapping[Spot, mx.array]
) -> None:
    """Put arrays by their checkpoint names, and `others` by their spots, into the model, which they must fill."""
    parts: dict[str, dict[int, mx.array]] = defaultdict(dict)
    for name, array in arrays.items():
        place = placed[name]
        parts[f"{place.ours}.{place.leaf}"][place.part] = array
    for (path, leaf, part), array in others.items():
        parts[f"{path}.{leaf}"][part] = array
    wanted = {parameter for parameter, _ in flat(model)}
    joined = [(name, _join(found)) for name, found in parts.items() if name in wanted]
    model.load_weights(joined, strict=True)


def _join(parts: Mapping[int, mx.array]) -> mx.array:
    ordered = [parts[part] for part in sorted(parts)]
    return ordered[0] if len(ordered) == 1 else mx.concatenate(ordered, axis=0)
