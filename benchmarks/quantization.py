"""Measure every recipe's size and accuracy, and write the table and picture of docs/quantization.md.

python -m benchmarks.quantization --sts stsb-dev.csv [--news news.csv] [--calibration stsb-train.csv] [--recipes a,b]
The STS files have the columns text, text, score, as the STS benchmark is published; --news has the label, title and
text of AG News. With --calibration, only calibrated recipes are measured, calibrated with texts of that file ("q4-best,
own texts").
Figures go to docs/quantization.json, recipe by recipe, and from there into the table and docs/images/quantization.svg;
--draw draws without measuring.
"""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from benchmarks.fidelity import read_pairs
from benchmarks.models import parser
from mlx_hf_bridge import MLXSentenceTransformer
from mlx_hf_bridge.quantization.methods import READS_TEXTS
from mlx_hf_bridge.quantization.recipes import RECIPES, MLXQuantizationConfig

DOCS = Path(__file__).parent.parent / "docs"
FIGURES, PICTURE = DOCS / "quantization.json", DOCS / "images" / "quantization.svg"
PAGE, MARKERS = DOCS / "quantization.md", ("<!-- table -->", "<!-- end of table -->")
OWN_TEXTS = ", own texts"
CALIBRATION_TEXTS = 2500
NEWS_TEXTS = 500
# The worst of more texts is lower; other published measurements take this many.
FIRST_PAIRS = 256
COLORS = {"plain": "#7b8794", "no texts": "#d9822b", "calibrated": "#1f5fbf", "mixed": "#0b7a4b"}
LEGEND = {
    "plain": "rounded (q4-rtn: plain rounding in 4 bits)",
    "no texts": "no texts read",
    "calibrated": "calibrated on the bundled texts",
    "mixed": "mixed precision, calibrated",
}


def kind(name: str) -> str:
    recipe = RECIPES[name.removesuffix(OWN_TEXTS)]
    if recipe.has_target:
        return "mixed"
    calibrated = ("auto", "gptq", "distill")
    return "calibrated" if recipe.method in calibrated else "plain" if recipe.method == "minmax" else "no texts"


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class Measurement:
    """The evaluation texts with their embeddings by the float model; call it with a recipe to measure that."""

    def __init__(self, model: str, sts: str, every: int, news: str | None) -> None:
        first, second, scores = (column[::every] for column in read_pairs(sts))
        self.model, self.scores, self.texts = model, scores, [*first, *second]
        self.news: list[str] = []
        if news:
            with Path(news).open(encoding="utf-8", newline="") as file:
                self.news = [f"{row[1]}. {row[2]}" for row in csv.reader(file)][:NEWS_TEXTS:every]
        self.reference = self.vectors(MLXSentenceTransformer(model))

    def vectors(self, model: MLXSentenceTransformer) -> list[np.ndarray]:
        return [unit(model.encode(texts)) for texts in (self.texts, self.news) if texts]

    def spearman(self, vectors: np.ndarray) -> float:
        half = len(self.scores)
        return 100 * float(spearmanr((vectors[:half] * vectors[half:]).sum(axis=1), self.scores)[0])

    def __call__(self, recipe: MLXQuantizationConfig) -> dict[str, Any]:
        model = MLXSentenceTransformer(self.model, quantization_config=recipe)
        vectors = self.vectors(model)
        cosines = [(a * b).sum(axis=1) for a, b in zip(vectors, self.reference, strict=True)]
        size = (model.folder / "model.safetensors").stat().st_size
        found = {
            "ratio": size / (Path(self.model) / "model.safetensors").stat().st_size,
            "mean": float(cosines[0].mean()),
            "p1": float(np.percentile(cosines[0], 1)),
            "worst": float(cosines[0].min()),
            "spearman": self.spearman(vectors[0]),
            "spearman_float": self.spearman(self.reference[0]),
            "texts": len(self.texts),
        }
        first = np.concatenate([half[:FIRST_PAIRS] for half in np.split(cosines[0], 2)])
        found |= {"first_mean": float(first.mean()), "first_worst": float(first.min())}
        if len(cosines) > 1:
            found |= {"news_mean": float(cosines[1].mean()), "news_worst": float(cosines[1].min())}
        return found


