"""Models as functions from texts to embeddings or logits: the converted model, and its float reference."""

import importlib
import importlib.util
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlx_hf_bridge.checkpoints.adapter import is_adapter
from mlx_hf_bridge.checkpoints.checkpoint import read_checkpoint
from mlx_hf_bridge.checkpoints.sources import HubOptions, locate
from mlx_hf_bridge.errors import BridgeError, MissingConfigError
from mlx_hf_bridge.models import family_for, is_native
from mlx_hf_bridge.pipelines import pipeline
from mlx_hf_bridge.quantization.recipes import QuantizationLike
from mlx_hf_bridge.sentence_transformers import MLXSentenceTransformer
from mlx_hf_bridge.verification.measures import Floats
from mlx_hf_bridge.verification.reference import Reference

EMBEDDING, CLASSIFICATION = "embedding", "classification"
_LATENCY_CALLS = 5


@dataclass(frozen=True)
class Predictor:
    """A model as a function of texts.

    name: the library that computes. predict: returns embeddings (N, V), or logits (N, labels). labels: the names of
    the logits' columns. folder: where the converted model is; None for a reference.
    """

    name: str
    predict: Callable[[Sequence[str]], Floats]
    labels: tuple[str, ...] = ()
    folder: Path | None = None

    def predict_labels(self, texts: Sequence[str]) -> list[str]:
        """Return the best label of each text."""
        return [self.labels[int(best)] for best in self.predict(texts).argmax(axis=1)]


def load_converted(
    model: str, task: str, recipe: QuantizationLike = None, dtype: Any = "auto", revision: str | None = None
) -> Predictor:
    """Load a model with this package.

    Args:
        model: A converted folder, or the Hub id or folder of a checkpoint.
        task: "embedding" or "classification".
        recipe: The quantization to apply; None for the model as it is.
        dtype: The dtype of the weights that are not quantized.
        revision: The commit of a Hub repo; None is the main branch.

    Returns:
        The model as a function of texts.
    """
    if task == CLASSIFICATION:
        options = {} if recipe is None and dtype == "auto" else {"quantization_config": recipe, "dtype": dtype}
        pipe = pipeline("text-classification", model=model, revision=revision, **options)
        return _classifier("mlx_hf_bridge", pipe, Path(pipe.model.folder))
    encoder = MLXSentenceTransformer(model, revision=revision, quantization_config=recipe, dtype=dtype)
    return Predictor("mlx_hf_bridge", lambda texts: np.asarray(encoder.encode(list(texts))), folder=_folder(encoder))


def load_reference(reference: Reference, task: str) -> Predictor:
    """Load the float model with torch if it and the task's library are installed, else in float32 with this package.

    An architecture that only remote code has in torch is loaded with this package too: that code is never run.

    Args:
        reference: The float checkpoint.
        task: "embedding" or "classification".

    Returns:
        The model as a function of texts.
    """
    needed = ["torch", "sentence_transformers" if task == EMBEDDING else "transformers"]
    if is_adapter(reference.folder):
        needed.append("peft")
    if _needs_remote_code(reference) or not all(importlib.util.find_spec(name) for name in needed):
        found = load_converted(reference.name, task, dtype="float32", revision=reference.revision)
        return Predictor("mlx_hf_bridge in float32", found.predict, found.labels)
    return _load_on_torch(reference, task)


def _needs_remote_code(reference: Reference) -> bool:
    """Return whether transformers has no class that computes the checkpoint."""
    try:
        raw = read_checkpoint(locate(reference.name, HubOptions(revision=reference.revision))).config
    except MissingConfigError:  # static embeddings and their like
        return False
    if not is_native(raw):
        return False
    family = family_for(raw)
    return not (family.in_transformers and family.config.from_json(raw).in_transformers)


def _load_on_torch(reference: Reference, task: str) -> Predictor:
    transformers = importlib.import_module("transformers")
    model, revision = reference.name, reference.revision
    if task == CLASSIFICATION:
        with _quietly(transformers.logging):
            pipe = transformers.pipeline("text-classification", model=model, revision=revision, device="cpu")
        return _classifier(f"transformers {transformers.__version__} on torch", pipe, None)
    library = importlib.import_module("sentence_transformers")
    with _quietly(transformers.logging):
        encoder = library.SentenceTransformer(model, revision=revision, device="cpu")
    return Predictor(
        f"sentence-transformers {library.__version__} on torch",
        lambda texts: np.asarray(encoder.encode(list(texts), show_progress_bar=False), np.float32),
    )


@contextmanager
def _quietly(logging: Any) -> Iterator[None]:
    """Keep transformers' bars and load report off the terminal, since loading the reference is an inner step."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _classifier(name: str, pipe: Any, folder: Path | None) -> Predictor:
    names = pipe.model.config.id2label
    labels = tuple(names[key] for key in sorted(names, key=int))

    def predict(texts: Sequence[str]) -> Floats:
        # Logits, since probabilities hide differences near 0 and 1.
        results = pipe(list(texts), top_k=None, function_to_apply="none", truncation=True)
        logits = [{one["label"]: one["score"] for one in result} for result in results]
        return np.array([[row[label] for label in labels] for row in logits], np.float32)

    return Predictor(name, predict, labels, folder)


def _folder(encoder: Any) -> Path | None:
    return getattr(encoder, "folder", None)


def measure_speed(predictor: Predictor, texts: Sequence[str]) -> dict[str, float]:
    """Return the median latency of single texts in ms, and the texts per second of one call; after a warm-up call."""
    # Not timed: the first call allocates memory and may compile kernels.
    predictor.predict(texts[:1])
    calls = []
    for index in range(_LATENCY_CALLS):
        start = time.perf_counter()
        predictor.predict([texts[index % len(texts)]])
        calls.append(time.perf_counter() - start)
    start = time.perf_counter()
    predictor.predict(texts)
    seconds = time.perf_counter() - start
    return {"latency_ms": 1000 * float(np.median(calls)), "texts_per_second": len(texts) / seconds}


def try_step(function: Callable[[], Any], raised: tuple[type[Exception], ...] = ()) -> tuple[Any, str]:
    """Return a function's result and "", or None and the text of the error that it raised.

    Args:
        function: The function.
        raised: Errors that are not caught.

    Returns:
        The result and the text of the error.
    """
    # MLX and the tokenizers raise plain RuntimeError and ValueError.
    try:
        return function(), ""
    except raised:
        raise
    except (BridgeError, OSError, RuntimeError, ValueError) as error:
        return None, f"{type(error).__name__}: {error}"
