"""Tests of the real all-MiniLM-L6-v2 against sentence-transformers, in float32 and quantized."""

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from sentence_transformers import SentenceTransformer

from benchmarks.agreement import mixed_texts
from benchmarks.sorted_batches import Inputs, encoder, mean
from benchmarks.threads import CODE
from mlx_hf_bridge import MLXSentenceTransformer
from mlx_hf_bridge.conversion import calibrated
from mlx_hf_bridge.quantization import recipes
from mlx_hf_bridge.quantization.methods import bundled_texts

# Tolerance for float32 sentence embeddings of real models; largest difference seen 4e-7.
ABSOLUTE = 1e-5
SENTENCES = [
    "The committee postponed its decision until the spring.",
    "A man is slicing an onion.",
    "Somebody cuts vegetables in a kitchen.",
    "Two dogs run across a frozen lake.",
    "Oil prices fell for the third day in a row.",
    "How do I reset a forgotten password?",
    "The novel was translated into forty languages.",
    "Rain is expected in the north by the evening.",
]


def test_mixed_texts_agree_in_any_order_and_batch_size(minilm: Path) -> None:
    """`python -m benchmarks.agreement` compares a thousand texts."""
    texts = mixed_texts(40, seed=1)
    expected = SentenceTransformer(str(minilm), device="cpu").encode(texts)
    mlx_model = MLXSentenceTransformer(minilm)
    np.testing.assert_allclose(mlx_model.encode(texts), expected, rtol=0, atol=ABSOLUTE)
    order = random.Random(2).sample(range(len(texts)), 20)
    shuffled = mlx_model.encode([texts[index] for index in order], batch_size=3)
    np.testing.assert_allclose(shuffled, expected[order], rtol=0, atol=ABSOLUTE)


# Lowest accepted mean cosine to the float32 embeddings; plain min-max rounding gave 0.99987, 0.9970 and 0.967.
@pytest.mark.parametrize(
    ("recipe", "cosine", "ratio"), [("q8", 0.9998, 0.29), ("q6", 0.996, 0.23), ("q4-rtn", 0.95, 0.17)]
)
def test_packed_models_keep_their_vectors_and_shrink(minilm: Path, recipe: str, cosine: float, ratio: float) -> None:
    expected = MLXSentenceTransformer(minilm).encode(SENTENCES)
    model = MLXSentenceTransformer(minilm, quantization_config=recipe)
    actual = model.encode(SENTENCES)
    assert float((expected * actual).sum(axis=1).mean()) >= cosine
    folder = sum(path.stat().st_size for path in model.folder.rglob("*") if path.is_file())
    assert folder <= ratio * (minilm / "model.safetensors").stat().st_size


@pytest.mark.slow
def test_the_recipe_of_4_bits_keeps_its_accuracy(minilm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # All texts, of which conftest.py takes few.
    monkeypatch.setattr(calibrated, "_RANDOM_TEXTS", 300)
    monkeypatch.setattr(recipes, "bundled_texts", bundled_texts)
    test_packed_models_keep_their_vectors_and_shrink(minilm, "q4", 0.985, 0.17)


@pytest.mark.slow
def test_processes_with_encoding_threads_exit_with_code_0(minilm: Path) -> None:
    runs = [
        subprocess.run([sys.executable, "-c", CODE, str(minilm), "40"], capture_output=True, text=True, timeout=300)
        for _ in range(2)
    ]
    assert [run.returncode for run in runs] == [0, 0], runs[0].stderr
    assert len({run.stdout for run in runs}) == 1


def test_the_batches_that_rivals_are_timed_with_give_the_vectors_of_sentence_transformers(minilm: Path) -> None:
    texts = mixed_texts(16, seed=3)
    forward = transformers.AutoModel.from_pretrained(minilm).eval()

    def embed(inputs: Inputs) -> np.ndarray:
        with torch.no_grad():
            hidden = forward(**{name: torch.from_numpy(values) for name, values in inputs.items()}).last_hidden_state
        return mean(hidden.numpy(), inputs["attention_mask"])

    expected = SentenceTransformer(str(minilm), device="cpu").encode(texts)
    np.testing.assert_allclose(encoder(str(minilm), embed)(texts), expected, rtol=0, atol=ABSOLUTE)
