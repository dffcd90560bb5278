"""How the error of a packed model grows from layer to layer."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mlx_hf_bridge.conversion.tokenizer_files import tokenizer_config
from mlx_hf_bridge.inference.tokenizer import Tokenizer
from mlx_hf_bridge.pretrained.auto import MLXAutoModel
from mlx_hf_bridge.pretrained.model import MLXPreTrainedModel

_TEXTS = 16


def layer_errors(folder: Path, floats: str, texts: Sequence[str]) -> tuple[float, ...]:
    """The relative error of every hidden state over some of the texts, both models in this package."""
    models = MLXAutoModel.from_pretrained(str(folder)), MLXAutoModel.from_pretrained(floats, dtype="float32")
    tokenizer = Tokenizer.from_folder(folder, tokenizer_config(folder))
    tokens = tokenizer.encode(list(texts[:_TEXTS]), models[0].loaded.config.max_length)
    sums = None
    for one in tokens:
        states = [np.stack([np.array(state, np.float32)[0] for state in _states(model, one.ids)]) for model in models]
        squares = np.stack([((states[0] - states[1]) ** 2).sum(axis=(1, 2)), (states[1] ** 2).sum(axis=(1, 2))])
        sums = squares if sums is None else sums + squares
    assert sums is not None
    return tuple(float(error) for error in np.sqrt(sums[0] / sums[1]))


def _states(model: MLXPreTrainedModel, ids: np.ndarray) -> tuple[np.ndarray, ...]:
    return tuple(model(ids[None].astype(np.int64), output_hidden_states=True).hidden_states)
