"""Fast matmuls with few rows, such as one short query, from weights packed into tiles.

Before a matmul, BLAS copies the weights into an order that suits its kernels. With thousands of rows that is nothing;
with ten rows it is most of the work. Tiles of 32 outputs each make small matmuls, which OpenBLAS computes without the
copy on processors with AVX-512 (benchmarks/small_batch_matmul.py).

Axes: R rows, I inputs, O outputs, N tiles, W outputs of a tile.
"""

import mlx.core as mx

from mlx_hf_bridge.runtime.device import SMALL_BATCH_ROWS

# Outputs of a tile, W. Layers whose width is no multiple of it keep the usual matmul.
WIDTH = 32
# OpenBLAS treats a matmul with more multiplications than that as a large one and copies the weights (interface/gemm.c,
# kernel/x86_64/sgemm_small_kernel_permit_skylakex.c).
_MAX_MULTIPLICATIONS = 10**6
# Tiles are a second copy of the weights in memory, so they are kept from the fifth call on: a process that encodes many
# texts at once, or a single text, never holds them. The first calls build them and drop them again, so that the result
# of a call does not depend, to the last bit, on the number of calls before it.
_CALLS_BEFORE = 4


class PackedTiles:
    """The weights of one linear layer packed into tiles: kept from the fifth call on, rebuilt if the weights change."""

    def __init__(self) -> None:
        self._weight: mx.array | None = None
        self._calls = 0
        self._tiles: mx.array | None = None  # (N, I, W)

    def matmul(self, x: mx.array, weight: mx.array) -> mx.array | None:
        """Return x @ weight.T, computed from tiles.

        Args:
            x: (..., I).
            weight: (O, I).

        Returns:
            Array of shape (..., O), or None where the usual matmul should be used: too many rows, a dtype other than
            float32, or a width that is no multiple of 32.
        """
        outputs, inputs = weight.shape
        rows = x.size // inputs
        # More multiplications per tile than the limit, and BLAS would copy each tile as it copies the whole matrix.
        if not 0 < rows <= SMALL_BATCH_ROWS or outputs % WIDTH or rows * WIDTH * inputs > _MAX_MULTIPLICATIONS:
            return None
        if weight.dtype != mx.float32 or x.dtype != mx.float32:
            return None
        # Identity and not equality: comparing values would cost more than the matmul.
        if weight is not self._weight:
            self._weight, self._calls, self._tiles = weight, 0, None
        self._calls += 1
        tiles = self._tiles
        if tiles is None:
            tiles = mx.contiguous(weight.reshape(-1, WIDTH, inputs).swapaxes(1, 2))
            if self._calls > _CALLS_BEFORE:
                mx.eval(tiles)
                self._tiles = tiles
        result = x.reshape(1, rows, inputs) @ tiles  # (N, R, W)
        return result.swapaxes(0, 1).reshape(*x.shape[:-1], outputs)
