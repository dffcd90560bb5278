"""Rounding that makes up for its own errors: GPTQ, then turns of refitted scales and single codes.

GPTQ: Frantar et al., arXiv 2210.17323; the turns: Behdin et al., QuantEase, arXiv 2309.01885; the same across outputs,
whose errors make up for each other too: Tseng et al., YAQA, arXiv 2505.22988.
The cost of codes Q for weights W is trace(G (W - Q) H (W - Q)'), H of the inputs and G of the outputs (curvature.py).
O outputs, I inputs, G groups, S weights a group.
"""

from dataclasses import dataclass

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from mlx_hf_bridge.quantization.codes import Codes, Floats, as_stored
from mlx_hf_bridge.quantization.grid import fit, nearest

# Added to the diagonal, as a share of its mean (GPTQ's percdamp).
_DAMPING = 0.01
# Directions that few inputs have keep their weights: the share for matching the float model's products.
_MATCHING_DAMPING = 0.05
_TURNS = 3
# The factor of outputs is known less well: it is drawn far towards the identity.
_OUTPUT_DAMPING = 0.3
# Outputs that are rounded at a time, as if they did not make up for each other.
_ROWS = 24
_TABLE_ROWS = 4096
_BLOCK = 64
_RIDGE = 1e-7


@dataclass(frozen=True)
class _Way:
    """The order in which columns are rounded, their importance, and how each one's error is passed on."""

    order: npt.NDArray[np.intp]
    importance: Floats
    upper: Floats
    group_size: int


def damped(second: Floats, share: float = _DAMPING) -> Floats:
    """H (I, I) with a share of its mean diagonal added; the identity for inputs that were all zero."""
    level = float(np.diag(second).mean())
    if not level > 0:
        return np.eye(len(second), dtype=np.float32)
    return second + np.float32(share * level) * np.eye(len(second), dtype=np.float32)


def matched(weights: Floats, second: Floats, cross: Floats, share: float) -> Floats:
    """Weights moved, by a `share`, to where products of the packed model's inputs are those of the float model's.

    second (I, I) = mean of x x', cross (I, I) = mean of x (y - x)' for inputs x of the packed and y of the float model
    (after Li et al., GPTAQ, arXiv 2504.02692).
    """
    moved = np.linalg.solve(damped(second, _MATCHING_DAMPING), cross @ weights.T).T
    return weights + np.float32(share) * moved.astype(np.float32)


def rounded(
    weights: Floats,
    inputs: Floats,
    bits: int,
    group_size: int,
    dtype: mx.Dtype = mx.float16,
    outputs: Floats | None = None,
) -> Codes:
    """Weights (O, I) -> codes of a small cost, scales as `dtype` stores them.

    The cost of W - Q is trace(outputs (W - Q) inputs (W - Q)'); inputs (I, I), outputs (O, O), None = the identity.
    """
    metric = damped(inputs)
    way = _way_through(metric, group_size)
    if outputs is None:
        return _turned(weights, metric, _gptq(weights, way, bits, dtype), dtype, _TURNS)
    across = damped(outputs, _OUTPUT_DAMPING)
    order = np.argsort(-np.diag(across), kind="stable")
    blocks = [order[start : start + _ROWS] for start in range(0, len(order), _ROWS)]
    codes = _block_by_block(weights, metric, way, across, blocks, bits, dtype)
    return _turned_across(weights, metric, across, blocks, codes, dtype)


def rounded_rows(weights: Floats, inputs: Floats, bits: int, group_size: int, dtype: mx.Dtype = mx.float16) -> Codes:
    """`rounded` for the many rows of a table, some thousand at a time."""
    parts = [
        rounded(weights[start : start + _TABLE_ROWS], inputs, bits, group_size, dtype)
        for start in range(0, len(weights), _TABLE_ROWS)
    ]
    return _joined(parts)


def _turned(weights: Floats, metric: Floats, codes: Codes, dtype: mx.Dtype, turns: int) -> Codes:
    for _ in range(turns):
        codes = _descended(weights, metric, refitted(weights, metric, codes, dtype))
    return refitted(weights, metric, codes, dtype)


