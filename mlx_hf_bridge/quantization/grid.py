"""Scales and biases of least squared error, group by group: no data is needed.

R groups, S weights a group.
"""

import mlx.core as mx
import numpy as np

from mlx_hf_bridge.quantization.quantized_weights import Floats, QuantizedWeights, round_trip

# Shares of a group's range that are tried; outliers beyond it are clipped to the ends.
_RANGES = np.linspace(1.0, 0.55, 10)
_ROUNDS = 3
# A group that is constant, or all of whose codes are alike, has no scale to fit.
_SINGULAR = 1e-12
_LEAST_SCALE = 1e-8
# Groups at a time: what is tried for them stays within some tens of MB.
_GROUPS = 2**16


def quantize_least_squares(
    weights: Floats, bits: int, group_size: int, dtype: mx.Dtype = mx.float16
) -> QuantizedWeights:
    """Weights (O, I) -> codes of least squared error, scales and biases as `dtype` stores them."""
    groups = np.ascontiguousarray(weights, np.float32).reshape(-1, group_size)
    importance = np.ones(group_size, np.float32)
    parts = [
        fit_groups(groups[start : start + _GROUPS], importance, bits, dtype) for start in range(0, len(groups), _GROUPS)
    ]
    scales, biases = (np.concatenate(values) for values in zip(*parts, strict=True))
    codes = nearest_codes(groups, scales[:, None], biases[:, None], bits).reshape(weights.shape)
    shape = (len(weights), -1)
    return QuantizedWeights(codes, scales.reshape(shape), biases.reshape(shape), bits)


def nearest_codes(weights: Floats, scales: Floats, biases: Floats, bits: int) -> Floats:
    """The nearest code to each weight."""
    values: Floats = np.clip(np.rint((weights - biases) / scales), 0, 2**bits - 1)
    return values


def fit_groups(groups: Floats, importance: Floats, bits: int, dtype: mx.Dtype) -> tuple[Floats, Floats]:
    """groups (R, S), importance (S,) of each place's squared error -> scales and biases (R,).

    Ranges are tried from whole to narrow; in each, rounding and least squares take turns.
    """
    low, high = groups.min(axis=1), groups.max(axis=1)
    least = np.full(len(groups), np.inf, np.float32)
    best = np.ones_like(least), np.zeros_like(least)
    for share in _RANGES:
        half = (high - low) / 2 * share
        scales = np.maximum(2 * half / (2**bits - 1), _LEAST_SCALE)
        biases = (low + high) / 2 - half
        scales, biases = round_trip(np.maximum(scales, _smallest(dtype)), dtype), round_trip(biases, dtype)
        for turn in range(_ROUNDS + 1):
            codes = nearest_codes(groups, scales[:, None], biases[:, None], bits)
            errors = (importance * (groups - codes * scales[:, None] - biases[:, None]) ** 2).sum(axis=1)
            is_better = errors < least
            least = np.where(is_better, errors, least)
            best = np.where(is_better, scales, best[0]), np.where(is_better, biases, best[1])
            if turn < _ROUNDS:
                scales, biases = _solved(groups, codes, importance, scales, dtype)
    return best


def _solved(
    groups: Floats, codes: Floats, importance: Floats, before: Floats, dtype: mx.Dtype
) -> tuple[Floats, Floats]:
    """Weighted least squares of a line through each group's (code, weight) points."""
    total = importance.sum()
    by_code, by_weight = (importance * codes).sum(axis=1), (importance * groups).sum(axis=1)
    squares, products = (importance * codes**2).sum(axis=1), (importance * codes * groups).sum(axis=1)
    determinant = total * squares - by_code**2
    is_regular = determinant > _SINGULAR * total * squares
    scales = (total * products - by_code * by_weight) / np.where(is_regular, determinant, 1)
    is_usable = is_regular & (np.abs(scales) > _smallest(dtype))
    scales = round_trip(np.where(is_usable, scales, before), dtype)
    return scales, round_trip((by_weight - scales * by_code) / total, dtype)


def _smallest(dtype: mx.Dtype) -> float:
    """Below it float16 has no normal numbers."""
    return 6.2e-5 if dtype == mx.float16 else _LEAST_SCALE