def table(figures: dict[str, Any]) -> str:
    counts = " or ".join(map(str, sorted({one["texts"] for one in figures.values()})))
    lines = [
        f"Cosines to float32, and Spearman's correlation in points of 100; {counts} sentences of STS-B dev, and the "
        f"first {2 * FIRST_PAIRS} of them by themselves, since the worst of more texts is lower:",
        "",
        "| recipe | size / float32 | mean cosine | 1st percentile | worst | first: mean, worst | Spearman, to float | "
        "AG News mean, worst |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, one in sorted(figures.items(), key=lambda item: (-item[1]["ratio"], item[1]["mean"])):
        news = f"{one['news_mean']:.4f}, {one['news_worst']:.4f}" if "news_mean" in one else ""
        first = f"{one['first_mean']:.4f}, {one['first_worst']:.4f}" if "first_mean" in one else ""
        lines.append(
            f"| {name} | {one['ratio']:.4f} | {one['mean']:.5f} | {one['p1']:.4f} | {one['worst']:.4f} | "
            f"{first} | {one['spearman'] - one['spearman_float']:+.2f} | {news} |"
        )
    return "\n".join(lines)


def draw(figures: dict[str, Any]) -> None:
    """Draw size against cosine; a filled point for the bundled texts, a hollow one for texts of the task."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import MultipleLocator

    with rc_context({"svg.fonttype": "none", "svg.hashsalt": PICTURE.stem}):
        figure = Figure(figsize=(9, 5.6), layout="constrained")
        figure.patch.set_facecolor("white")
        axes = figure.add_subplot()
        for group, color in COLORS.items():
            names = [name for name in figures if kind(name) == group]
            joined = sorted((100 * figures[name]["ratio"], 1 - figures[name]["mean"]) for name in names if in_row(name))
            axes.plot(*zip(*joined, strict=True), color=color, linewidth=1.2, alpha=0.5)
            for name in names:
                _draw_point(axes, name, figures[name], color)
            axes.scatter([], [], color=color, s=38, label=LEGEND[group])
        axes.scatter([], [], facecolor="white", edgecolor="#4a5562", s=38, label="hollow: texts of the task")
        axes.set_yscale("log")
        axes.invert_yaxis()
        ticks = [0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003, 0.0001]
        shown = [tick for tick in ticks if any(one["mean"] < 1 - tick / 3 for one in figures.values())]
        axes.set_yticks(shown, [f"{1 - tick:g}" for tick in shown])
        axes.minorticks_off()
        axes.xaxis.set_major_locator(MultipleLocator(5))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g} %")
        axes.set_xlabel("size of model.safetensors, percent of the float32 file (less is better)")
        axes.set_ylabel("mean cosine to float32, STS-B dev\n(logarithmic in 1 - cosine; higher is better)")
        axes.set_title("all-MiniLM-L6-v2: size and accuracy of each recipe", loc="left", fontsize=12)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#edf0f3")
        axes.set_axisbelow(True)
        axes.legend(frameon=False, loc="lower right")
        figure.savefig(PICTURE, metadata={"Date": None})


def in_row(name: str) -> bool:
    """Whether a recipe is one of a row of more and more bits, whose points are joined."""
    return kind(name) in ("plain", "calibrated") and not name.startswith(("mx", "nv")) and not name.endswith(OWN_TEXTS)


def _draw_point(axes: Any, name: str, one: dict[str, Any], color: str) -> None:
    size, loss, is_own = 100 * one["ratio"], 1 - one["mean"], name.endswith(OWN_TEXTS)
    axes.scatter(size, loss, facecolor="white" if is_own else color, edgecolor=color, s=38, zorder=3)
    # Points of the same size stand above one another: plain and mixed ones have their labels on the left.
    side, offset = ("right", (-7, -4)) if kind(name) in ("plain", "mixed") else ("left", (7, -4))
    # A little higher, where the point of the bundled texts is just below; q4 is just below q4-best.
    offset = (offset[0], offset[1] + 4 * is_own - 7 * (name == "q4"))
    label, style = name.removesuffix(OWN_TEXTS), {"fontsize": 8.5, "ha": side, "color": color}
    axes.annotate(label, (size, loss), offset, textcoords="offset points", **style)


def calibration_sample(path: str) -> tuple[str, ...]:
    first, second, _ = read_pairs(path)
    texts = list(dict.fromkeys([*first, *second]))
    return tuple(texts[index] for index in np.random.default_rng(0).permutation(len(texts))[:CALIBRATION_TEXTS])


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--sts")
    arguments.add_argument("--news")
    arguments.add_argument("--calibration")
    arguments.add_argument("--recipes", default=",".join(RECIPES))
    arguments.add_argument("--every", type=int, default=1, help="measure on every so many texts")
    arguments.add_argument("--draw", action="store_true")
    given = arguments.parse_args()
    figures = json.loads(FIGURES.read_text(encoding="utf-8")) if FIGURES.is_file() else {}
    if not given.draw:
        measured = Measurement(given.model, given.sts, given.every, given.news)
        wanted = {name: RECIPES[name] for name in given.recipes.split(",")}
        if given.calibration:
            texts = calibration_sample(given.calibration)
            calibrated = {name: one for name, one in wanted.items() if one.method in READS_TEXTS}
            wanted = {name + OWN_TEXTS: replace(one, calibration_texts=texts) for name, one in calibrated.items()}
        for name, recipe in wanted.items():
            figures[name] = measured(recipe)
            print(name, figures[name], flush=True)
            FIGURES.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(table(figures))
    page, (start, end) = PAGE.read_text(encoding="utf-8"), MARKERS
    before, after = page.partition(start)[0], page.partition(end)[2]
    PAGE.write_text(f"{before}{start}\n{table(figures)}\n{end}{after}", encoding="utf-8")
    draw(figures)


if __name__ == "__main__":
    main()
