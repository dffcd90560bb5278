"""Show where the time of encoding goes: each part of MiniLM's layers timed alone on one stream, as table and picture.

python -m benchmarks.profile [--output docs/images/profile.svg]
"""

import mlx_hf_bridge  # noqa: F401  loads the BLAS before mlx.core

# isort: split
import argparse
import time
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx

from mlx_hf_bridge.layers.activations import gelu
from mlx_hf_bridge.layers.attention import Attention, attend, merge_heads
from mlx_hf_bridge.layers.encoder import PostNormLayer
from mlx_hf_bridge.layers.feed_forward import FeedForward
from mlx_hf_bridge.runtime import device

ROUNDS = 40
WIDTH, HEADS, INNER, LAYERS = 384, 12, 1536, 6
COLORS = {
    "matmuls": "#3b6fb6",
    "attention": "#7fa6d9",
    "gelu": "#e0a458",
    "norms": "#b9bec7",
    "additions and copies": "#dfe3e8",
}


def best(work: Callable[[], object]) -> float:
    mx.eval(work())
    found = float("inf")
    for _ in range(ROUNDS):
        start = time.perf_counter()
        mx.eval(work())
        found = min(found, time.perf_counter() - start)
    return found


def parts(texts: int, length: int) -> dict[str, float]:
    """Return the microseconds per token of each part, summed over all layers."""
    layer = PostNormLayer(Attention(WIDTH, HEADS), FeedForward(WIDTH, INNER, gelu), WIDTH, 1e-12)
    x, inner = mx.random.normal((texts, length, WIDTH)), mx.random.normal((texts, length, INNER))
    queries, keys, values = (mx.random.normal((texts, HEADS, length, WIDTH // HEADS)) for _ in range(3))
    mx.eval(layer.parameters(), x, inner, queries, keys, values)
    matmuls = [
        lambda: layer.attention.qkv(x),
        lambda: layer.attention.out(x),
        lambda: layer.feed_forward.up(x),
        lambda: layer.feed_forward.down(inner),
    ]
    seconds = {
        "matmuls": sum(map(best, matmuls)),
        "attention": best(lambda: attend(queries, keys, values, 0.2, None, None)),
        "gelu": best(lambda: gelu(inner)),
        "norms": 2 * best(lambda: layer.attention_norm(x)),
        "additions and copies": 2 * best(lambda: x + x) + 4 * best(lambda: mx.contiguous(merge_heads(queries))),
    }
    return {name: taken * LAYERS / (texts * length) * 1e6 for name, taken in seconds.items()}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--output", type=Path, help="the .svg file to draw")
    given = arguments.parse_args()
    found = {}
    with device.one_thread_per_stream():
        for texts, length in ((51, 10), (16, 32), (8, 64), (2, 256)):
            found[f"{length} tokens"] = parts(texts, length)
    print("microseconds per token on one stream, batches of 512 tokens")
    print(f"{'':20s}" + "".join(f"{name:>12s}" for name in found))
    for part in COLORS:
        print(f"{part:20s}" + "".join(f"{taken[part]:12.1f}" for taken in found.values()))
    if given.output:
        draw(given.output, found)


def draw(path: Path, found: dict[str, dict[str, float]]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 2.6))
    for position, taken in enumerate(found.values()):
        left = 0.0
        for part, color in COLORS.items():
            axes.barh(position, taken[part], left=left, color=color, height=0.6, label=part if position == 0 else None)
            left += taken[part]
    axes.set_yticks(range(len(found)), list(found))
    axes.invert_yaxis()
    axes.set_xlabel("microseconds per token, all-MiniLM-L6-v2, one stream")
    axes.legend(ncols=len(COLORS), frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


if __name__ == "__main__":
    main()
