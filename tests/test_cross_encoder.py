"""Tests of MLXCrossEncoder against sentence-transformers, on saved models."""

import json
from pathlib import Path
from typing import Any

import mlx.nn
import numpy as np
import pytest
import torch
import transformers
from checkpoints import FAMILIES, FIRST_ROWS, Row, heads_of, make_checkpoint, row_name
from sentence_transformers import CrossEncoder
from sentence_transformers.base.modules import Dense
from sentence_transformers.cross_encoder.modules import LogitScore
from sentence_transformers.sentence_transformer.modules import Pooling
from st_checkpoints import PAIRS, TOLERANCE, randomized, transformer
from weight_files import edit_config

from mlx_hf_bridge import MLXCrossEncoder
from mlx_hf_bridge.errors import ConfigError, InputError, WeightsError

CLASSIFIERS = [
    row
    for row in FIRST_ROWS
    if "ForSequenceClassification" in heads_of(row)
    and type(row.config) in transformers.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
    and not row.length_dependent
    # sentence-transformers cannot make the inputs of these.
    and row.model_type not in ("markuplm", "tapas")
    # With the BERT tokenizer of the tests, AutoTokenizer returns no token type ids for this model type.
    and row.model_type != "xlm-roberta-xl"
]
QWEN3 = next(row for row in FAMILIES if row.model_type == "qwen3")


def both(folder: Path, labels: int = 1, row: Row | None = None, **options: Any) -> tuple[Any, MLXCrossEncoder]:
    """Return the sentence-transformers and the MLX cross encoder of one tiny classifier."""
    make_checkpoint(folder, row, "ForSequenceClassification", labels)
    torch_model = CrossEncoder(str(folder), device="cpu", **options)
    return torch_model, MLXCrossEncoder(folder, **options)


def assert_same(torch_model: Any, mlx_model: MLXCrossEncoder, pairs: Any = PAIRS, **arguments: Any) -> None:
    """Assert equal types and dtypes of predictions, and close scores."""
    expected, actual = torch_model.predict(pairs, **arguments), mlx_model.predict(pairs, **arguments)
    np.testing.assert_allclose(actual, expected, **TOLERANCE)
    assert type(actual) is type(expected)
    assert actual.dtype == expected.dtype


@pytest.mark.slow
@pytest.mark.parametrize("row", CLASSIFIERS, ids=row_name)
def test_scores_of_every_family_are_those_of_sentence_transformers(row: Row, tmp_path: Path) -> None:
    torch_model, mlx_model = both(tmp_path, row=row, activation_fn=torch.nn.Identity())
    assert_same(torch_model, mlx_model)


def test_a_config_that_names_no_classifier_has_one_label(tmp_path: Path) -> None:
    """The default of sentence-transformers where config.json says neither the class nor the labels."""
    make_checkpoint(tmp_path, None, "ForSequenceClassification", labels=1)
    edit_config(tmp_path, architectures=["BertForMaskedLM"], id2label=..., label2id=...)
    assert_same(CrossEncoder(str(tmp_path), device="cpu"), MLXCrossEncoder(tmp_path))


@pytest.mark.parametrize("labels", [1, 3])
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"apply_softmax": True},
        {"activation_fn": torch.nn.Tanh()},
        {"activation_fn": torch.nn.Identity(), "apply_softmax": True},
        {"prompt": "the dog "},
        {"prompt_name": "news"},
        {"batch_size": 1},
        {"processing_kwargs": {"text": {"max_length": 6}}},
        {"convert_to_tensor": True},
    ],
    ids=str,
)
def test_predict_takes_every_argument(arguments: dict[str, Any], labels: int, tmp_path: Path) -> None:
    torch_model, mlx_model = both(tmp_path, labels, prompts={"news": "about the news: "})
    assert_same(torch_model, mlx_model, **arguments)


