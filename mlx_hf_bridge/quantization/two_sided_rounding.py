"""Weights rounded for what errors cost the answers, columns and rows making up for each other.

The cost of codes Q for weights W is trace(G (W - Q) H (W - Q)'), H of the inputs and G of the outputs (curvature.py);
rows are handled as GPTQ handles columns, a block at a time (after Tseng et al., YAQA, arXiv 2505.22988).
O outputs, I inputs.
"""

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from mlx_hf_bridge.quantization.quantized_weights import Floats, QuantizedWeights
from mlx_hf_bridge.quantization.rounding import (
    REFINEMENT_ROUNDS,
    GptqFactors,
    add_damping,
    factorize,
    gptq,
    inverse_cholesky,
    refine,
)

# The factor of outputs is known less well: it is drawn far towards the identity.
_OUTPUT_DAMPING = 0.3
# Outputs that are rounded at a time, as if they did not make up for each other.
_ROWS = 24
_TABLE_ROWS = 4096


def round_weights(
    weights: Floats,
    inputs: Floats,
    bits: int,
    group_size: int,
    dtype: mx.Dtype = mx.float16,
    outputs: Floats | None = None,
) -> QuantizedWeights:
    """Weights (O, I) -> codes of a small cost, scales as `dtype` stores them.

    The cost of W - Q is trace(outputs (W - Q) inputs (W - Q)'); inputs (I, I), outputs (O, O), None = the identity.
    """
    metric = add_damping(inputs)
    factors = factorize(metric, group_size)
    if outputs is None:
        return refine(weights, metric, gptq(weights, factors, bits, dtype), dtype, REFINEMENT_ROUNDS)
    across = add_damping(outputs, _OUTPUT_DAMPING)
    order = np.argsort(-np.diag(across), kind="stable")
    blocks = [order[start : start + _ROWS] for start in range(0, len(order), _ROWS)]
    codes = _block_by_block(weights, metric, factors, across, blocks, bits, dtype)
    return _turned_across(weights, metric, across, blocks, codes, dtype)


def round_rows(
    weights: Floats, inputs: Floats, bits: int, group_size: int, dtype: mx.Dtype = mx.float16
) -> QuantizedWeights:
    """`round_weights` for the many rows of a table, some thousand at a time."""
    parts = [
        round_weights(weights[start : start + _TABLE_ROWS], inputs, bits, group_size, dtype)
        for start in range(0, len(weights), _TABLE_ROWS)
    ]
    return _joined(parts)


def _block_by_block(
    weights: Floats,
    metric: Floats,
    factors: GptqFactors,
    across: Floats,
    blocks: list[npt.NDArray[np.intp]],
    bits: int,
    dtype: mx.Dtype,
) -> QuantizedWeights:
    """Rows of the costliest outputs first; later ones make up for the errors of those before, as GPTQ's columns do."""
    order = np.concatenate(blocks)
    upper = inverse_cholesky(across[order][:, order])
    left = weights[order]  # what is still to be rounded
    parts = []
    start = 0
    for block in blocks:
        end = start + len(block)
        aim = left[start:end]
        codes = refine(aim, metric, gptq(aim, factors, bits, dtype), dtype, 1)
        errors = np.linalg.solve(upper[start:end, start:end].T, aim - codes.dequantize())
        left[end:] -= upper[start:end, end:].T @ errors
        parts.append(codes)
        start = end
    return _taken(_joined(parts), np.argsort(order))


def _turned_across(
    weights: Floats,
    metric: Floats,
    across: Floats,
    blocks: list[npt.NDArray[np.intp]],
    codes: QuantizedWeights,
    dtype: mx.Dtype,
) -> QuantizedWeights:
    """Each block of rows once more, for the errors that all other rows have by now, where that costs less."""
    off = weights - codes.dequantize()
    for block in blocks:
        among = across[np.ix_(block, block)]
        others = across[block]
        others[:, block] = 0
        aim = weights[block] + np.linalg.solve(among, others @ off)
        before = _taken(codes, block)
        better = refine(aim, metric, before, dtype, 1)
        if _cost(aim, better, metric, among) < _cost(aim, before, metric, among):
            codes.values[block], codes.scales[block], codes.biases[block] = better.values, better.scales, better.biases
            off[block] = weights[block] - better.dequantize()
    return codes


def _cost(aim: Floats, codes: QuantizedWeights, inputs: Floats, outputs: Floats) -> float:
    off = aim - codes.dequantize()
    return float(((outputs @ off) * (off @ inputs)).sum())


def _taken(codes: QuantizedWeights, rows: npt.NDArray[np.intp]) -> QuantizedWeights:
    return QuantizedWeights(codes.values[rows], codes.scales[rows], codes.biases[rows], codes.bits)


def _joined(parts: list[QuantizedWeights]) -> QuantizedWeights:
    """Codes of rows below each other."""
    values, scales, biases = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("values", "scales", "biases")
    )
    return QuantizedWeights(values, scales, biases, parts[0].bits)
