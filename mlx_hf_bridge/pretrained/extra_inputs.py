"""Check the arguments of a call that only some model types have (`architecture/model_inputs.py`).

Axes: B texts, L tokens, N choices.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mlx_hf_bridge.architecture.model_inputs import ModelInput, check_companions, check_range
from mlx_hf_bridge.errors import ArgumentTypeError, InputError
from mlx_hf_bridge.loading.load import LoadedModel
from mlx_hf_bridge.pretrained.arrays import to_array, to_integers

Shape = tuple[int, ...]


def check_extra_inputs(
    given: Mapping[str, Any], shape: Shape, choices: int | None, loaded: LoadedModel
) -> dict[str, np.ndarray]:
    """Return the arguments that only a model's class has as arrays of the shapes that it takes.

    Args:
        given: The arguments by name; None stands for one that is not given.
        shape: The shape of the ids, (B, L), for multiple choice (B * N, L).
        choices: N for multiple choice, else None; arguments are then flattened like the ids.
        loaded: The model.

    Returns:
        Arrays by name, without those that the model accepts and ignores.

    Raises:
        ArgumentTypeError: If the class has no such argument, or its type is not accepted.
        InputError: If a shape does not fit, another argument is missing, or this config.json has no table for values.
    """
    known = loaded.config.extra_inputs
    _refuse_unknown(given, known, loaded)
    present = {name: values for name, values in given.items() if values is not None}
    check_companions(present, known)
    # The lengths of the axes that callers choose, which must agree.
    sizes = {"B": shape[0], "L": shape[1]}
    arrays = {}
    for name, values in present.items():
        spec = known[name]
        array = to_array(name, values) if spec.is_float else to_integers(name, values)
        if choices is not None and array.ndim == len(spec.axes) + 1:
            array = array.reshape(-1, *array.shape[2:])
        array = _broadcast(name, array, spec, sizes)
        if spec.indexes is not None and array.size:
            check_range(name, array, sizes[spec.indexes], "the number of tokens")
        if spec.size:
            arrays[name] = array
        elif array.any():
            raise InputError(
                f"{name} has values other than 0, and this {loaded.family.hf_class_name(loaded.task)} has no table "
                "for them (config.json). Omit it."
            )
    return arrays


def _refuse_unknown(given: Mapping[str, Any], known: Mapping[str, ModelInput], loaded: LoadedModel) -> None:
    unknown = sorted(set(given) - set(known))
    if not unknown:
        return
    names = [name for name in known if name != "token_type_ids"]
    own = f"it also takes {', '.join(names)}" if names else "it has no further arguments"
    raise ArgumentTypeError(
        f"{loaded.family.hf_class_name(loaded.task)} got {', '.join(unknown)}, which it does not take; {own}. "
        f"{loaded.family.inputs_note}Omit it."
    )


def _broadcast(name: str, array: np.ndarray, spec: ModelInput, sizes: dict[str, int]) -> np.ndarray:
    """Return an argument in its full shape; the lengths of axes that callers choose are added to `sizes`."""
    if spec.per_text and array.ndim == 1:
        array = array[:, None]
        shape: Shape = (sizes["B"], 1)
        return np.broadcast_to(_checked(name, array, shape, shape), (sizes["B"], sizes["L"]))
    wanted = []
    for index, axis in enumerate(spec.axes):
        if isinstance(axis, str) and axis not in sizes and array.ndim == len(spec.axes):
            sizes[axis] = array.shape[index]
        wanted.append(sizes.get(axis, -1) if isinstance(axis, str) else axis)
    shape = tuple(wanted)
    # As torch broadcasts: one row for all texts, with or without its axis.
    return np.broadcast_to(_checked(name, array, shape, (1, *shape[1:]), shape[1:]), shape)


def _checked(name: str, array: np.ndarray, shape: Shape, *others: Shape) -> np.ndarray:
    if array.shape not in (shape, *others):
        raise InputError(f"{name} has the shape {array.shape}, expected {shape} (B texts, L tokens).")
    return array
