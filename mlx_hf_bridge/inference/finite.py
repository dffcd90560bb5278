"""A check on the host that results hold numbers: NaN and infinity never leave as embeddings or scores."""

from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_hf_bridge.errors import NonFiniteError
from mlx_hf_bridge.inference.batching import Results
from mlx_hf_bridge.inference.model import EncoderOutput

# Of a dict of outputs only these are looked at: token embeddings hold padding too, which may be anything.
_CHECKED = ("sentence_embedding", "scores")
# What is said of a model that is called as in transformers, which returns such values too.
NON_FINITE_OUTPUTS = (
    "%s computed NaN or infinity. Load it with dtype='float32', and if that does not help, check the weights of the "
    "checkpoint for such values. This is said once for each model."
)


def check_finite(rows: Results, name: str, hint: str = "") -> Results:
    """Return the results, after a look at every number of them; well under a microsecond for each.

    Args:
        rows: One result for each text: an array with a row for each, or a list of arrays, of lists of them, of dicts of
            them, or of tuples whose second item is one.
        name: The model, for the error message.
        hint: A further cause to name in the error message. Default: "".

    Returns:
        The rows as they were given.

    Raises:
        NonFiniteError: If a result has NaN or infinity, with the index of its text.
    """
    if isinstance(rows, np.ndarray):
        if not np.issubdtype(rows.dtype, np.floating) or np.isfinite(rows).all():
            return rows
        index = int(np.argmin(np.isfinite(rows).reshape(len(rows), -1).all(axis=1)))
    else:
        found = next((number for number, row in enumerate(rows) if not _is_finite(row)), None)
        if found is None:
            return rows
        index = found
    raise NonFiniteError(
        f"{name} computed NaN or infinity for text {index}. Load it with dtype='float32', and if that does not help, "
        f"check the weights of the checkpoint for such values{hint}."
    )


def _is_finite(row: Any) -> bool:
    if isinstance(row, Mapping):
        return all(_is_finite(row[key]) for key in _CHECKED if key in row)
    if isinstance(row, list):
        return all(_is_finite(one) for one in row)
    values = np.asarray(row[1] if isinstance(row, tuple) else row)
    return not np.issubdtype(values.dtype, np.floating) or bool(np.isfinite(values).all())


def is_finite_output(output: EncoderOutput) -> mx.array:
    """Return whether vectors have neither NaN nor infinity, and logits no NaN; some models mask logits by infinity.

    Args:
        output: What a model computed.

    Returns:
        A bool array without axes, not evaluated yet.
    """
    vectors = [array for array in (output.hidden, output.pooled) if array is not None]
    logits = [array for array in output.outputs.values() if isinstance(array, mx.array)]
    found = [mx.isfinite(array).all() for array in vectors] + [~mx.isnan(array).any() for array in logits]
    return mx.all(mx.stack(found))
