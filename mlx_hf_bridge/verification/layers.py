"""Measure how the error of a quantized model grows from layer to layer."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mlx_hf_bridge.conversion.tokenizer_files import load_tokenizer
from mlx_hf_bridge.pretrained.auto import MLXAutoModel
from mlx_hf_bridge.pretrained.model import MLXPreTrainedModel
from mlx_hf_bridge.verification.reference import Reference

# Enough texts for a stable mean; every one costs two forward passes, unbatched.
_TEXTS = 16


def layer_errors(folder: Path, reference: Reference, texts: Sequence[str]) -> tuple[float, ...]:
    """Return the relative error of every hidden state, with both models computed by this package.

    Args:
        folder: The converted model.
        reference: The float model.
        texts: The texts to compare on; the first 16 are used.

    Returns:
        ||converted - float|| / ||float|| of each hidden state over all tokens, that of the embeddings first.
    """
    models = (
        MLXAutoModel.from_pretrained(str(folder)),
        MLXAutoModel.from_pretrained(reference.name, revision=reference.revision, dtype="float32"),
    )
    tokenizer = load_tokenizer(folder, models[0].loaded.family, models[0].loaded.raw_config)
    sequences = tokenizer.encode(list(texts[:_TEXTS]), models[0].loaded.config.max_length)
    sums = None
    for tokens in sequences:
        converted, exact = (
            np.stack([np.array(state, np.float32)[0] for state in _hidden_states(model, tokens.ids)])
            for model in models
        )
        squares = np.stack([((converted - exact) ** 2).sum(axis=(1, 2)), (exact**2).sum(axis=(1, 2))])
        sums = squares if sums is None else sums + squares
    assert sums is not None
    # Summed over all texts before dividing, so that one text with a small norm does not decide a layer's error.
    return tuple(float(error) for error in np.sqrt(sums[0] / sums[1]))


def _hidden_states(model: MLXPreTrainedModel, ids: np.ndarray) -> tuple[np.ndarray, ...]:
    output = model(ids[None].astype(np.int64), output_hidden_states=True)
    # A model that ends with a decoder records both of its stacks.
    names = ("hidden_states", "encoder_hidden_states", "decoder_hidden_states")
    return tuple(state for name in names for state in output.get(name) or ())
