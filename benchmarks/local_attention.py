"""Measure time and memory of ModernBERT's local attention (window 128, 12 heads of 64): in blocks, and as full masked.

python -m benchmarks.local_attention [--lengths 512 2048 8192] [--rounds 3]
"""

import argparse
import statistics
import time
from collections.abc import Callable

import mlx_hf_bridge.runtime.device  # noqa: F401  loads a BLAS before mlx.core

# isort: split
import mlx.core as mx

from mlx_hf_bridge.layers.attention import attend
from mlx_hf_bridge.layers.local_attention import attend_locally, local_mask

HEADS, WIDTH, WINDOW = 12, 64, 64


def attend_with_mask(
    queries: mx.array, keys: mx.array, values: mx.array, scale: float, mask: mx.array, window: int
) -> mx.array:
    """Compute local attention as full attention with a mask, the slow way."""
    return attend(queries, keys, values, scale, local_mask(queries.shape[2], window, mask), None)


def cost(function: Callable[..., mx.array], length: int, rounds: int) -> tuple[float, float]:
    """Return the median seconds and the peak bytes."""
    parts = [mx.random.normal((1, HEADS, length, WIDTH)) for _ in range(3)]
    mask = (mx.arange(length) < length - 5)[None, None, None]
    mx.eval(parts, mask, function(*parts, WIDTH**-0.5, mask, WINDOW))
    mx.reset_peak_memory()
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        mx.eval(function(*parts, WIDTH**-0.5, mask, WINDOW))
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), mx.get_peak_memory()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 2048, 8192])
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    for length in given.lengths:
        for function in (attend_locally, attend_with_mask):
            seconds, peak = cost(function, length, given.rounds)
            print(f"{length:6d} tokens, {function.__name__:15s} {1000 * seconds:9.1f} ms, peak {peak / 2**20:8.1f} MiB")


if __name__ == "__main__":
    main()