def _block_by_block(
    weights: Floats,
    metric: Floats,
    way: _Way,
    across: Floats,
    blocks: list[npt.NDArray[np.intp]],
    bits: int,
    dtype: mx.Dtype,
) -> Codes:
    """Rows of the costliest outputs first; later ones make up for the errors of those before, as GPTQ's columns do."""
    order = np.concatenate(blocks)
    upper = _inverse_root(across[order][:, order])
    left = weights[order]  # what is still to be rounded
    parts = []
    start = 0
    for block in blocks:
        end = start + len(block)
        aim = left[start:end]
        codes = _turned(aim, metric, _gptq(aim, way, bits, dtype), dtype, 1)
        errors = np.linalg.solve(upper[start:end, start:end].T, aim - codes.weights())
        left[end:] -= upper[start:end, end:].T @ errors
        parts.append(codes)
        start = end
    return _taken(_joined(parts), np.argsort(order))


def _turned_across(
    weights: Floats,
    metric: Floats,
    across: Floats,
    blocks: list[npt.NDArray[np.intp]],
    codes: Codes,
    dtype: mx.Dtype,
) -> Codes:
    """Each block of rows once more, for the errors that all other rows have by now."""
    off = weights - codes.weights()
    for block in blocks:
        shares = across[block] / np.diag(across)[block][:, None]
        shares[np.arange(len(block)), block] = 0
        aim = weights[block] + shares @ off
        better = _turned(aim, metric, _taken(codes, block), dtype, 1)
        codes.codes[block], codes.scales[block], codes.biases[block] = better.codes, better.scales, better.biases
        off[block] = weights[block] - better.weights()
    return codes


def _taken(codes: Codes, rows: npt.NDArray[np.intp]) -> Codes:
    return Codes(codes.codes[rows], codes.scales[rows], codes.biases[rows], codes.bits)


def _joined(parts: list[Codes]) -> Codes:
    """Codes of rows below each other."""
    codes, scales, biases = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("codes", "scales", "biases")
    )
    return Codes(codes, scales, biases, parts[0].bits)


def error_of(weights: Floats, codes: Codes, second: Floats) -> float:
    """Mean squared error of the product over inputs of second moment `second`, summed over outputs."""
    off = weights - codes.weights()
    return float(((off @ second) * off).sum())


def _way_through(metric: Floats, group_size: int) -> _Way:
    order = _by_weight(np.diag(metric), group_size)
    return _Way(order, np.diag(metric)[order], _inverse_root(metric[order][:, order]), group_size)


