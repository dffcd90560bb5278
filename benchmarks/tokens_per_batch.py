"""Find how many padded tokens a batch should hold on this machine: the time of small batches relative to 4,096 tokens.

python -m benchmarks.tokens_per_batch [--texts 200] [--rounds 5]
"""

import statistics
import time

from benchmarks.agreement import mixed_texts
from benchmarks.models import parser
from mlx_hf_bridge import MLXSentenceTransformer
from mlx_hf_bridge.runtime.device import TOKENS_PER_TEXT

SIZES = (256, 384, 512, 1024, 2048, 4096)


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--texts", type=int, default=200)
    arguments.add_argument("--rounds", type=int, default=5)
    given = arguments.parse_args()
    model, texts = MLXSentenceTransformer(given.model), mixed_texts(given.texts, 0)
    model.encode(texts[:8])
    seconds: dict[int, list[float]] = {size: [] for size in SIZES}
    for _ in range(given.rounds):
        for size in SIZES:
            start = time.perf_counter()
            model.encode(texts, batch_size=max(1, round(size / TOKENS_PER_TEXT)))
            seconds[size].append(time.perf_counter() - start)
    for size in SIZES:
        ratios = [small / largest for small, largest in zip(seconds[size], seconds[SIZES[-1]], strict=True)]
        print(
            f"{size:5d} tokens: {statistics.median(ratios):.2f} of the time of {SIZES[-1]} (medians of {given.rounds})"
        )


if __name__ == "__main__":
    main()
