"""Show where the time of encoding goes: each part of MiniLM's layers timed alone on one stream, as table and picture.

python -m benchmarks.profile [--figures docs/profile.json] [--output docs/images/profile.svg]
"""

import mlx_hf_bridge  # noqa: F401  loads the BLAS before mlx.core

# isort: split
import argparse
import json
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
# The color of each part, and of the text on it.
COLORS = {
    "matmuls": ("#1f5fbf", "white"),
    "attention": ("#7fb0ea", "black"),
    "gelu": ("#e0a458", "black"),
    "norms": ("#5d6875", "white"),
    "additions and copies": ("#c3cad3", "black"),
}
# The smallest share of a bar that has room for a label.
_LABELED = 0.045


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
    arguments.add_argument("--figures", type=Path, help="where to keep the figures; drawn from, if it exists")
    given = arguments.parse_args()
    if given.figures and given.figures.is_file():
        found = json.loads(given.figures.read_text(encoding="utf-8"))
    else:
        found = measure()
    print("microseconds per token on one stream, batches of 512 tokens")
    print(f"{'':20s}" + "".join(f"{name:>12s}" for name in found))
    for part in COLORS:
        print(f"{part:20s}" + "".join(f"{taken[part]:12.1f}" for taken in found.values()))
    if given.figures:
        given.figures.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if given.output:
        draw(given.output, found)


def measure() -> dict[str, dict[str, float]]:
    """Return the parts of a layer for texts of four lengths."""
    with device.one_thread_per_stream():
        return {f"{length} tokens": parts(texts, length) for texts, length in ((51, 10), (16, 32), (8, 64), (2, 256))}


def draw(path: Path, found: dict[str, dict[str, float]]) -> None:
    """Draw a bar for each length, with the share of every part that is wide enough for a label."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"svg.fonttype": "none", "svg.hashsalt": path.stem}):
        figure = Figure(figsize=(9, 2.7), layout="constrained")
        figure.patch.set_facecolor("white")
        axes = figure.add_subplot()
        for position, taken in enumerate(found.values()):
            left, total = 0.0, sum(taken.values())
            for part, (color, ink) in COLORS.items():
                axes.barh(position, taken[part], left=left, color=color, height=0.62, label=None if position else part)
                if taken[part] > _LABELED * total:
                    share = f"{taken[part] / total:.0%}"
                    axes.text(left + taken[part] / 2, position, share, color=ink, fontsize=8, ha="center", va="center")
                left += taken[part]
        axes.set_yticks(range(len(found)), [f"texts of {name}" for name in found])
        axes.invert_yaxis()
        axes.set_xlabel("microseconds per token, all-MiniLM-L6-v2, one stream (less is better)")
        axes.legend(ncols=len(COLORS), frameon=False, fontsize=9, loc="lower left", bbox_to_anchor=(0, 1))
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
