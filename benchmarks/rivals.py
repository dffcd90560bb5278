"""Load every installed library that can encode texts, and check that each gives the same embeddings.

A process has one MLX, so the other MLX libraries also use the BLAS that mlx_hf_bridge has loaded for it.
"""

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import onnx_files, sorted_batches
from mlx_hf_bridge import MLXSentenceTransformer
from mlx_hf_bridge.runtime.device import BACKEND

Encode = Callable[[list[str]], Any]
REFERENCE = "sentence-transformers, torch CPU"
BRIDGE = "mlx_hf_bridge float32"
# Embeddings with a lower cosine to the reference are wrong or of another model: they are not timed.
_COSINES = {
    BRIDGE: 0.99999,
    "mlx_hf_bridge float16": 0.9999,
    "mlx_hf_bridge 8 bits": 0.999,
    "mlx_hf_bridge 4 bits": 0.93,
    "ONNX Runtime int8": 0.97,  # its activations are quantized too
}
_COSINE = 0.99
_TEXTS = ["A first text.", "Something else, which is a good deal longer than the first one was."]


@dataclass(frozen=True)
class Rival:
    """A library. needs: modules that must be installed. load: takes a model's folder, returns its encode function."""

    name: str
    needs: tuple[str, ...]
    load: Callable[[str], Encode]


def _bridge(recipe: str | None, folder: str, dtype: str = "auto") -> Encode:
    return MLXSentenceTransformer(folder, quantization_config=recipe, model_kwargs={"dtype": dtype}).encode


def _sentence_transformers(folder: str, device: str, dtype: str = "float32") -> Encode:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(folder, device=device, model_kwargs={"dtype": dtype}).encode


def _mlx_embeddings(folder: str) -> Encode:
    """Load with mlx-embeddings, and batch here: its `generate` would pad all texts to the longest."""
    import mlx_embeddings

    return _pooled(folder, mlx_embeddings.load(folder)[0])


def _mlx_transformers(folder: str) -> Encode:
    """Load with mlx-transformers the class in config.json; its `from_pretrained` is an instance method."""
    import mlx.core as mx
    import transformers
    from mlx_transformers import models

    config = transformers.AutoConfig.from_pretrained(folder)
    model = getattr(models, config.architectures[0])(config)
    model.from_pretrained(folder)

    def embed(inputs: sorted_batches.Inputs) -> np.ndarray:
        hidden = model(**{name: mx.array(values) for name, values in inputs.items()}).last_hidden_state
        return sorted_batches.mean(np.array(hidden), inputs["attention_mask"])

    return sorted_batches.encoder(folder, embed)


def _mlx_vlm(folder: str) -> Encode:
    """Load with mlx-vlm as its server loads embedding models."""
    from mlx_vlm.embedding_loader import load_embedding_model
    from mlx_vlm.models.pooling import read_pooling_config

    model = load_embedding_model(Path(folder))
    model.pooling_config = read_pooling_config(folder)
    return _pooled(folder, model)


def _pooled(folder: str, model: Any) -> Encode:
    """Return the encode function of a model that pools and normalizes by itself."""
    import mlx.core as mx

    def embed(inputs: sorted_batches.Inputs) -> np.ndarray:
        return np.array(model(**{name: mx.array(values) for name, values in inputs.items()}).text_embeds)

    return sorted_batches.encoder(folder, embed)


def _torch_gpu() -> str | None:
    """Return torch's device for the GPU, if there is one."""
    if importlib.util.find_spec("torch") is None:
        return None
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if sys.platform == "darwin" and torch.backends.mps.is_available() else None


def _rivals() -> list[Rival]:
    needs = ("sentence_transformers",)
    found = [
        Rival(BRIDGE, (), partial(_bridge, None)),
        Rival("mlx_hf_bridge 8 bits", (), partial(_bridge, "q8")),
        Rival("mlx_hf_bridge 4 bits", (), partial(_bridge, "q4-rtn")),
        Rival(REFERENCE, needs, partial(_sentence_transformers, device="cpu")),
        Rival("ONNX Runtime float32", onnx_files.NEEDS, partial(onnx_files.load, is_int8=False)),
        Rival("ONNX Runtime int8", onnx_files.NEEDS, partial(onnx_files.load, is_int8=True)),
        Rival("mlx-embeddings", ("mlx_embeddings",), _mlx_embeddings),
        Rival("mlx-transformers", ("mlx_transformers",), _mlx_transformers),
        Rival("mlx-vlm", ("mlx_vlm",), _mlx_vlm),
    ]
    # On a CPU, float16 is computed with in float32, so that its row would be float32's.
    if BACKEND != "cpu":
        found.append(Rival("mlx_hf_bridge float16", (), partial(_bridge, None, dtype="float16")))
    if gpu := _torch_gpu():
        for dtype in ("float32", "float16"):
            name = f"sentence-transformers, torch {gpu.upper()} {dtype}"
            found.append(Rival(name, needs, partial(_sentence_transformers, device=gpu, dtype=dtype)))
    return found


def encoders(folder: str, names: list[str] | None = None) -> tuple[dict[str, Encode], dict[str, str]]:
    """Return the encode function of each usable library, and for the others why they are left out."""
    found: dict[str, Encode] = {}
    missing: dict[str, str] = {}
    expected: np.ndarray | None = None
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
        except Exception as error:  # any error of another library is a reason to leave it out
            missing[rival.name] = f"{type(error).__name__}: {error}"[:200]
            continue
        expected = vectors if expected is None else expected  # those of the reference, which comes first
        cosine = float(_cosines(vectors, expected).min())
        if cosine < _COSINES.get(rival.name, _COSINE):
            missing[rival.name] = f"gives different embeddings (cosine {cosine:.3f})"
        else:
            found[rival.name] = encode
    return found, missing


def _cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    cosines: np.ndarray = (first * second).sum(axis=1) / norms
    return cosines
