"""Quantizes embeddings to int8, uint8 or bits, as sentence-transformers does (util/quantization.py).

N embeddings, V their width.
"""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from mlx_hf_bridge.errors import InputError

logger = logging.getLogger(__name__)

PRECISIONS = ("float32", "int8", "uint8", "binary", "ubinary")
# Below this many embeddings sentence-transformers warns about the ranges, and so does this module.
_FEW = 100
# 8 bits have 256 values, which are 255 steps apart.
_STEPS = 255


def check_precision(precision: str | None) -> str:
    """Return a precision once it is checked.

    Args:
        precision: One of PRECISIONS, or None for "float32".

    Returns:
        The precision.

    Raises:
        InputError: If it is another one.
    """
    if precision is not None and precision not in PRECISIONS:
        raise InputError(f"precision={precision!r} is not supported, must be one of {', '.join(PRECISIONS)}.")
    return precision or "float32"


def quantize_embeddings(
    embeddings: Any,
    precision: str,
    ranges: np.ndarray | None = None,
    calibration_embeddings: np.ndarray | None = None,
) -> Any:
    """Quantize embeddings to a smaller format.

    Args:
        embeddings: Float embeddings (N, V) of any library, or a list of such arrays, which then share one range.
        precision: "int8" or "uint8": 256 values between the least and the largest value of each dimension. "binary" or
            "ubinary": one bit for each dimension, 1 for values above 0, eight to a byte. "float32": no change.
        ranges: The least and the largest value of each dimension, (2, V), for "int8" and "uint8". Default: None, those
            of calibration_embeddings, or else of the embeddings themselves.
        calibration_embeddings: Embeddings (M, V) to take the ranges from. Default: None.

    Returns:
        Quantized embeddings of the dtype: (N, V) for int8 and uint8, (N, V / 8) for "binary" (int8) and "ubinary"
        (uint8).

    Raises:
        InputError: If the precision is unknown, the embeddings are integers already, or ranges would have to come from
            a single embedding.
    """
    check_precision(precision)
    if isinstance(embeddings, list) and embeddings and np.ndim(embeddings[0]) == 2:
        if precision.endswith("int8") and ranges is None and any(len(one) for one in embeddings):
            ranges = _ranges(np.concatenate(embeddings), precision, calibration_embeddings)
        return [quantize_embeddings(one, precision, ranges) for one in embeddings]
    vectors = np.asarray(embeddings)
    if vectors.dtype in (np.int8, np.uint8):
        raise InputError(f"embeddings are {vectors.dtype} already, expected floats. Give unquantized embeddings.")
    if precision == "float32":
        return vectors.astype(np.float32)
    if precision.endswith("binary"):
        bits = np.packbits(vectors > 0, axis=-1)
        # sentence-transformers' form: the same bits as signed bytes.
        return (bits - 128).astype(np.int8) if precision == "binary" else bits
    if not len(vectors):
        return vectors.astype(precision)
    if ranges is None:
        ranges = _ranges(vectors, precision, calibration_embeddings)
    return _scalar(vectors, ranges, precision)


def _scalar(vectors: np.ndarray, ranges: np.ndarray, precision: str) -> np.ndarray:
    # [:2]: embeddings of three axes have more rows of ranges, of which the reference reads two.
    starts, ends = ranges.astype(np.float32, copy=False)[:2]
    steps = (ends - starts) / _STEPS
    steps = np.where(steps == 0, 1, steps)  # a constant dimension becomes 0 instead of 0 / 0
    # floor, as in sentence-transformers; values outside the given ranges are clipped instead of wrapping around.
    quantized: np.ndarray = np.clip(np.floor((vectors - starts) / steps), 0, _STEPS)
    # 0 to 255 in uint8, moved down by 128 for int8.
    narrow: np.ndarray = quantized.astype(np.uint8) if precision == "uint8" else (quantized - 128).astype(np.int8)
    return narrow


def _ranges(vectors: np.ndarray, precision: str, calibration: np.ndarray | None) -> np.ndarray:
    """Return the least and the largest value of each dimension, (2, V)."""
    source: Sequence[Any] | np.ndarray = vectors if calibration is None else calibration
    if calibration is None and (vectors.ndim == 1 or len(vectors) == 1):
        raise InputError(
            f"{precision} ranges cannot be computed from a single embedding. Encode several texts, or pass `ranges` or "
            "`calibration_embeddings` to quantize_embeddings."
        )
    if calibration is None and len(vectors) < _FEW:
        logger.warning(
            "%s ranges come from only %d embeddings; with more of them they are more stable", precision, len(vectors)
        )
    return np.vstack((np.min(source, axis=0), np.max(source, axis=0)))
