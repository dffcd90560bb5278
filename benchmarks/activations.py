"""Compare MLX's transcendental functions with this project's CPU versions of additions and multiplications.

Prints how many times as long MLX's take, and the largest difference.

python -m benchmarks.activations
"""

import mlx_hf_bridge  # noqa: F401  loads the BLAS before mlx.core

# isort: split
import math
import statistics
import time
from collections.abc import Callable
from functools import partial

import mlx.core as mx

from mlx_hf_bridge.layers.activations import cpu_gelu
from mlx_hf_bridge.layers.attention import cpu_attention
from mlx_hf_bridge.layers.fast_math import LOG2_E, exp2_nonpositive, sigmoid, tanh

ROUNDS = 15
PAIRS: dict[str, tuple[Callable[[mx.array], mx.array], Callable[[mx.array], mx.array]]] = {
    "gelu": (lambda x: x * (mx.erf(x * math.sqrt(0.5)) + 1) * 0.5, cpu_gelu),
    "exp of -|x|": (lambda x: mx.exp(-mx.abs(x)), lambda x: exp2_nonpositive(-mx.abs(x) * LOG2_E)),
    "sigmoid": (mx.sigmoid, sigmoid),
    "tanh": (mx.tanh, tanh),
}


def seconds(work: Callable[[], mx.array]) -> float:
    start = time.perf_counter()
    mx.eval(work())
    return time.perf_counter() - start


def line(
    name: str, mlx_function: Callable[[], mx.array], bridge_function: Callable[[], mx.array], worst: float
) -> None:
    ratios = [seconds(mlx_function) / seconds(bridge_function) for _ in range(ROUNDS)]
    print(f"{name:12s} takes MLX {statistics.median(ratios):5.2f} times as long; largest difference {worst:.1e}")


def main() -> None:
    x, wide = mx.random.normal((512, 1536)) * 2, mx.linspace(-12, 12, 1_000_001)
    mx.eval(x, wide)
    for name, (mlx_function, bridge_function) in PAIRS.items():
        worst = mx.abs(mlx_function(wide) - bridge_function(wide)).max().item()
        line(name, partial(mlx_function, x), partial(bridge_function, x), float(str(worst)))
    parts = [mx.random.normal((8, 12, 64, 32)) for _ in range(3)]
    mx.eval(parts)
    mlx_attend = partial(mx.fast.scaled_dot_product_attention, *parts, scale=0.2)
    bridge_attend = partial(cpu_attention, *parts, 0.2, None, None)
    line("attention", mlx_attend, bridge_attend, float(str(mx.abs(mlx_attend() - bridge_attend()).max().item())))


if __name__ == "__main__":
    main()