@pytest.mark.parametrize("pairs", [PAIRS[0], list(PAIRS[0]), [list(pair) for pair in PAIRS], np.array(PAIRS), []])
@pytest.mark.parametrize("labels", [1, 3])
def test_single_pairs_lists_arrays_and_nothing_are_told_apart(pairs: Any, labels: int, tmp_path: Path) -> None:
    torch_model, mlx_model = both(tmp_path, labels)
    expected, actual = torch_model.predict(pairs), mlx_model.predict(pairs)
    np.testing.assert_allclose(actual, expected, **TOLERANCE)
    assert np.shape(actual) == np.shape(expected)
    assert np.asarray(actual).dtype == np.asarray(expected).dtype


def test_lists_of_scores_are_mlx_arrays(tmp_path: Path) -> None:
    torch_model, mlx_model = both(tmp_path)
    listed = mlx_model.predict(PAIRS, convert_to_numpy=False)
    assert [type(one).__module__.partition(".")[0] for one in listed] == ["mlx"] * len(PAIRS)
    np.testing.assert_allclose([one.item() for one in listed], torch_model.predict(PAIRS), **TOLERANCE)


@pytest.mark.parametrize("arguments", [{}, {"top_k": 2}, {"return_documents": True}, {"prompt": "news "}], ids=str)
def test_rank_is_that_of_sentence_transformers(arguments: dict[str, Any], tmp_path: Path) -> None:
    torch_model, mlx_model = both(tmp_path)
    documents = [second for _, second in PAIRS]
    expected, actual = (
        torch_model.rank("the cat", documents, **arguments),
        mlx_model.rank("the cat", documents, **arguments),
    )
    assert [row["corpus_id"] for row in actual] == [row["corpus_id"] for row in expected]
    assert [row.get("text") for row in actual] == [row.get("text") for row in expected]
    np.testing.assert_allclose([row["score"] for row in actual], [row["score"] for row in expected], **TOLERANCE)
    assert [type(row["score"]) for row in actual] == [float] * len(expected)


def test_rank_refuses_several_labels(tmp_path: Path) -> None:
    _, mlx_model = both(tmp_path, 3)
    with pytest.raises(InputError, match=r"one label, but this one has 3. Use predict\(\)"):
        mlx_model.rank("a", ["b"])


@pytest.mark.parametrize("key", ["sentence_transformers", "sbert_ce_default_activation_function"])
def test_the_activation_of_config_json_is_used(key: str, tmp_path: Path) -> None:
    make_checkpoint(tmp_path, None, "ForSequenceClassification", 1)
    config = json.loads((tmp_path / "config.json").read_text())
    name = "torch.nn.modules.activation.Tanh"
    config[key] = {"activation_fn": name} if key == "sentence_transformers" else name
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert_same(CrossEncoder(str(tmp_path), device="cpu"), MLXCrossEncoder(tmp_path))


def test_activations_of_mlx_and_of_the_caller_are_applied(tmp_path: Path) -> None:
    torch_model, mlx_model = both(tmp_path)
    expected = torch_model.predict(PAIRS, activation_fn=torch.nn.Tanh())
    for activation in (mlx.nn.Tanh(), mlx.nn.tanh, np.tanh):
        np.testing.assert_allclose(mlx_model.predict(PAIRS, activation_fn=activation), expected, **TOLERANCE)


def test_an_activation_of_the_repos_own_code_is_not_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch_model, mlx_model = both(tmp_path)
    torch_model.save_pretrained(str(tmp_path / "saved"))
    path = tmp_path / "saved" / "config_sentence_transformers.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "activation_fn": "os.system"}))
    again = MLXCrossEncoder(tmp_path / "saved")
    assert "'os.system' is not a class of torch" in caplog.text
    np.testing.assert_array_equal(again.predict(PAIRS), mlx_model.predict(PAIRS))


