"""Products of few rows, such as one short query, on CPUs whose BLAS multiplies small matrices as they lie in memory.

For each product BLAS first copies the weights into an order that suits its kernels. For thousands of rows that is
nothing, for ten it is most of the work. Weights in blocks of some outputs each make small products, which OpenBLAS
computes without the copy where the processor has AVX-512 (measured by benchmarks/small_batch_matmul.py).

R rows, I inputs, O outputs, N blocks, W outputs a block.
"""

import mlx.core as mx

from mlx_hf_bridge.runtime.device import SMALL_BATCH_ROWS

WIDTH = 32
# OpenBLAS takes a product of more multiplications than that to be a large one (interface/gemm.c,
# kernel/x86_64/sgemm_small_kernel_permit_skylakex.c).
_MOST_MULTIPLICATIONS = 10**6
# The blocks are a second copy of the weights, so they are made for those who keep asking.
_CALLS_BEFORE = 4


class PackedTiles:
    """Of one product's weights, made when they are asked for once more; they follow weights that are replaced."""

    def __init__(self) -> None:
        self._weight: mx.array | None = None
        self._calls = 0
        self._blocks: mx.array | None = None  # (N, I, W)

    def matmul(self, x: mx.array, weight: mx.array) -> mx.array | None:
        """x (..., I) -> x @ weight.T (..., O); None where the usual product serves better."""
        outputs, inputs = weight.shape
        rows = x.size // inputs
        if not 0 < rows <= SMALL_BATCH_ROWS or outputs % WIDTH or rows * WIDTH * inputs > _MOST_MULTIPLICATIONS:
            return None
        if weight.dtype != mx.float32 or x.dtype != mx.float32:
            return None
        if weight is not self._weight:
            self._weight, self._calls, self._blocks = weight, 0, None
        self._calls += 1
        if self._calls <= _CALLS_BEFORE:
            return None
        if self._blocks is None:
            self._blocks = mx.contiguous(weight.reshape(-1, WIDTH, inputs).swapaxes(1, 2))
            mx.eval(self._blocks)
        product = x.reshape(1, rows, inputs) @ self._blocks  # (N, R, W)
        return product.swapaxes(0, 1).reshape(*x.shape[:-1], outputs)
