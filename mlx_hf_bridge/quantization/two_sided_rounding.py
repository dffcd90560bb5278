"""Second-order rounding for the error of the model's outputs: columns and rows compensate for one another.

The cost of quantized weights Q for weights W is trace(G (W - Q) H (W - Q)'), with H of the layer's inputs and G of its
outputs (curvature.py). Rows are treated as GPTQ treats columns, a block at a time (after Tseng et al., YAQA,
arXiv 2505.22988).

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

# Added to the diagonal of G, as a share of its mean; 30 times what H gets. The product of two factors only approximates
# the true curvature, and G is estimated from few random gradients, so it is shrunk far towards the identity: without
# that, a layer's predicted cost halved and its true cost did not.
_OUTPUT_DAMPING = 0.3
# Output rows that are rounded at a time, each against the same target. Larger blocks are faster, since GPTQ runs over
# all rows of a block at once, and compensate less, since only later blocks make up for a block's errors.
_ROWS = 24
# Rows of an embedding table rounded at a time, so that the arrays of `refine` (O, 2 G, 2 G) stay small.
_TABLE_ROWS = 4096

RowIndex = npt.NDArray[np.intp]


def round_weights(
    weights: Floats,
    inputs: Floats,
    bits: int,
    group_size: int,
    dtype: mx.Dtype = mx.float16,
    outputs: Floats | None = None,
    rounds: int = REFINEMENT_ROUNDS,
) -> QuantizedWeights:
    """Round weights for a small cost trace(outputs (W - Q) inputs (W - Q)').

    Args:
        weights: Float weights of shape (O, I).
        inputs: Second moments of the layer's inputs, of shape (I, I).
        bits: Bits of a weight.
        group_size: How many weights of a row share a scale; divides I.
        dtype: What scales and biases are stored in.
        outputs: Curvature of the outputs, of shape (O, O); None is the identity, which rounds rows independently.
        rounds: Rounds of refinement of independent rows.

    Returns:
        The quantized weights.
    """
    metric = add_damping(inputs)
    factors = factorize(metric, group_size)
    if outputs is None:
        return refine(weights, metric, gptq(weights, factors, bits, dtype), dtype, rounds)
    across = add_damping(outputs, _OUTPUT_DAMPING)
    # Stable, so that equal rows have one order on every machine.
    order = np.argsort(-np.diag(across), kind="stable")
    blocks = [order[start : start + _ROWS] for start in range(0, len(order), _ROWS)]
    quantized = _round_blocks(weights, metric, factors, across, blocks, bits, dtype)
    return _refine_blocks(weights, metric, across, blocks, quantized, dtype)


def round_rows(
    weights: Floats, inputs: Floats, bits: int, group_size: int, dtype: mx.Dtype = mx.float16
) -> QuantizedWeights:
    """Round the rows of a table independently, some thousands at a time.

    Args:
        weights: The table, of shape (rows, I).
        inputs: Curvature of the table's columns, of shape (I, I).
        bits: Bits of a weight.
        group_size: How many weights of a row share a scale; divides I.
        dtype: What scales and biases are stored in.

    Returns:
        The quantized table.
    """
    parts = [
        round_weights(weights[start : start + _TABLE_ROWS], inputs, bits, group_size, dtype)
        for start in range(0, len(weights), _TABLE_ROWS)
    ]
    return _concatenate(parts)


def _round_blocks(
    weights: Floats,
    metric: Floats,
    factors: GptqFactors,
    across: Floats,
    blocks: list[RowIndex],
    bits: int,
    dtype: mx.Dtype,
) -> QuantizedWeights:
    """Round the costliest rows first; later blocks compensate for the errors of those before, as GPTQ's columns do."""
    order = np.concatenate(blocks)
    upper = inverse_cholesky(across[order][:, order])
    remaining = weights[order]  # what is still to be rounded, errors added
    parts = []
    start = 0
    for block in blocks:
        end = start + len(block)
        target = remaining[start:end]
        # One round of refinement here, because _refine_blocks refines again.
        quantized = refine(target, metric, gptq(target, factors, bits, dtype), dtype, 1)
        # As GPTQ divides by the diagonal, for a block of rows at once.
        errors = np.linalg.solve(upper[start:end, start:end].T, target - quantized.dequantize())
        remaining[end:] -= upper[start:end, end:].T @ errors
        parts.append(quantized)
        start = end
    return _select_rows(_concatenate(parts), np.argsort(order))


def _refine_blocks(
    weights: Floats,
    metric: Floats,
    across: Floats,
    blocks: list[RowIndex],
    quantized: QuantizedWeights,
    dtype: mx.Dtype,
) -> QuantizedWeights:
    """Round each block once more for the errors that all other rows have by now, and keep it where it costs less."""
    difference = weights - quantized.dequantize()
    for block in blocks:
        within = across[np.ix_(block, block)]
        others = across[block]
        others[:, block] = 0
        # The block's own part of G is solved as a whole, and the result is kept only where it costs less: when each row
        # was corrected by itself, rows that cost the same thing all answered for one error, and values overflowed.
        target = weights[block] + np.linalg.solve(within, others @ difference)
        before = _select_rows(quantized, block)
        better = refine(target, metric, before, dtype, 1)
        if _cost(target, better, metric, within) < _cost(target, before, metric, within):
            quantized.values[block], quantized.scales[block], quantized.biases[block] = (
                better.values,
                better.scales,
                better.biases,
            )
            difference[block] = weights[block] - better.dequantize()
    return quantized


def _cost(target: Floats, quantized: QuantizedWeights, inputs: Floats, outputs: Floats) -> float:
    difference = target - quantized.dequantize()
    return float(((outputs @ difference) * (difference @ inputs)).sum())


def _select_rows(quantized: QuantizedWeights, rows: RowIndex) -> QuantizedWeights:
    return QuantizedWeights(quantized.values[rows], quantized.scales[rows], quantized.biases[rows], quantized.bits)


def _concatenate(parts: list[QuantizedWeights]) -> QuantizedWeights:
    """Stack quantized weights below one another."""
    values, scales, biases = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("values", "scales", "biases")
    )
    return QuantizedWeights(values, scales, biases, parts[0].bits)
