"""A model as verification sees it: texts in, vectors or labelled scores out; ours, or the same on torch."""

import importlib
import importlib.util
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlx_hf_bridge.errors import BridgeError
from mlx_hf_bridge.pipelines import pipeline
from mlx_hf_bridge.quantization.recipes import QuantizationLike
from mlx_hf_bridge.sentence_transformers import MLXSentenceTransformer
from mlx_hf_bridge.verification.measures import Floats

EMBEDDING, CLASSIFICATION = "embedding", "classification"
_LATENCY_CALLS = 5


@dataclass(frozen=True)
class Reader:
    """name: what computes. read: texts -> (N, V), sentence vectors, or a score a label. labels: of the columns."""

    name: str
    read: Callable[[Sequence[str]], Floats]
    labels: tuple[str, ...] = ()
    folder: Path | None = None

    def predicted(self, texts: Sequence[str]) -> list[str]:
        """The best label of each text."""
        return [self.labels[int(best)] for best in self.read(texts).argmax(axis=1)]


def ours(model: str, task: str, recipe: QuantizationLike = None, dtype: Any = "auto") -> Reader:
    """A folder or Hub id, read by this package."""
    if task == CLASSIFICATION:
        options = {} if recipe is None and dtype == "auto" else {"quantization_config": recipe, "dtype": dtype}
        pipe = pipeline("text-classification", model=model, **options)
        return _classifier("mlx_hf_bridge", pipe, Path(pipe.model.folder))
    encoder = MLXSentenceTransformer(model, quantization_config=recipe, dtype=dtype)
    return Reader("mlx_hf_bridge", lambda texts: np.asarray(encoder.encode(list(texts))), folder=_folder(encoder))


def reference(model: str, task: str) -> Reader:
    """The float model on torch where its packages are installed, else in our float32."""
    package = "sentence_transformers" if task == EMBEDDING else "transformers"
    if not all(importlib.util.find_spec(name) for name in ("torch", package)):
        found = ours(model, task, dtype="float32")
        return Reader("mlx_hf_bridge in float32", found.read, found.labels)
    return _on_torch(model, task)


def _on_torch(model: str, task: str) -> Reader:
    transformers = importlib.import_module("transformers")
    if task == CLASSIFICATION:
        pipe = transformers.pipeline("text-classification", model=model, device="cpu")
        return _classifier(f"transformers {transformers.__version__} on torch", pipe, None)
    library = importlib.import_module("sentence_transformers")
    encoder = library.SentenceTransformer(model, device="cpu")
    return Reader(
        f"sentence-transformers {library.__version__} on torch",
        lambda texts: np.asarray(encoder.encode(list(texts), show_progress_bar=False), np.float32),
    )


def _classifier(name: str, pipe: Any, folder: Path | None) -> Reader:
    names = pipe.model.config.id2label
    labels = tuple(names[key] for key in sorted(names, key=int))

    def read(texts: Sequence[str]) -> Floats:
        answers = pipe(list(texts), top_k=None, function_to_apply="none", truncation=True)
        scores = [{one["label"]: one["score"] for one in answer} for answer in answers]
        return np.array([[row[label] for label in labels] for row in scores], np.float32)

    return Reader(name, read, labels, folder)


def _folder(encoder: Any) -> Path | None:
    return getattr(encoder, "folder", None)


def speed(reader: Reader, texts: Sequence[str]) -> dict[str, float]:
    """latency_ms: the median of single texts; texts_per_second: of all at once; after one call that is not counted."""
    reader.read(texts[:1])
    calls = []
    for index in range(_LATENCY_CALLS):
        start = time.perf_counter()
        reader.read([texts[index % len(texts)]])
        calls.append(time.perf_counter() - start)
    start = time.perf_counter()
    reader.read(texts)
    seconds = time.perf_counter() - start
    return {"latency_ms": 1000 * float(np.median(calls)), "texts_per_second": len(texts) / seconds}


def attempted(what: Callable[[], Any]) -> tuple[Any, str]:
    """What a step gives, and ""; None and the error's words where it fails."""
    # MLX and the tokenizers raise RuntimeError and ValueError of their own.
    try:
        return what(), ""
    except (BridgeError, OSError, RuntimeError, ValueError) as error:
        return None, f"{type(error).__name__}: {error}"
