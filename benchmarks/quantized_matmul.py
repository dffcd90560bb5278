"""Find the number of rows from which dequantizing a layer is faster than MLX's quantized_matmul on this CPU.

python -m benchmarks.quantized_matmul [--bits 8]
Times both alternately on one 384 x 1536 layer; runtime/device.py has the resulting number of rows.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import mlx_hf_bridge  # noqa: F401  loads the BLAS before mlx.core

# isort: split
import mlx.core as mx

ROUNDS = 15


def seconds(work: Callable[[], mx.array]) -> float:
    start = time.perf_counter()
    mx.eval(work())
    return time.perf_counter() - start


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--bits", type=int, default=8)
    bits = arguments.parse_args().bits
    weight, scales, biases = mx.quantize(mx.random.normal((1536, 384)), bits=bits)
    mx.eval(weight, scales, biases)
    print("rows  quantized/dequantized (medians of", ROUNDS, "pairs)")
    for rows in (1, 2, 3, 4, 6, 8, 16, 64, 256):
        x = mx.random.normal((rows, 384))
        mx.eval(x)
        ratios = []
        for _ in range(ROUNDS):
            quantized = seconds(lambda x=x: mx.quantized_matmul(x, weight, scales, biases, bits=bits))
            dequantized = seconds(lambda x=x: x @ mx.dequantize(weight, scales, biases, bits=bits).T)
            ratios.append(quantized / dequantized)
        print(f"{rows:4d}  {statistics.median(ratios):6.2f}")


if __name__ == "__main__":
    main()
