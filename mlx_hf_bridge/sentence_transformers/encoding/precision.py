"""Vectors in fewer bits, as sentence-transformers quantises them (util/quantization.py).

N vectors, V their width.
"""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from mlx_hf_bridge.errors import InputError

logger = logging.getLogger(__name__)

PRECISIONS = ("float32", "int8", "uint8", "binary", "ubinary")
_FEW = 100
_STEPS = 255


def check_precision(precision: str | None) -> str:
    """One of PRECISIONS, None = float32; InputError for another."""
    if precision is not None and precision not in PRECISIONS:
        raise InputError(f"precision={precision!r} is not supported, must be one of {', '.join(PRECISIONS)}.")
    return precision or "float32"


def quantize_embeddings(
    embeddings: Any,
    precision: str,
    ranges: np.ndarray | None = None,
    calibration_embeddings: np.ndarray | None = None,
) -> Any:
    """Float vectors (N, V), or a list of such arrays with one range for all -> codes of the precision.

    int8 and uint8: 256 steps between each dimension's least and largest value, which are `ranges` (2, V), or those of
    calibration_embeddings, or of the vectors themselves. binary and ubinary: a bit a dimension, 1 for more than 0,
    eight to a byte. Raises InputError for an unknown precision, and where ranges are to come from a single vector.
    """
    check_precision(precision)
    if isinstance(embeddings, list) and embeddings and np.ndim(embeddings[0]) == 2:
        if precision.endswith("int8") and ranges is None and any(len(one) for one in embeddings):
            ranges = _ranges(np.concatenate(embeddings), precision, calibration_embeddings)
        return [quantize_embeddings(one, precision, ranges) for one in embeddings]
    vectors = np.asarray(embeddings)
    if vectors.dtype in (np.int8, np.uint8):
        raise InputError(f"embeddings are {vectors.dtype} already, expected floats.")
    if precision == "float32":
        return vectors.astype(np.float32)
    if precision.endswith("binary"):
        bits = np.packbits(vectors > 0, axis=-1)
        return (bits - 128).astype(np.int8) if precision == "binary" else bits
    if not len(vectors):
        return vectors.astype(precision)
    if ranges is None:
        ranges = _ranges(vectors, precision, calibration_embeddings)
    return _scalar(vectors, ranges, precision)


def _scalar(vectors: np.ndarray, ranges: np.ndarray, precision: str) -> np.ndarray:
    starts, ends = ranges.astype(np.float32, copy=False)
    steps = (ends - starts) / _STEPS
    steps = np.where(steps == 0, 1, steps)
    codes: np.ndarray = np.clip(np.floor((vectors - starts) / steps), 0, _STEPS)
    narrow: np.ndarray = codes.astype(np.uint8) if precision == "uint8" else (codes - 128).astype(np.int8)
    return narrow


def _ranges(vectors: np.ndarray, precision: str, calibration: np.ndarray | None) -> np.ndarray:
    """(2, V): the least and the largest value of each dimension."""
    source: Sequence[Any] | np.ndarray = vectors if calibration is None else calibration
    if calibration is None and (vectors.ndim == 1 or len(vectors) == 1):
        raise InputError(
            f"{precision} ranges cannot be computed from a single vector. Encode several texts, or pass `ranges` or "
            "`calibration_embeddings` to quantize_embeddings."
        )
    if calibration is None and len(vectors) < _FEW:
        logger.warning("%s ranges come from %d vectors only; more make them more stable", precision, len(vectors))
    return np.vstack((np.min(source, axis=0), np.max(source, axis=0)))
