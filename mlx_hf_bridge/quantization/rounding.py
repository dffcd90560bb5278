"""Second-order rounding of each output row by itself: GPTQ, then coordinate descent over scales and single integers.

The error of quantized weights Q for weights W is trace((W - Q) H (W - Q)'), where H is the mean of x x' over the inputs
x of the linear layer: the squared error of the layer's outputs.

O outputs, I inputs, G groups of a row, S weights of a group.

References: Frantar et al., GPTQ, arXiv 2210.17323; Behdin et al., QuantEase (coordinate descent), arXiv 2309.01885;
Li et al., GPTAQ (matching the float model), arXiv 2504.02692.
"""

from dataclasses import dataclass

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from mlx_hf_bridge.quantization.grid import fit_groups, round_to_grid
from mlx_hf_bridge.quantization.quantized_weights import Floats, QuantizedWeights, round_trip

# Added to the diagonal of H, as a share of its mean: GPTQ's percdamp, with its value. H of few texts is nearly
# singular; without damping, errors would be shifted without limit into directions that no calibration input has.
_DAMPING = 0.01
# Damping of the solve that matches the float model's outputs. It moves the weights themselves, so it is damped more:
# directions that few inputs have keep their weights.
_MATCHING_DAMPING = 0.05
# Rounds of refitted scales and coordinate descent. Each round lowers the error, by less than the one before.
REFINEMENT_ROUNDS = 3
# Columns whose effect on one another is applied at once during descent; the rest is one matrix product a block. It
# changes the speed only, not the result but for the order of float32 sums.
_BLOCK = 64
# Added to the diagonal of the scales' normal equations, as a share of its mean, in float64. A group whose integers are
# all equal makes its scale and bias indistinguishable, so that the system is singular; a share this small decides
# between them, and is far below the 5e-4 by which float16 rounds the scales of a regular system.
_RIDGE = 1e-7


@dataclass(frozen=True)
class GptqFactors:
    """What GPTQ needs of H, computed once for a layer.

    Attributes:
        order: The columns in the order in which they are rounded, of shape (I,).
        importance: The diagonal of H in that order, of shape (I,).
        upper: Upper triangular U (I, I) with U' U = the inverse of H in that order; its rows say how the error of a
            column is spread over the columns that follow.
        group_size: How many columns share a scale.
    """

    order: npt.NDArray[np.intp]
    importance: Floats
    upper: Floats
    group_size: int


def add_damping(second: Floats, share: float = _DAMPING) -> Floats:
    """Return H (I, I) with a share of its mean diagonal added; the identity if all inputs were zero."""
    level = float(np.diag(second).mean())
    # Written this way so that NaN ends here too.
    if not level > 0:
        return np.eye(len(second), dtype=np.float32)
    return second + np.float32(share * level) * np.eye(len(second), dtype=np.float32)


def match_float_outputs(weights: Floats, second: Floats, cross: Floats, share: float) -> Floats:
    """Move weights towards those that give the float model's outputs for the quantized model's inputs.

    Args:
        weights: Float weights of shape (O, I).
        second: Mean of x x' over the quantized model's inputs x, of shape (I, I).
        cross: Mean of x (y - x)', with y the float model's inputs, of shape (I, I).
        share: How far to move, from 0 (not at all) to 1 (all the way).

    Returns:
        The moved weights.
    """
    # Least squares: the change of weights that best turns x into the difference y - x times the weights.
    moved = np.linalg.solve(add_damping(second, _MATCHING_DAMPING), cross @ weights.T).T
    return weights + np.float32(share) * moved.astype(np.float32)


def refine(
    weights: Floats, metric: Floats, quantized: QuantizedWeights, dtype: mx.Dtype, rounds: int
) -> QuantizedWeights:
    """Lower the error of quantized weights by alternating refitted scales and coordinate descent over integers.

    Args:
        weights: Float weights of shape (O, I).
        metric: Damped H of shape (I, I).
        quantized: Where to start.
        dtype: What scales and biases are stored in.
        rounds: How often to alternate.

    Returns:
        Quantized weights of the same or a lower error.
    """
    for _ in range(rounds):
        quantized = _coordinate_descent(weights, metric, refit_scales(weights, metric, quantized, dtype))
    return refit_scales(weights, metric, quantized, dtype)


