"""Rows rounded each by itself, columns making up for each other: GPTQ, then turns of refitted scales and single codes.

GPTQ: Frantar et al., arXiv 2210.17323; the turns: Behdin et al., QuantEase, arXiv 2309.01885.
The error of codes Q for weights W is trace((W - Q) H (W - Q)'), H = the mean of x x' over the product's inputs x.
O outputs, I inputs, G groups, S weights a group.
"""

from dataclasses import dataclass

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from mlx_hf_bridge.quantization.grid import fit_groups, nearest_codes
from mlx_hf_bridge.quantization.quantized_weights import Floats, QuantizedWeights, round_trip

# Added to the diagonal, as a share of its mean (GPTQ's percdamp).
_DAMPING = 0.01
# Directions that few inputs have keep their weights: the share for matching the float model's products.
_MATCHING_DAMPING = 0.05
REFINEMENT_ROUNDS = 3
_BLOCK = 64
_RIDGE = 1e-7


@dataclass(frozen=True)
class GptqFactors:
    """The order in which columns are rounded, their importance, and how each one's error is passed on."""

    order: npt.NDArray[np.intp]
    importance: Floats
    upper: Floats
    group_size: int


def add_damping(second: Floats, share: float = _DAMPING) -> Floats:
    """H (I, I) with a share of its mean diagonal added; the identity for inputs that were all zero."""
    level = float(np.diag(second).mean())
    if not level > 0:
        return np.eye(len(second), dtype=np.float32)
    return second + np.float32(share * level) * np.eye(len(second), dtype=np.float32)


def match_float_outputs(weights: Floats, second: Floats, cross: Floats, share: float) -> Floats:
    """Weights moved, by a `share`, to where products of the packed model's inputs are those of the float model's.

    second (I, I) = mean of x x', cross (I, I) = mean of x (y - x)' for inputs x of the packed and y of the float model
    (after Li et al., GPTAQ, arXiv 2504.02692).
    """
    moved = np.linalg.solve(add_damping(second, _MATCHING_DAMPING), cross @ weights.T).T
    return weights + np.float32(share) * moved.astype(np.float32)


def refine(weights: Floats, metric: Floats, codes: QuantizedWeights, dtype: mx.Dtype, turns: int) -> QuantizedWeights:
    """Codes after so many turns of refitted scales and single codes, each of which lowers the error."""
    for _ in range(turns):
        codes = _coordinate_descent(weights, metric, refit_scales(weights, metric, codes, dtype))
    return refit_scales(weights, metric, codes, dtype)


def factorize(metric: Floats, group_size: int) -> GptqFactors:
    """Groups, and columns within each, of the largest inputs first."""
    order = _column_order(np.diag(metric), group_size)
    return GptqFactors(order, np.diag(metric)[order], inverse_cholesky(metric[order][:, order]), group_size)


