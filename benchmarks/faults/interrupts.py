"""Ctrl-C at any moment of a call: the model is as good as before, in every thread, and no file is half-written."""

import random
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

import mlx_hf_bridge
from benchmarks.faults.checkpoints import tiny_checkpoint
from benchmarks.faults.outcome import Outcome, same
from mlx_hf_bridge import MLXCrossEncoder, MLXSentenceTransformer, MLXSparseEncoder

Call = Callable[[], Any]
TEXTS = ["the cat sat on the mat.", "a dog", "", "i love this film", "stock market rose today!", "cats " * 20]
_MANY = [f"{TEXTS[number % 5]} {'good ' * (number % 23)}" for number in range(60)]
_SECONDS = 60


class Interrupt:
    """Raise KeyboardInterrupt where Python looks for signals: in a function's first line, or after a call of C code.

    Args:
        place: How many such places are passed before; None counts them only.
    """

    def __init__(self, place: int | None) -> None:
        self.passed, self._place = 0, place

    def __enter__(self) -> "Interrupt":
        sys.setprofile(self._look)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _look(self, frame: FrameType, event: str, _: Any) -> None:
        if event not in ("call", "c_return"):
            return
        self.passed += 1
        if self._place is not None and self.passed >= self._place and not _is_excluded(frame):
            sys.setprofile(None)
            raise KeyboardInterrupt


def _is_excluded(frame: FrameType | None) -> bool:
    """Return whether Python is in an import, which it alone could undo, or in a destructor, which raises nothing."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib") or frame.f_code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False


def interrupted_calls(folder: Path) -> dict[str, Call]:
    """Return the calls to interrupt, by name.

    Args:
        folder: Where checkpoints and files are written.
    """
    source = str(tiny_checkpoint(folder / "encoder"))
    model = MLXSentenceTransformer(source, quantization_config="q8")
    reranker = MLXCrossEncoder(str(tiny_checkpoint(folder / "reranker", "ForSequenceClassification", 1)))
    sparse = MLXSparseEncoder(str(tiny_checkpoint(folder / "masked", "ForMaskedLM")))
    fill = mlx_hf_bridge.pipeline("fill-mask", model=str(folder / "masked"))
    other = MLXSentenceTransformer(source)

    def saved() -> Any:
        other.save_pretrained(str(folder / "saved"))
        return MLXSentenceTransformer(str(folder / "saved")).encode(TEXTS)

    def converted() -> Any:
        mlx_hf_bridge.convert(source, folder / "out", quantization_config="q4", overwrite=True, show_progress=False)
        return MLXSentenceTransformer(str(folder / "out")).encode(TEXTS)

    def loaded_cold() -> Any:
        shutil.rmtree(folder / "cache", ignore_errors=True)
        return MLXSentenceTransformer(source).encode(TEXTS)

    def corpus() -> Any:
        path = model.encode_to_file(_MANY, folder / "vectors.npy", chunk_size=9, show_progress_bar=False)
        return np.load(path)

    return {
        "encode": lambda: model.encode(_MANY, batch_size=4),
        "encode one": lambda: model.encode(TEXTS[0], normalize_embeddings=True),
        "encode tokens": lambda: [np.array(one) for one in model.encode(TEXTS, output_value="token_embeddings")],
        "predict": lambda: reranker.predict([(TEXTS[0], TEXTS[1]), (TEXTS[3], "")]),
        "sparse": lambda: np.array(sparse.encode(TEXTS).to_dense()),
        "fill-mask": lambda: fill("the [MASK] sat on the mat ."),
        "load": lambda: MLXSentenceTransformer(source, quantization_config="q8").encode(TEXTS),
        "convert into the cache": loaded_cold,
        "convert": converted,
        "save": saved,
        "encode to file": corpus,
    }


def interrupt_calls(folder: Path, each: int, seed: int = 0) -> Outcome:
    """Interrupt each call at random places, and compare what it gives afterwards with what it gave before.

    Args:
        folder: An empty folder; MLX_HF_BRIDGE_CACHE must be its "cache".
        each: How often to interrupt each call.
        seed: Decides the places.

    Returns:
        What was tried, and what failed.
    """
    outcome = Outcome("Ctrl-C at random places of a call, then the same call in two threads")
    generator = random.Random(seed)
    with outcome.timed():
        for name, call in interrupted_calls(folder).items():
            expected = call()
            with Interrupt(None) as counted:
                call()
            for _ in range(each):
                place = generator.randint(1, counted.passed)
                outcome.record(_interrupt_once(call, place, expected, folder), f"{name}, place {place}")
    return outcome


def _interrupt_once(call: Call, place: int, expected: Any, folder: Path) -> str | None:
    """Return what is wrong after one interrupt; None for nothing."""
    try:
        with Interrupt(place):
            call()
    except KeyboardInterrupt:
        pass
    except BaseException as error:
        return f"the interrupt came out as {type(error).__name__}: {error}"
    if left := [path.name for path in folder.rglob("*.scratch")]:
        return f"{left} stayed"
    # In another thread too, which locks that are kept would stop.
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(call()), daemon=True)
    thread.start()
    thread.join(_SECONDS)
    if not results:
        return "a thread gets no answer"
    return None if same(call(), expected) and same(results[0], expected) else "another result"
