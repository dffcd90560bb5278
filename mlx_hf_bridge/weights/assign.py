"""Arrays assigned to a model's parameters; slices of a fused parameter are concatenated first."""

from collections import defaultdict
from collections.abc import Mapping

import mlx.core as mx

from mlx_hf_bridge.inference.model import Model
from mlx_hf_bridge.weights.name_mapping import ParameterSlot, TensorTarget
from mlx_hf_bridge.weights.validation import Shape, named_parameters


def random_init(shapes: Mapping[ParameterSlot, Shape], std: float, dtype: mx.Dtype) -> dict[ParameterSlot, mx.array]:
    """Return freshly initialized parameters, as transformers' `_init_weights` makes them.

    Args:
        shapes: The shape of each parameter slot to initialize.
        std: Standard deviation of matrices (`initializer_range`); norm weights are 1 and biases 0.
        dtype: Dtype of the arrays.

    Returns:
        One array for every slot.
    """
    return {slot: _initialize(slot[1], shape, std).astype(dtype) for slot, shape in shapes.items()}


def _initialize(leaf: str, shape: Shape, std: float) -> mx.array:
    if leaf != "weight":
        return mx.zeros(shape)
    # Weights with one axis are those of norms, which start at 1.
    return mx.random.normal(shape, scale=std) if len(shape) > 1 else mx.ones(shape)


def assign_weights(
    model: Model,
    targets: Mapping[str, TensorTarget],
    arrays: Mapping[str, mx.array],
    initialized: Mapping[ParameterSlot, mx.array],
) -> None:
    """Load arrays into the model; together they must fill every parameter.

    Args:
        model: The model whose parameters are replaced.
        targets: Checkpoint tensor name -> the parameter that it belongs to.
        arrays: Checkpoint tensor name -> array.
        initialized: Arrays for slots that the checkpoint has no tensor for.
    """
    slices: dict[str, dict[int, mx.array]] = defaultdict(dict)
    for name, array in arrays.items():
        target = targets[name]
        slices[f"{target.path}.{target.leaf}"][target.slice_index] = array
    for (path, leaf, slice_index), array in initialized.items():
        slices[f"{path}.{leaf}"][slice_index] = array
    wanted = {parameter for parameter, _ in named_parameters(model)}
    fused = [(name, _concatenate(found)) for name, found in slices.items() if name in wanted]
    # strict: a parameter that nothing fills would silently stay zeros.
    model.load_weights(fused, strict=True)


def _concatenate(slices: Mapping[int, mx.array]) -> mx.array:
    # Rows of a linear layer are outputs, so quantized rows, with their scales, are joined in the same way.
    ordered = [slices[index] for index in sorted(slices)]
    return ordered[0] if len(ordered) == 1 else mx.concatenate(ordered, axis=0)