def gptq(weights: Floats, factors: GptqFactors, bits: int, dtype: mx.Dtype) -> QuantizedWeights:
    """Weights (O, I) rounded column by column, what is left of each one's error put on those that follow."""
    outputs, inputs = weights.shape
    order, importance, upper, group_size = factors.order, factors.importance, factors.upper, factors.group_size
    left = np.ascontiguousarray(weights.T[order])  # (I, O), what is still to be rounded
    codes = np.empty_like(left)
    scales, biases = (np.empty((outputs, inputs // group_size), np.float32) for _ in range(2))
    for start in range(0, inputs, group_size):
        end, group = start + group_size, order[start] // group_size
        scale, bias = fit_groups(np.ascontiguousarray(left[start:end].T), importance[start:end], bits, dtype)
        scales[:, group], biases[:, group] = scale, bias
        errors = np.empty((group_size, outputs), np.float32)
        for place in range(start, end):
            codes[place] = nearest_codes(left[place], scale, bias, bits)
            error = (left[place] - codes[place] * scale - bias) / upper[place, place]
            left[place + 1 : end] -= np.outer(upper[place, place + 1 : end], error)
            errors[place - start] = error
        left[end:] -= upper[start:end, end:].T @ errors
    original = np.empty_like(codes)
    original[order] = codes
    return QuantizedWeights(np.ascontiguousarray(original.T), scales, biases, bits)


def _column_order(diagonal: Floats, group_size: int) -> npt.NDArray[np.intp]:
    """Places in the order of rounding: groups, and places within each, of the largest inputs first."""
    grouped = diagonal.reshape(-1, group_size)
    groups = np.argsort(-grouped.sum(axis=1), kind="stable")
    within = np.argsort(-grouped, axis=1, kind="stable")
    return np.concatenate([group * group_size + within[group] for group in groups])


def inverse_cholesky(metric: Floats) -> Floats:
    """Upper U with U' U = the inverse of the metric."""
    inverse = np.linalg.inv(metric.astype(np.float64))
    return np.linalg.cholesky((inverse + inverse.T) / 2).T.astype(np.float32)


def refit_scales(weights: Floats, metric: Floats, codes: QuantizedWeights, dtype: mx.Dtype) -> QuantizedWeights:
    """The same codes with the scales and biases of least error, all groups of an output together."""
    (outputs, inputs), size = weights.shape, codes.group_size
    groups = inputs // size
    by_group = metric.reshape(inputs, groups, size).sum(axis=2)  # (I, G)
    matrix = np.empty((outputs, 2 * groups, 2 * groups), np.float32)
    for group in range(groups):
        rows = slice(group * size, (group + 1) * size)
        spread = codes.values[:, rows] @ metric[rows]  # (O, I)
        matrix[:, group, :groups] = (spread * codes.values).reshape(outputs, groups, size).sum(axis=2)
        matrix[:, group, groups:] = spread.reshape(outputs, groups, size).sum(axis=2)
        matrix[:, groups:, group] = matrix[:, group, groups:]
    matrix[:, groups:, groups:] = by_group.reshape(groups, size, groups).sum(axis=1)
    aim = weights @ metric
    wanted = [(part.reshape(outputs, groups, size)).sum(axis=2) for part in (aim * codes.values, aim)]
    system = matrix.astype(np.float64)
    spots = np.arange(2 * groups)
    system[:, spots, spots] += _RIDGE * system[:, spots, spots].mean(axis=1, keepdims=True)
    found = np.linalg.solve(system, np.concatenate(wanted, axis=1).astype(np.float64)[..., None])[..., 0]
    scales, biases = (round_trip(part.astype(np.float32), dtype) for part in np.split(found, 2, axis=1))
    return _if_better(weights, metric, codes, QuantizedWeights(codes.values, scales, biases, codes.bits))


def _if_better(weights: Floats, metric: Floats, before: QuantizedWeights, after: QuantizedWeights) -> QuantizedWeights:
    """Each output's new scales where they are usable and better; rounding to `dtype` can make them worse."""
    errors = [_errors(weights, metric, codes) for codes in (before, after)]
    is_better = (errors[1] < errors[0]) & (np.abs(after.scales) > 0).all(axis=1)
    scales, biases = (
        np.where(is_better[:, None], new, old)
        for new, old in ((after.scales, before.scales), (after.biases, before.biases))
    )
    return QuantizedWeights(before.values, scales, biases, before.bits)


def _errors(weights: Floats, metric: Floats, codes: QuantizedWeights) -> Floats:
    off = weights - codes.dequantize()
    errors: Floats = ((off @ metric) * off).sum(axis=1)
    return errors


def _coordinate_descent(weights: Floats, metric: Floats, codes: QuantizedWeights) -> QuantizedWeights:
    """Every code in turn set to the best one, given all others of its output."""
    size, diagonal = codes.group_size, np.diag(metric)
    found = np.ascontiguousarray(codes.values.T)
    slope = metric @ np.ascontiguousarray((weights - codes.dequantize()).T)  # (I, O)
    for start in range(0, len(found), _BLOCK):
        end = min(start + _BLOCK, len(found))
        changes = np.zeros((end - start, len(weights)), np.float32)
        near = slope[start:end].copy()
        for place in range(start, end):
            scale, bias = codes.scales[:, place // size], codes.biases[:, place // size]
            aim = found[place] * scale + bias + near[place - start] / diagonal[place]
            better = nearest_codes(aim, scale, bias, codes.bits)
            changes[place - start] = (found[place] - better) * scale
            found[place] = better
            near += np.outer(metric[start:end, place], changes[place - start])
        slope += metric[:, start:end] @ changes
    return QuantizedWeights(np.ascontiguousarray(found.T), codes.scales, codes.biases, codes.bits)
