"""Measure what mx.compile of the whole model would gain for a single text: first call, then alternating calls.

python -m benchmarks.compiled [--rounds 200]
"""

import statistics
import time
from collections.abc import Callable

from benchmarks.models import parser
from mlx_hf_bridge import MLXAutoModel

# isort: split
import mlx.core as mx

from mlx_hf_bridge.layers.token_batch import TokenBatch


def seconds(work: Callable[[], mx.array]) -> float:
    start = time.perf_counter()
    mx.eval(work())
    return time.perf_counter() - start


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--rounds", type=int, default=200)
    given = arguments.parse_args()
    model, ids = MLXAutoModel.from_pretrained(given.model).loaded.model, mx.arange(2000, 2010)[None]

    def forward(rows: mx.array) -> mx.array:
        hidden: mx.array = model(TokenBatch(rows)).hidden
        return hidden

    compiled = mx.compile(forward)
    print(f"first compiled call: {seconds(lambda: compiled(ids)):.2f} s; first uncompiled one: ", end="")
    print(f"{seconds(lambda: forward(ids)):.3f} s")
    plain, fast = [], []
    for _ in range(given.rounds):
        plain.append(seconds(lambda: forward(ids)))
        fast.append(seconds(lambda: compiled(ids)))
    p50, p50_fast = statistics.median(plain) * 1e3, statistics.median(fast) * 1e3
    print(f"ten tokens, medians of {given.rounds}: {p50:.2f} ms uncompiled, {p50_fast:.2f} ms compiled")


if __name__ == "__main__":
    main()