def _gptq(weights: Floats, way: _Way, bits: int, dtype: mx.Dtype) -> Codes:
    outputs, inputs = weights.shape
    order, importance, upper, group_size = way.order, way.importance, way.upper, way.group_size
    left = np.ascontiguousarray(weights.T[order])  # (I, O), what is still to be rounded
    codes = np.empty_like(left)
    scales, biases = (np.empty((outputs, inputs // group_size), np.float32) for _ in range(2))
    for start in range(0, inputs, group_size):
        end, group = start + group_size, order[start] // group_size
        scale, bias = fit(np.ascontiguousarray(left[start:end].T), importance[start:end], bits, dtype)
        scales[:, group], biases[:, group] = scale, bias
        errors = np.empty((group_size, outputs), np.float32)
        for place in range(start, end):
            codes[place] = nearest(left[place], scale, bias, bits)
            error = (left[place] - codes[place] * scale - bias) / upper[place, place]
            left[place + 1 : end] -= np.outer(upper[place, place + 1 : end], error)
            errors[place - start] = error
        left[end:] -= upper[start:end, end:].T @ errors
    original = np.empty_like(codes)
    original[order] = codes
    return Codes(np.ascontiguousarray(original.T), scales, biases, bits)


def _by_weight(diagonal: Floats, group_size: int) -> npt.NDArray[np.intp]:
    """Places in the order of rounding: groups, and places within each, of the largest inputs first."""
    grouped = diagonal.reshape(-1, group_size)
    groups = np.argsort(-grouped.sum(axis=1), kind="stable")
    within = np.argsort(-grouped, axis=1, kind="stable")
    return np.concatenate([group * group_size + within[group] for group in groups])


def _inverse_root(metric: Floats) -> Floats:
    """Upper U with U' U = the inverse of the metric."""
    inverse = np.linalg.inv(metric.astype(np.float64))
    return np.linalg.cholesky((inverse + inverse.T) / 2).T.astype(np.float32)


def refitted(weights: Floats, metric: Floats, codes: Codes, dtype: mx.Dtype) -> Codes:
    """The same codes with the scales and biases of least error, all groups of an output together."""
    (outputs, inputs), size = weights.shape, codes.group_size
    groups = inputs // size
    by_group = metric.reshape(inputs, groups, size).sum(axis=2)  # (I, G)
    matrix = np.empty((outputs, 2 * groups, 2 * groups), np.float32)
    for group in range(groups):
        rows = slice(group * size, (group + 1) * size)
        spread = codes.codes[:, rows] @ metric[rows]  # (O, I)
        matrix[:, group, :groups] = (spread * codes.codes).reshape(outputs, groups, size).sum(axis=2)
        matrix[:, group, groups:] = spread.reshape(outputs, groups, size).sum(axis=2)
        matrix[:, groups:, group] = matrix[:, group, groups:]
    matrix[:, groups:, groups:] = by_group.reshape(groups, size, groups).sum(axis=1)
    aim = weights @ metric
    wanted = [(part.reshape(outputs, groups, size)).sum(axis=2) for part in (aim * codes.codes, aim)]
    system = matrix.astype(np.float64)
    spots = np.arange(2 * groups)
    system[:, spots, spots] += _RIDGE * system[:, spots, spots].mean(axis=1, keepdims=True)
    found = np.linalg.solve(system, np.concatenate(wanted, axis=1).astype(np.float64)[..., None])[..., 0]
    scales, biases = (as_stored(part.astype(np.float32), dtype) for part in np.split(found, 2, axis=1))
    return _if_better(weights, metric, codes, Codes(codes.codes, scales, biases, codes.bits))


def _if_better(weights: Floats, metric: Floats, before: Codes, after: Codes) -> Codes:
    """Each output's new scales where they are usable and better; rounding to `dtype` can make them worse."""
    errors = [_errors(weights, metric, codes) for codes in (before, after)]
    is_better = (errors[1] < errors[0]) & (np.abs(after.scales) > 0).all(axis=1)
    scales, biases = (
        np.where(is_better[:, None], new, old)
        for new, old in ((after.scales, before.scales), (after.biases, before.biases))
    )
    return Codes(before.codes, scales, biases, before.bits)


def _errors(weights: Floats, metric: Floats, codes: Codes) -> Floats:
    off = weights - codes.weights()
    errors: Floats = ((off @ metric) * off).sum(axis=1)
    return errors


def _descended(weights: Floats, metric: Floats, codes: Codes) -> Codes:
    """Every code in turn set to the best one, given all others of its output."""
    size, diagonal = codes.group_size, np.diag(metric)
    found = np.ascontiguousarray(codes.codes.T)
    slope = metric @ np.ascontiguousarray((weights - codes.weights()).T)  # (I, O)
    for start in range(0, len(found), _BLOCK):
        end = min(start + _BLOCK, len(found))
        changes = np.zeros((end - start, len(weights)), np.float32)
        near = slope[start:end].copy()
        for place in range(start, end):
            scale, bias = codes.scales[:, place // size], codes.biases[:, place // size]
            aim = found[place] * scale + bias + near[place - start] / diagonal[place]
            better = nearest(aim, scale, bias, codes.bits)
            changes[place - start] = (found[place] - better) * scale
            found[place] = better
            near += np.outer(metric[start:end, place], changes[place - start])
        slope += metric[:, start:end] @ changes
    return Codes(np.ascontiguousarray(found.T), codes.scales, codes.biases, codes.bits)
