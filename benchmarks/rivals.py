"""Every way to encode texts that is installed: ours, and the others, each checked to give the same vectors."""

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from mlx_hf_bridge import MLXSentenceTransformer

Encode = Callable[[list[str]], Any]
REFERENCE = "sentence-transformers, torch CPU"
OURS = "mlx_hf_bridge float32"
# Vectors that differ by more are of another model, or wrong: they are not timed.
_COSINES = {OURS: 0.99999, "mlx_hf_bridge 8 bits": 0.999, "mlx_hf_bridge 4 bits": 0.93}
_COSINE = 0.99
_ONNX = ("onnxruntime", "optimum")
_TEXTS = ["A first text.", "Something else, which is a good deal longer than the first one was."]


@dataclass(frozen=True)
class Rival:
    """needs: modules that must be installed; load: a model's folder -> how it encodes."""

    name: str
    needs: tuple[str, ...]
    load: Callable[[str], Encode]


def _ours(recipe: str | None, folder: str) -> Encode:
    return MLXSentenceTransformer(folder, quantization_config=recipe).encode


def _sentence_transformers(folder: str, **options: Any) -> Encode:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(folder, **options).encode


def _onnx(folder: str, file_name: str) -> Encode:
    options = {"provider": "CPUExecutionProvider", "file_name": file_name}
    return _sentence_transformers(folder, device="cpu", backend="onnx", model_kwargs=options)


def _mlx_embeddings(folder: str) -> Encode:
    import mlx_embeddings

    model, processor = mlx_embeddings.load(folder)
    return lambda texts: np.array(mlx_embeddings.generate(model, processor, texts=texts).text_embeds)


def _has_mps() -> bool:
    if sys.platform != "darwin" or importlib.util.find_spec("torch") is None:
        return False
    import torch

    return bool(torch.backends.mps.is_available())


def _rivals() -> list[Rival]:
    theirs = ("sentence_transformers",)
    found = [
        Rival(OURS, (), partial(_ours, None)),
        Rival("mlx_hf_bridge 8 bits", (), partial(_ours, "q8")),
        Rival("mlx_hf_bridge 4 bits", (), partial(_ours, "q4")),
        Rival(REFERENCE, theirs, partial(_sentence_transformers, device="cpu")),
        Rival("ONNX Runtime float32", ("onnxruntime", "optimum"), partial(_onnx, file_name="onnx/model.onnx")),
        Rival(
            "ONNX Runtime int8",
            ("onnxruntime", "optimum"),
            partial(_onnx, file_name="onnx/model_qint8_avx512_vnni.onnx"),
        ),
        Rival("mlx-embeddings", ("mlx_embeddings",), _mlx_embeddings),
    ]
    if _has_mps():
        found.append(Rival("sentence-transformers, torch MPS", theirs, partial(_sentence_transformers, device="mps")))
    return found


def encoders(folder: str, names: list[str] | None = None) -> tuple[dict[str, Encode], dict[str, str]]:
    """How each rival encodes, and why the others were left out."""
    found: dict[str, Encode] = {}
    missing: dict[str, str] = {}
    wanted: np.ndarray | None = None
    for rival in sorted(_rivals(), key=lambda rival: rival.name != REFERENCE):
        if names is not None and rival.name not in names:
            continue
        lacks = [name for name in rival.needs if importlib.util.find_spec(name) is None]
        if lacks:
            missing[rival.name] = f"{', '.join(lacks)} not installed"
            continue
        try:
            encode = rival.load(folder)
            vectors = np.asarray(encode(_TEXTS), np.float32)
        except Exception as error:  # whatever another library raises is a reason to go on without it
            missing[rival.name] = f"{type(error).__name__}: {error}"[:200]
            continue
        wanted = vectors if wanted is None else wanted  # of the reference, which comes first where it is asked for
        cosine = float(_cosines(vectors, wanted).min())
        if cosine < _COSINES.get(rival.name, _COSINE):
            missing[rival.name] = f"gives other vectors (cosine {cosine:.3f})"
        else:
            found[rival.name] = encode
    return found, missing


def _cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    cosines: np.ndarray = (first * second).sum(axis=1) / norms
    return cosines
