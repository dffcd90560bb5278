"""MLX's erf against the rational one that gelu uses on CPUs: time ratio and largest difference.

python -m benchmarks.activations
"""

import mlx_hf_bridge  # noqa: F401  loads the BLAS before mlx.core

# isort: split
import statistics
import time

import mlx.core as mx

from mlx_hf_bridge.layers.feed_forward import rational_erf

ROUNDS = 15


def seconds(function: object, x: mx.array) -> float:
    assert callable(function)
    start = time.perf_counter()
    mx.eval(function(x))
    return time.perf_counter() - start


def main() -> None:
    x = mx.random.normal((2048, 1536)) * 2
    mx.eval(x)
    ratios = [seconds(mx.erf, x) / seconds(rational_erf, x) for _ in range(ROUNDS)]
    wide = mx.linspace(-6, 6, 1_000_001)
    worst = mx.abs(mx.erf(wide) - rational_erf(wide)).max().item()
    print(f"mx.erf takes {statistics.median(ratios):.2f} times as long; largest difference {worst:.1e}")


if __name__ == "__main__":
    main()