def factorize(metric: Floats, group_size: int) -> GptqFactors:
    """Return GPTQ's factors of a damped H (I, I)."""
    # GPTQ's act_order: columns with large inputs are rounded while there are still others to compensate for them.
    order = _column_order(np.diag(metric), group_size)
    return GptqFactors(order, np.diag(metric)[order], inverse_cholesky(metric[order][:, order]), group_size)


def gptq(weights: Floats, factors: GptqFactors, bits: int, dtype: mx.Dtype) -> QuantizedWeights:
    """Round weights column by column; each column's error is compensated by the columns that follow.

    Args:
        weights: Float weights of shape (O, I).
        factors: The factors of the layer's H.
        bits: Bits of a weight.
        dtype: What scales and biases are stored in.

    Returns:
        The quantized weights.
    """
    outputs, inputs = weights.shape
    order, importance, upper, group_size = factors.order, factors.importance, factors.upper, factors.group_size
    remaining = np.ascontiguousarray(weights.T[order])  # (I, O), what is still to be rounded, errors added
    values = np.empty_like(remaining)
    scales, biases = (np.empty((outputs, inputs // group_size), np.float32) for _ in range(2))
    for start in range(0, inputs, group_size):
        end, group = start + group_size, order[start] // group_size
        # A group's grid is fitted when its turn comes, so that it suits the errors that were shifted into it.
        scale, bias = fit_groups(np.ascontiguousarray(remaining[start:end].T), importance[start:end], bits, dtype)
        scales[:, group], biases[:, group] = scale, bias
        errors = np.empty((group_size, outputs), np.float32)
        for column in range(start, end):
            values[column] = round_to_grid(remaining[column], scale, bias, bits)
            error = (remaining[column] - values[column] * scale - bias) / upper[column, column]
            remaining[column + 1 : end] -= np.outer(upper[column, column + 1 : end], error)
            errors[column - start] = error
        # One matmul for all later columns, as in GPTQ: column by column it would be limited by memory.
        remaining[end:] -= upper[start:end, end:].T @ errors
    original = np.empty_like(values)
    original[order] = values
    return QuantizedWeights(np.ascontiguousarray(original.T), scales, biases, bits)


def _column_order(diagonal: Floats, group_size: int) -> npt.NDArray[np.intp]:
    """Order columns by the size of their inputs, largest first: whole groups, and columns within each group.

    GPTQ's act-order: what matters most is rounded while there are still columns that can compensate. Groups stay
    together, since MLX stores the scales of consecutive columns.
    """
    grouped = diagonal.reshape(-1, group_size)
    groups = np.argsort(-grouped.sum(axis=1), kind="stable")
    within = np.argsort(-grouped, axis=1, kind="stable")
    return np.concatenate([group * group_size + within[group] for group in groups])


def inverse_cholesky(metric: Floats) -> Floats:
    """Return the upper triangular U with U' U = the inverse of the metric.

    The inverse is taken in float64 and made symmetric, since a Cholesky factor exists only of a matrix that is positive
    definite after rounding too.
    """
    # float64, since a nearly singular matrix loses digits when it is inverted.
    inverse = np.linalg.inv(metric.astype(np.float64))
    # Averaged with its transpose, since rounding leaves the inverse not quite symmetric.
    return np.linalg.cholesky((inverse + inverse.T) / 2).T.astype(np.float32)


def refit_scales(weights: Floats, metric: Floats, quantized: QuantizedWeights, dtype: mx.Dtype) -> QuantizedWeights:
    """Return the integers with the scales and biases of least error, all groups of an output row solved together.

    For each row this is a linear system of 2 G unknowns, whose matrix has the blocks Z' H Z, Z' H and H summed over
    groups, with Z the integers of each group.

    Args:
        weights: Float weights of shape (O, I).
        metric: Damped H of shape (I, I).
        quantized: The integers to keep, and the scales to improve.
        dtype: What scales and biases are stored in.

    Returns:
        Quantized weights of the same or a lower error in every row.
    """
    (outputs, inputs), size = weights.shape, quantized.group_size
    groups = inputs // size
    by_group = metric.reshape(inputs, groups, size).sum(axis=2)  # (I, G)
    matrix = np.empty((outputs, 2 * groups, 2 * groups), np.float32)
    for group in range(groups):
        rows = slice(group * size, (group + 1) * size)
        spread = quantized.values[:, rows] @ metric[rows]  # (O, I)
        matrix[:, group, :groups] = (spread * quantized.values).reshape(outputs, groups, size).sum(axis=2)
        matrix[:, group, groups:] = spread.reshape(outputs, groups, size).sum(axis=2)
        matrix[:, groups:, group] = matrix[:, group, groups:]
    matrix[:, groups:, groups:] = by_group.reshape(groups, size, groups).sum(axis=1)
    target = weights @ metric
    wanted = [(part.reshape(outputs, groups, size)).sum(axis=2) for part in (target * quantized.values, target)]
    # float64, for groups whose scale and bias are nearly indistinguishable (see _RIDGE).
    system = matrix.astype(np.float64)
    diagonal = np.arange(2 * groups)
    system[:, diagonal, diagonal] += _RIDGE * system[:, diagonal, diagonal].mean(axis=1, keepdims=True)
    found = np.linalg.solve(system, np.concatenate(wanted, axis=1).astype(np.float64)[..., None])[..., 0]
    scales, biases = (round_trip(part.astype(np.float32), dtype) for part in np.split(found, 2, axis=1))
    refitted = QuantizedWeights(quantized.values, scales, biases, quantized.bits)
    return _better_rows(weights, metric, quantized, refitted)


def _better_rows(
    weights: Floats, metric: Floats, before: QuantizedWeights, after: QuantizedWeights
) -> QuantizedWeights:
    """Take each row's new scales where they are usable and better: rounding them to `dtype` can make them worse."""
    errors = [_errors(weights, metric, quantized) for quantized in (before, after)]
    # A scale that became 0 in the stored dtype would be divided by later.
    is_better = (errors[1] < errors[0]) & (np.abs(after.scales) > 0).all(axis=1)
    scales, biases = (
        np.where(is_better[:, None], new, old)
        for new, old in ((after.scales, before.scales), (after.biases, before.biases))
    )
    return QuantizedWeights(before.values, scales, biases, before.bits)


def _errors(weights: Floats, metric: Floats, quantized: QuantizedWeights) -> Floats:
    difference = weights - quantized.dequantize()
    errors: Floats = ((difference @ metric) * difference).sum(axis=1)
    return errors


def _coordinate_descent(weights: Floats, metric: Floats, quantized: QuantizedWeights) -> QuantizedWeights:
    """Set every integer in turn to the best one, given all others of its row."""
    size, diagonal = quantized.group_size, np.diag(metric)
    values = np.ascontiguousarray(quantized.values.T)
    # The error is quadratic, so the best value of one integer follows from the gradient and the diagonal alone.
    gradient = metric @ np.ascontiguousarray((weights - quantized.dequantize()).T)  # (I, O)
    for start in range(0, len(values), _BLOCK):
        end = min(start + _BLOCK, len(values))
        changes = np.zeros((end - start, len(weights)), np.float32)
        local = gradient[start:end].copy()
        for column in range(start, end):
            scale, bias = quantized.scales[:, column // size], quantized.biases[:, column // size]
            target = values[column] * scale + bias + local[column - start] / diagonal[column]
            better = round_to_grid(target, scale, bias, quantized.bits)
            changes[column - start] = (values[column] - better) * scale
            values[column] = better
            # Updated at once, since the next column is chosen given this one.
            local += np.outer(metric[start:end, column], changes[column - start])
        gradient += metric[:, start:end] @ changes
    return QuantizedWeights(np.ascontiguousarray(values.T), quantized.scales, quantized.biases, quantized.bits)
