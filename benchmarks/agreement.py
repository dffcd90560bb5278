"""Compare float32 embeddings with sentence-transformers' on mixed texts, in several orders and batch sizes.

python -m benchmarks.agreement [--texts 1000] [--seed 0]
"""

import random
import time

import numpy as np

from benchmarks.models import parser
from mlx_hf_bridge import MLXSentenceTransformer

WORDS = [
    "time",
    "river",
    "stone",
    "winter",
    "market",
    "engine",
    "garden",
    "letter",
    "violin",
    "harbour",
    "doctor",
    "orange",
    "signal",
    "window",
    "teacher",
    "planet",
    "copper",
    "bridge",
    "silence",
    "summer",
    "train",
    "forest",
    "memory",
    "kitchen",
    "number",
    "colour",
    "mountain",
    "paper",
    "question",
    "history",
    "animal",
    "running",
    "carefully",
    "brighter",
    "unbelievable",
    "42",
    "3.14",
    "Zürich",
    "naïve",
    "co-operate",
    "don't",
    "e-mail",
    "https://example.org",
]
EXTRAS = (
    "😀 🎉 👩‍🔬",
    "数据科学 很有趣",
    "日本語の文章です",
    "한국어 문장",
    "مرحبا بالعالم",
    "Привет мир",
    "\t\n ",
    "a" * 300,
)


def mixed_texts(count: int, seed: int) -> list[str]:
    """Return texts of 1 to 600 words, some with emoji, CJK and other scripts, some empty."""
    chosen = random.Random(seed)
    texts = []
    for _ in range(count):
        kind = chosen.random()
        words = chosen.choices(WORDS, k=int(600 ** chosen.random()))
        if kind < 0.2:
            words.insert(chosen.randrange(len(words) + 1), chosen.choice(EXTRAS))
        texts.append("" if kind > 0.98 else " ".join(words))
    return texts


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--texts", type=int, default=1000)
    arguments.add_argument("--seed", type=int, default=0)
    given = arguments.parse_args()
    texts = mixed_texts(given.texts, given.seed)
    model = MLXSentenceTransformer(given.model)
    from sentence_transformers import SentenceTransformer

    expected = SentenceTransformer(given.model, device="cpu").encode(texts)
    shuffled = random.Random(given.seed).sample(range(len(texts)), len(texts))
    for batch_size, order in ((32, range(len(texts))), (7, shuffled), (500, shuffled[::-1])):
        start = time.perf_counter()
        vectors = model.encode([texts[index] for index in order], batch_size=batch_size)
        worst = float(np.abs(vectors - expected[list(order)]).max())
        seconds = time.perf_counter() - start
        print(f"batch_size {batch_size:4d}: largest difference {worst:.2e} over {len(texts)} texts ({seconds:.0f} s)")


if __name__ == "__main__":
    main()
