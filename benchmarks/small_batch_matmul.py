"""Find up to how many rows a matmul is faster with a second copy of the weights in packed tiles.

python -m benchmarks.small_batch_matmul
MiniLM's four linear layers, each with more weights than the caches hold, both ways alternately. Prints the time of the
usual matmul relative to layers/small_batch.py; above 1, packed tiles are faster. runtime/device.py has the resulting
number of rows.
"""

import statistics
import time
from collections.abc import Callable, Sequence

import mlx_hf_bridge  # noqa: F401  loads the BLAS before mlx.core

# isort: split
import mlx.core as mx

from mlx_hf_bridge.layers.small_batch import PackedTiles
from mlx_hf_bridge.runtime.device import SMALL_BATCH_ROWS

SHAPES = ((1152, 384), (384, 384), (1536, 384), (384, 1536))
COPIES = 24
ROUNDS = 15


def seconds(work: Callable[[], Sequence[mx.array]]) -> float:
    start = time.perf_counter()
    mx.eval(work())
    return time.perf_counter() - start


def main() -> None:
    if not SMALL_BATCH_ROWS:
        print("This machine's BLAS has no kernels for small matmuls: packed tiles are not used.")
        return
    print(
        f"up to {SMALL_BATCH_ROWS} rows are used\nrows  "
        + "  ".join(f"{outputs} x {inputs}" for outputs, inputs in SHAPES)
    )
    for rows in range(2, SMALL_BATCH_ROWS + 1, 2):
        ratios = []
        for outputs, inputs in SHAPES:
            x = mx.random.normal((rows, inputs))
            weights = [mx.random.normal((outputs, inputs)) for _ in range(COPIES)]
            blocks = [PackedTiles() for _ in weights]
            mx.eval(x, weights)
            pairs = list(zip(blocks, weights, strict=True))
            for one, weight in pairs:
                while one._tiles is None:
                    one.matmul(x, weight)
            taken = [
                (
                    seconds(lambda x=x, weights=weights: [x @ weight.T for weight in weights]),
                    seconds(lambda x=x, pairs=pairs: [one.matmul(x, weight) for one, weight in pairs]),
                )
                for _ in range(ROUNDS)
            ]
            ratios.append(statistics.median(usual / blocked for usual, blocked in taken))
        print(f"{rows:4d}  " + "  ".join(f"{ratio:10.2f}" for ratio in ratios))


if __name__ == "__main__":
    main()
