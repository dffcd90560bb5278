"""Read and rewrite weight files and config.json, and compare outputs, for tests that vary a checkpoint."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

Tensors = dict[str, torch.Tensor]


def read_tensors(folder: Path) -> Tensors:
    """Return the tensors of model.safetensors."""
    return load_file(folder / "model.safetensors")


def write_tensors(folder: Path, tensors: Tensors) -> None:
    """Write the tensors to model.safetensors."""
    contiguous = {name: tensor.clone().contiguous() for name, tensor in tensors.items()}
    save_file(contiguous, folder / "model.safetensors", metadata={"format": "pt"})


def rewrite(folder: Path, change: Callable[[Tensors], Tensors]) -> None:
    """Replace the tensors of the folder with the result of `change`."""
    write_tensors(folder, change(read_tensors(folder)))


def rename(folder: Path, change: Callable[[str], str]) -> None:
    """Rename every tensor of the folder with `change`."""
    rewrite(folder, lambda tensors: {change(name): tensor for name, tensor in tensors.items()})


def edit_config(folder: Path, **values: Any) -> None:
    """Set keys of config.json; a value of `...` removes the key."""
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **values}
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not ...}))


def output_array(model: Any, inputs: dict[str, np.ndarray], name: str) -> np.ndarray:
    """Return one output field of a torch or MLX model as a float32 NumPy array."""
    if isinstance(model, torch.nn.Module):
        with torch.no_grad():
            output = model(**{key: torch.tensor(value) for key, value in inputs.items()})
        return output[name].float().numpy()
    return np.asarray(model(**inputs)[name], np.float32)


def max_difference(one: np.ndarray, other: np.ndarray, inputs: dict[str, np.ndarray]) -> float:
    """Return the largest absolute difference, for hidden states that of the positions that are not padding."""
    kept = inputs["attention_mask"].astype(bool) if one.ndim == 3 else slice(None)
    return float(np.abs(one[kept] - other[kept]).max())
