"""Tests of curvature (the effect of rounding errors on outputs) against torch's gradients, and its use in rounding."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import tokenizers
import torch
import transformers
from convert_checkpoints import make_bert

from mlx_hf_bridge import MLXAutoModel
from mlx_hf_bridge.conversion import calibrated
from mlx_hf_bridge.conversion.calibrated import augment_tokens
from mlx_hf_bridge.inference.tokenizer import Tokenizer, Tokens
from mlx_hf_bridge.layers.token_batch import TokenBatch
from mlx_hf_bridge.quantization import curvature
from mlx_hf_bridge.quantization.calibration_job import CalibrationJob
from mlx_hf_bridge.quantization.policy import TOKEN_EMBEDDING
from mlx_hf_bridge.quantization.resume_store import ResumeStore
from mlx_hf_bridge.quantization.two_sided_rounding import round_weights
from mlx_hf_bridge.quantization.widths import BitWidth

# The mean of that many gradient samples, each of a random combination of the outputs, is within SPREAD of the sum
# over all outputs.
GRADIENT_SAMPLES, SPREAD = 1000, 0.2
IDS = np.array([[2, 17, 44, 9, 3], [2, 60, 31, 77, 3]], np.int32)
PATHS = ["encoder.layers.0.attention.out", "encoder.layers.1.feed_forward.up"]
THEIRS = ["encoder.layer.0.attention.output.dense", "encoder.layer.1.intermediate.dense"]


def job_on(folder: Path) -> CalibrationJob:
    """Return a calibration job on IDS whose output is the hidden state of the first token."""
    model = MLXAutoModel.from_pretrained(folder).loaded.model
    batch = TokenBatch(mx.array(IDS))
    widths = {path: BitWidth(4, 64) for path in [*PATHS, TOKEN_EMBEDDING]}

    def first(encoded: Any, batch: TokenBatch) -> mx.array:
        return encoded.hidden[:, 0]

    return CalibrationJob(model, model, [batch], [batch], widths, mx.float32, first)


def sums_over_answers(folder: Path) -> dict[str, np.ndarray]:
    """Return the sum of G G^T over the gradients G of every output, computed by torch, token embeddings last."""
    model = transformers.BertModel.from_pretrained(folder).eval()
    words = model.embeddings.word_embeddings(torch.tensor(IDS)).detach().requires_grad_()
    hidden = model(inputs_embeds=words).last_hidden_state
    answers = []
    for part, share in ((hidden[:, 0], 1.0), (hidden.flatten(1), curvature._HIDDEN**0.5)):
        answers.append((share * part / part.norm(dim=1, keepdim=True).detach()).flatten())
    weights = [model.get_submodule(path).weight for path in THEIRS]
    sums = [torch.zeros(weight.shape[0], weight.shape[0]) for weight in weights] + [torch.zeros(64, 64)]
    for answer in torch.cat(answers):
        gradients = torch.autograd.grad(answer, [*weights, words], retain_graph=True)
        rows = gradients[-1].flatten(0, 1)
        for total, gradient in zip(sums, [*gradients[:-1], rows.T], strict=True):
            total += gradient @ gradient.T
    return dict(zip([*PATHS, TOKEN_EMBEDDING], (total.numpy() for total in sums), strict=True))


@pytest.mark.slow
def test_the_factors_are_those_of_torchs_gradients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_bert(tmp_path)
    monkeypatch.setattr(curvature, "GRADIENT_SAMPLES", GRADIENT_SAMPLES)
    mlx_model, torch_model = (
        curvature.estimate_curvatures(job_on(tmp_path), 0, curvature.GRADIENT_SAMPLES),
        sums_over_answers(tmp_path),
    )
    assert mlx_model.keys() == torch_model.keys()
    for path, factor in torch_model.items():
        assert np.linalg.norm(mlx_model[path] - factor) < SPREAD * np.linalg.norm(factor), path


def test_gradient_samples_that_were_interrupted_are_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_bert(tmp_path / "bert")
    monkeypatch.setattr(curvature, "GRADIENT_SAMPLES", 8)
    monkeypatch.setattr(curvature, "_SAVE_EVERY", 4)
    job, count_steps = job_on(tmp_path / "bert"), []
    whole = curvature.estimate_curvatures(job, 3, curvature.GRADIENT_SAMPLES)

    def stopping(what: str) -> None:
        count_steps.append(what)
        if len(count_steps) == 6:
            raise KeyboardInterrupt

    broken = CalibrationJob(**{**vars(job), "resume": ResumeStore(tmp_path / "resume"), "on_step": stopping})
    with pytest.raises(KeyboardInterrupt):
        curvature.estimate_curvatures(broken, 3, curvature.GRADIENT_SAMPLES)
    sample, samples = curvature._gradient_sample, []
    monkeypatch.setattr(curvature, "_gradient_sample", lambda *args: samples.append(args) or sample(*args))
    resumed = curvature.estimate_curvatures(broken, 3, curvature.GRADIENT_SAMPLES)
    assert len(samples) == 4
    for path, factor in whole.items():
        np.testing.assert_array_equal(resumed[path], factor)


def test_the_float_model_is_left_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_bert(tmp_path)
    monkeypatch.setattr(curvature, "GRADIENT_SAMPLES", 2)
    job = job_on(tmp_path)
    before = np.array(job.float_model(job.calibration_batches[0]).hidden)
    curvature.estimate_curvatures(job, 0, curvature.GRADIENT_SAMPLES)
    np.testing.assert_array_equal(np.array(job.float_model(job.calibration_batches[0]).hidden), before)


def test_errors_are_put_where_they_cost_least() -> None:
    random = np.random.default_rng(2)
    weights = random.normal(size=(96, 64)).astype(np.float32)
    inputs, outputs = (
        (part.T @ part / 300).astype(np.float32)
        for part in (random.normal(size=(300, size)) @ random.normal(size=(size, size)) for size in (64, 96))
    )

    def cost(with_outputs: bool) -> float:
        codes = round_weights(weights, inputs, 3, 64, outputs=outputs if with_outputs else None)
        off = weights - codes.dequantize()
        return float(((outputs @ off @ inputs) * off).sum())

    assert cost(True) < 0.85 * cost(False)


@pytest.mark.parametrize("blocks", [1, 8])
def test_rows_that_cost_the_same_thing_do_not_outbid_each_other(blocks: int) -> None:
    """Rows rounded together once all corrected the same error, so quantized values grew until they overflowed."""
    random = np.random.default_rng(5)
    size = 24 * blocks
    weights = random.normal(size=(size, 64)).astype(np.float32)
    inputs = np.eye(64, dtype=np.float32)
    outputs = np.ones((size, size), np.float32) + np.float32(0.01) * np.eye(size, dtype=np.float32)

    def off(outputs: np.ndarray | None) -> np.ndarray:
        return weights - round_weights(weights, inputs, 4, 64, outputs=outputs).dequantize()

    tied, alone = off(outputs), off(None)
    assert abs(tied).max() < 4 * abs(alone).max()
    assert ((outputs @ tied) * tied).sum() < ((outputs @ alone) * alone).sum()


def test_variations_keep_lengths_and_special_tokens_and_change_words(monkeypatch: pytest.MonkeyPatch) -> None:
    words = {"[CLS]": 0, "[SEP]": 1, **{f"w{number}": number for number in range(2, 202)}}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(words))
    backend.add_special_tokens(["[CLS]", "[SEP]"])
    tokenizer = Tokenizer(backend, {})
    given = [Tokens(np.array([0, *range(2 + row, 40 + row), 1], np.int32), None) for row in range(30)]
    monkeypatch.setattr(calibrated, "_VARIATIONS", 3)
    found = augment_tokens(given, tokenizer, 0)
    assert len(found) == 3 * len(given)
    changed = [(one.ids != given[row % len(given)].ids).mean() for row, one in enumerate(found)]
    assert all(one.ids[0] == 0 and one.ids[-1] == 1 and not np.isin(one.ids[1:-1], (0, 1)).any() for one in found)
    assert 0.08 < np.mean(changed) < 0.2
    again = augment_tokens(given, tokenizer, 0)
    assert all((one.ids == other.ids).all() for one, other in zip(found, again, strict=True))