@pytest.mark.parametrize("labels", [1, 3])
def test_a_saved_folder_loads_back_here_and_in_sentence_transformers(labels: int, tmp_path: Path) -> None:
    _, mlx_model = both(
        tmp_path / "source", labels, activation_fn=torch.nn.Tanh(), prompts={"q": "news "}, max_length=9
    )
    mlx_model.default_prompt_name = "q"
    mlx_model.save_pretrained(tmp_path / "saved")
    again, torch_model = MLXCrossEncoder(tmp_path / "saved"), CrossEncoder(str(tmp_path / "saved"), device="cpu")
    np.testing.assert_allclose(again.predict(PAIRS), mlx_model.predict(PAIRS), rtol=0, atol=1e-6)
    np.testing.assert_allclose(torch_model.predict(PAIRS), mlx_model.predict(PAIRS), **TOLERANCE)
    assert again.max_seq_length == torch_model.max_seq_length == 9


def test_a_dense_that_makes_scores_is_a_head(tmp_path: Path) -> None:
    first = transformer(tmp_path / "source")
    dense = randomized(Dense(24, 2, activation_function=torch.nn.Identity(), module_output_name="scores"))
    torch_model = CrossEncoder(modules=[first, Pooling(24, "cls"), dense], device="cpu")
    torch_model.save_pretrained(str(tmp_path / "repo"))
    mlx_model = MLXCrossEncoder(tmp_path / "repo")
    assert mlx_model.num_labels == torch_model.num_labels == 2
    assert_same(torch_model, mlx_model, apply_softmax=True)


@pytest.mark.parametrize("false_id", [7, None])
def test_logit_score_reads_a_causal_language_model(false_id: int | None, tmp_path: Path) -> None:
    config = {**QWEN3.config.to_dict(), "tie_word_embeddings": True}
    row = Row("qwen3", "Qwen3", transformers.Qwen3Config(**config), pad_token_id=4)
    first = transformer(tmp_path / "source", row, "ForCausalLM", transformer_task="text-generation")
    torch_model = CrossEncoder(modules=[first, LogitScore(9, false_id)], device="cpu")
    torch_model.save_pretrained(str(tmp_path / "repo"))
    mlx_model = MLXCrossEncoder(tmp_path / "repo")
    assert mlx_model.num_labels == 1
    assert_same(torch_model, mlx_model, activation_fn=torch.nn.Identity())
    mlx_model.save_pretrained(tmp_path / "saved")
    again = CrossEncoder(str(tmp_path / "saved"), device="cpu")
    np.testing.assert_allclose(again.predict(PAIRS), mlx_model.predict(PAIRS), **TOLERANCE)


def test_a_head_of_another_size_or_none_is_refused(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "three", None, "ForSequenceClassification", 3)
    with pytest.raises(ConfigError, match="num_labels=1, but the checkpoint has 3"):
        MLXCrossEncoder(tmp_path / "three", num_labels=1)
    make_checkpoint(tmp_path / "none")
    with pytest.raises(WeightsError):
        MLXCrossEncoder(tmp_path / "none")


def test_what_is_of_torch_alone_and_what_is_unknown_is_refused(tmp_path: Path) -> None:
    _, mlx_model = both(tmp_path)
    with pytest.raises(InputError, match="keep_in_fp32_modules"):
        mlx_model.set_keep_in_fp32_modules(["0.model.classifier"])
    with pytest.raises(InputError, match=r"has been called with \['strange'\]"):
        mlx_model.predict(PAIRS, strange=1)
    with pytest.raises(InputError, match=r"backend='onnx'"):
        MLXCrossEncoder(tmp_path, backend="onnx")


def test_a_packed_model_ranks_as_the_float_one(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, FAMILIES[5], "ForSequenceClassification", 1)
    mlx_model = MLXCrossEncoder(tmp_path, quantization_config={"bits": 8, "group_size": 32}, activation_fn=np.array)
    expected = MLXCrossEncoder(tmp_path, activation_fn=np.array).predict(PAIRS)
    actual = mlx_model.predict(PAIRS)
    assert 0 < np.abs(actual - expected).max() < 0.1 * np.abs(expected).max()
