"""MLX models in unmodified transformers pipelines match the results of torch models."""

import copy
import multiprocessing
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from checkpoints import FAMILIES, make_checkpoint

import mlx_hf_bridge
from mlx_hf_bridge import MLXAutoModel, MLXAutoModelForSequenceClassification

# Tolerance for float32 probabilities across kernels.
SCORE = 1e-4
HEADS = {
    "feature-extraction": "Model",
    "fill-mask": "ForMaskedLM",
    "text-classification": "ForSequenceClassification",
    "token-classification": "ForTokenClassification",
    "zero-shot-classification": "ForSequenceClassification",
}
TEXT, TEXTS = "the cat sat on the mat.", ["the cat sat", "a dog is on the news today!", "bad film"]
MASKED = "the [MASK] sat on the mat."
CALLS: list[tuple[str, Any, dict[str, Any]]] = [
    ("feature-extraction", TEXT, {}),
    ("feature-extraction", TEXTS, {}),
    ("feature-extraction", TEXT, {"return_tensors": True}),
    ("fill-mask", MASKED, {}),
    ("fill-mask", [MASKED, "i [MASK] this [MASK]!"], {}),
    ("fill-mask", MASKED, {"top_k": 2}),
    ("fill-mask", MASKED, {"targets": ["cat", "dog"]}),
    ("text-classification", TEXT, {}),
    ("text-classification", TEXTS, {}),
    ("text-classification", TEXTS, {"batch_size": 2}),
    ("text-classification", TEXTS, {"top_k": None}),
    ("text-classification", TEXTS, {"function_to_apply": "sigmoid"}),
    ("text-classification", {"text": "the cat", "text_pair": "a dog"}, {}),
    ("token-classification", TEXT, {}),
    ("token-classification", TEXTS, {"batch_size": 3}),
    ("token-classification", TEXT, {"aggregation_strategy": "simple"}),
    ("token-classification", TEXT, {"aggregation_strategy": "max"}),
    ("zero-shot-classification", TEXT, {"candidate_labels": ["sport", "news"]}),
    ("zero-shot-classification", TEXTS, {"candidate_labels": "sport, news, film", "multi_label": True}),
    ("zero-shot-classification", TEXTS, {"candidate_labels": ["sport"], "hypothesis_template": "about {}"}),
]


def assert_alike(actual: Any, expected: Any) -> None:
    """Assert equal structure, types and strings, with numbers within SCORE."""
    assert type(actual) is type(expected)
    if isinstance(expected, dict):
        assert list(actual) == list(expected)
        for name in expected:
            assert_alike(actual[name], expected[name])
    elif isinstance(expected, (list, tuple)):
        assert len(actual) == len(expected)
        for mlx_value, torch_value in zip(actual, expected, strict=True):
            assert_alike(mlx_value, torch_value)
    elif isinstance(expected, torch.Tensor):
        torch.testing.assert_close(actual, expected, rtol=0, atol=SCORE)
    elif isinstance(expected, (float, np.floating)):
        assert abs(actual - expected) <= SCORE
    else:
        assert actual == expected


@pytest.mark.parametrize(("task", "inputs", "options"), CALLS, ids=lambda value: str(value)[:40])
def test_a_transformers_pipeline_answers_the_same_on_our_model(
    task: str, inputs: Any, options: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch_model = make_checkpoint(tmp_path, FAMILIES[0], HEADS[task])
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    mlx_model = getattr(mlx_hf_bridge, f"MLXAuto{'Model' if HEADS[task] == 'Model' else 'Model' + HEADS[task]}")
    answers = []
    caplog.clear()
    for model in (mlx_model.from_pretrained(tmp_path), torch_model):
        pipe = transformers.pipeline(task, model=model, tokenizer=tokenizer, device="cpu")
        answers.append(pipe(inputs, **options))
    assert_alike(*answers)
    assert "is not supported for" not in caplog.text


def test_a_generator_streams_through_a_transformers_pipeline(tmp_path: Path) -> None:
    torch_model = make_checkpoint(tmp_path, head="ForSequenceClassification")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    mlx_model = MLXAutoModelForSequenceClassification.from_pretrained(tmp_path)
    answers = [
        list(
            transformers.pipeline("text-classification", model=model, tokenizer=tokenizer)(
                (text for text in TEXTS), batch_size=2
            )
        )
        for model in (mlx_model, torch_model)
    ]
    assert_alike(*answers)


def test_torch_callers_get_transformers_own_outputs(tmp_path: Path) -> None:
    torch_model = make_checkpoint(tmp_path)
    ids = torch.tensor([[1, 7, 8, 2]])
    actual, expected = MLXAutoModel.from_pretrained(tmp_path)(ids), torch_model(ids)
    assert isinstance(actual, transformers.utils.ModelOutput)
    assert list(actual) == list(expected)
    assert actual[0].dtype == expected[0].dtype


def test_the_model_goes_by_the_name_of_its_transformers_class(tmp_path: Path) -> None:
    torch_model = make_checkpoint(tmp_path, head="ForSequenceClassification")
    mlx_model = MLXAutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert type(mlx_model).__name__ == type(torch_model).__name__
    assert mlx_model.base_model_prefix == torch_model.base_model_prefix
    assert repr(mlx_model).startswith("BertForSequenceClassification on MLX")


def test_moving_is_accepted(tmp_path: Path) -> None:
    make_checkpoint(tmp_path)
    mlx_model = MLXAutoModel.from_pretrained(tmp_path)
    assert mlx_model.to("mps") is mlx_model.to(torch.device("cpu")) is mlx_model.eval() is mlx_model
    assert mlx_model.device == torch.device("cpu")


def hidden_of(model: Any) -> np.ndarray:
    return np.asarray(model(np.array([[1, 7, 8, 2]])).last_hidden_state)


@pytest.mark.slow
@pytest.mark.parametrize("pooler", [True, False])
def test_copies_and_other_processes_have_the_same_model(pooler: bool, tmp_path: Path) -> None:
    make_checkpoint(tmp_path)
    mlx_model = MLXAutoModel.from_pretrained(tmp_path, add_pooling_layer=pooler)
    expected = hidden_of(mlx_model)
    for again in (copy.deepcopy(mlx_model), pickle.loads(pickle.dumps(mlx_model))):
        np.testing.assert_array_equal(hidden_of(again), expected)
        assert ("pooler_output" in again(np.array([[1, 2]]))) == pooler
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        np.testing.assert_array_equal(pool.apply(hidden_of, (mlx_model,)), expected)
