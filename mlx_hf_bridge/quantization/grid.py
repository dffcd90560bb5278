"""Scales and biases of least squared error, group by group, from the weights alone (`method="least_squares"`).

R groups, S weights of a group.
"""

import mlx.core as mx
import numpy as np

from mlx_hf_bridge.quantization.quantized_weights import Floats, QuantizedWeights, round_trip

# Shares of a group's range that are tried as the range of its grid, in steps of 5 %. mx.quantize takes the whole range;
# a narrower one clips outliers to its ends and gives all other weights finer steps, which pays at few bits. The best
# one is kept, so that more shares could only lower the error, and cost time in proportion.
_RANGES = np.linspace(1.0, 0.55, 10)
# Rounding and least squares alternate this often from each range; each round can only lower the error that is kept.
_ROUNDS = 3
# Below this share of its largest possible value the determinant of the 2 x 2 least-squares system is rounding noise:
# the group is constant, or all of its integers are equal, and the scale before is kept.
_SINGULAR = 1e-12
# Keeps the scale of a constant group from being 0, which it is divided by.
_MIN_SCALE = 1e-8
# The smallest normal number of float16 is 2^-14 = 6.1e-5; below it scales lose digits.
_MIN_FLOAT16_SCALE = 6.2e-5
# Groups fitted at a time: the arrays of one trial stay within some tens of MB.
_GROUPS = 2**16


def quantize_least_squares(
    weights: Floats, bits: int, group_size: int, dtype: mx.Dtype = mx.float16
) -> QuantizedWeights:
    """Quantize weights with the least squared error of the weights.

    Args:
        weights: Float weights of shape (O, I).
        bits: Bits of a weight.
        group_size: How many weights of a row share a scale; divides I.
        dtype: What scales and biases are stored in; they are fitted as that dtype rounds them.

    Returns:
        The quantized weights.
    """
    # C order, so that the reshape is a view and a group lies together in memory.
    groups = np.ascontiguousarray(weights, np.float32).reshape(-1, group_size)
    importance = np.ones(group_size, np.float32)
    parts = [
        fit_groups(groups[start : start + _GROUPS], importance, bits, dtype) for start in range(0, len(groups), _GROUPS)
    ]
    scales, biases = (np.concatenate(values) for values in zip(*parts, strict=True))
    values = round_to_grid(groups, scales[:, None], biases[:, None], bits).reshape(weights.shape)
    shape = (len(weights), -1)
    return QuantizedWeights(values, scales.reshape(shape), biases.reshape(shape), bits)


def round_to_grid(weights: Floats, scales: Floats, biases: Floats, bits: int) -> Floats:
    """Return the integer nearest to each weight, from 0 to 2^bits - 1."""
    values: Floats = np.clip(np.rint((weights - biases) / scales), 0, 2**bits - 1)
    return values


def fit_groups(groups: Floats, importance: Floats, bits: int, dtype: mx.Dtype) -> tuple[Floats, Floats]:
    """Fit a scale and a bias to each group by weighted least squares.

    Args:
        groups: Weights of shape (R, S).
        importance: Weight of each column's squared error, of shape (S,).
        bits: Bits of a weight.
        dtype: What scales and biases are stored in.

    Returns:
        Scales (R,) and biases (R,), rounded to `dtype`.
    """
    low, high = groups.min(axis=1), groups.max(axis=1)
    least = np.full(len(groups), np.inf, np.float32)
    best = np.ones_like(least), np.zeros_like(least)
    for share in _RANGES:
        half = (high - low) / 2 * share
        scales = np.maximum(2 * half / (2**bits - 1), _MIN_SCALE)
        biases = (low + high) / 2 - half
        # Rounded to the stored dtype before integers are chosen, so that they fit the scales that will be read back.
        scales, biases = round_trip(np.maximum(scales, _min_scale(dtype)), dtype), round_trip(biases, dtype)
        for attempt in range(_ROUNDS + 1):
            values = round_to_grid(groups, scales[:, None], biases[:, None], bits)
            errors = (importance * (groups - values * scales[:, None] - biases[:, None]) ** 2).sum(axis=1)
            # Kept by comparison: rounding scales to the stored dtype can make a round worse than the one before.
            is_better = errors < least
            least = np.where(is_better, errors, least)
            best = np.where(is_better, scales, best[0]), np.where(is_better, biases, best[1])
            if attempt < _ROUNDS:
                scales, biases = _least_squares(groups, values, importance, scales, dtype)
    return best


def _least_squares(
    groups: Floats, values: Floats, importance: Floats, before: Floats, dtype: mx.Dtype
) -> tuple[Floats, Floats]:
    """Fit a line through each group's (integer, weight) points: its slope is the scale, its intercept the bias."""
    total = importance.sum()
    by_value, by_weight = (importance * values).sum(axis=1), (importance * groups).sum(axis=1)
    squares, products = (importance * values**2).sum(axis=1), (importance * values * groups).sum(axis=1)
    determinant = total * squares - by_value**2
    is_regular = determinant > _SINGULAR * total * squares
    scales = (total * products - by_value * by_weight) / np.where(is_regular, determinant, 1)
    # A negative scale is fine, MLX's packing allows it; one near 0 would lose its digits in float16.
    is_usable = is_regular & (np.abs(scales) > _min_scale(dtype))
    scales = round_trip(np.where(is_usable, scales, before), dtype)
    # The bias is fitted after the scale was rounded, so that it makes up for that rounding.
    return scales, round_trip((by_weight - scales * by_value) / total, dtype)


def _min_scale(dtype: mx.Dtype) -> float:
    return _MIN_FLOAT16_SCALE if dtype == mx.float16 else _MIN_SCALE
