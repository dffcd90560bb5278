"""MLXCrossEncoder against sentence-transformers, through files on disk."""

import json
from pathlib import Path
from typing import Any

import mlx.nn
import numpy as np
import pytest
import torch
import transformers
from checkpoints import FAMILIES, Row, heads_of, make_checkpoint, row_name
from sentence_transformers import CrossEncoder
from sentence_transformers.base.modules import Dense
from sentence_transformers.cross_encoder.modules import LogitScore
from sentence_transformers.sentence_transformer.modules import Pooling
from st_repos import PAIRS, TOLERANCE, redrawn, transformer

from mlx_hf_bridge import MLXCrossEncoder
from mlx_hf_bridge.errors import ConfigError, InputError, UnsupportedModelError, WeightsError

CLASSIFIERS = [
    row
    for row in FAMILIES
    if "ForSequenceClassification" in heads_of(row)
    and type(row.config) in transformers.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
    and not row.padding_shows
    # Its tiny tokenizer has another class than the family's, for which AutoTokenizer gives no segments.
    and row.model_type != "xlm-roberta-xl"
]
QWEN3 = next(row for row in FAMILIES if row.model_type == "qwen3")


def both(folder: Path, labels: int = 1, row: Row | None = None, **options: Any) -> tuple[Any, MLXCrossEncoder]:
    """sentence-transformers' model and ours of one tiny classifier, its activation the identity."""
    make_checkpoint(folder, row, "ForSequenceClassification", labels)
    theirs = CrossEncoder(str(folder), device="cpu", **options)
    return theirs, MLXCrossEncoder(folder, **options)


def assert_same(theirs: Any, ours: MLXCrossEncoder, pairs: Any = PAIRS, **arguments: Any) -> None:
    wanted, got = theirs.predict(pairs, **arguments), ours.predict(pairs, **arguments)
    np.testing.assert_allclose(got, wanted, **TOLERANCE)
    assert type(got) is type(wanted)
    assert got.dtype == wanted.dtype


@pytest.mark.parametrize("row", CLASSIFIERS, ids=row_name)
def test_scores_of_every_family_are_those_of_sentence_transformers(row: Row, tmp_path: Path) -> None:
    theirs, ours = both(tmp_path, row=row, activation_fn=torch.nn.Identity())
    assert_same(theirs, ours)


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
    theirs, ours = both(tmp_path, labels, prompts={"news": "about the news: "})
    assert_same(theirs, ours, **arguments)


@pytest.mark.parametrize("pairs", [PAIRS[0], list(PAIRS[0]), [list(pair) for pair in PAIRS], np.array(PAIRS), []])
@pytest.mark.parametrize("labels", [1, 3])
def test_single_pairs_lists_arrays_and_nothing_are_told_apart(pairs: Any, labels: int, tmp_path: Path) -> None:
    theirs, ours = both(tmp_path, labels)
    wanted, got = theirs.predict(pairs), ours.predict(pairs)
    np.testing.assert_allclose(got, wanted, **TOLERANCE)
    assert np.shape(got) == np.shape(wanted)
    assert np.asarray(got).dtype == np.asarray(wanted).dtype


def test_lists_of_scores_are_mlx_arrays(tmp_path: Path) -> None:
    theirs, ours = both(tmp_path)
    listed = ours.predict(PAIRS, convert_to_numpy=False)
    assert [type(one).__module__.partition(".")[0] for one in listed] == ["mlx"] * len(PAIRS)
    np.testing.assert_allclose([one.item() for one in listed], theirs.predict(PAIRS), **TOLERANCE)


@pytest.mark.parametrize("arguments", [{}, {"top_k": 2}, {"return_documents": True}, {"prompt": "news "}], ids=str)
def test_rank_is_that_of_sentence_transformers(arguments: dict[str, Any], tmp_path: Path) -> None:
    theirs, ours = both(tmp_path)
    documents = [second for _, second in PAIRS]
    wanted, got = theirs.rank("the cat", documents, **arguments), ours.rank("the cat", documents, **arguments)
    assert [row["corpus_id"] for row in got] == [row["corpus_id"] for row in wanted]
    assert [row.get("text") for row in got] == [row.get("text") for row in wanted]
    np.testing.assert_allclose([row["score"] for row in got], [row["score"] for row in wanted], **TOLERANCE)
    assert [type(row["score"]) for row in got] == [float] * len(wanted)


def test_rank_refuses_several_labels(tmp_path: Path) -> None:
    _, ours = both(tmp_path, 3)
    with pytest.raises(InputError, match=r"one label, and this one has 3. Use predict\(\)"):
        ours.rank("a", ["b"])


@pytest.mark.parametrize("key", ["sentence_transformers", "sbert_ce_default_activation_function"])
def test_the_activation_of_config_json_is_used(key: str, tmp_path: Path) -> None:
    make_checkpoint(tmp_path, None, "ForSequenceClassification", 1)
    config = json.loads((tmp_path / "config.json").read_text())
    name = "torch.nn.modules.activation.Tanh"
    config[key] = {"activation_fn": name} if key == "sentence_transformers" else name
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert_same(CrossEncoder(str(tmp_path), device="cpu"), MLXCrossEncoder(tmp_path))


def test_activations_of_mlx_and_of_the_caller_are_applied(tmp_path: Path) -> None:
    theirs, ours = both(tmp_path)
    wanted = theirs.predict(PAIRS, activation_fn=torch.nn.Tanh())
    for activation in (mlx.nn.Tanh(), mlx.nn.tanh, np.tanh):
        np.testing.assert_allclose(ours.predict(PAIRS, activation_fn=activation), wanted, **TOLERANCE)


def test_an_activation_of_the_repos_own_code_is_not_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    theirs, ours = both(tmp_path)
    theirs.save_pretrained(str(tmp_path / "saved"))
    path = tmp_path / "saved" / "config_sentence_transformers.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "activation_fn": "os.system"}))
    again = MLXCrossEncoder(tmp_path / "saved")
    assert "'os.system' is not torch's" in caplog.text
    np.testing.assert_array_equal(again.predict(PAIRS), ours.predict(PAIRS))


@pytest.mark.parametrize("labels", [1, 3])
def test_a_saved_folder_loads_back_here_and_in_sentence_transformers(labels: int, tmp_path: Path) -> None:
    _, ours = both(tmp_path / "source", labels, activation_fn=torch.nn.Tanh(), prompts={"q": "news "}, max_length=9)
    ours.default_prompt_name = "q"
    ours.save_pretrained(tmp_path / "saved")
    again, theirs = MLXCrossEncoder(tmp_path / "saved"), CrossEncoder(str(tmp_path / "saved"), device="cpu")
    np.testing.assert_allclose(again.predict(PAIRS), ours.predict(PAIRS), rtol=0, atol=1e-6)
    np.testing.assert_allclose(theirs.predict(PAIRS), ours.predict(PAIRS), **TOLERANCE)
    assert again.max_seq_length == theirs.max_seq_length == 9


def test_a_dense_that_makes_scores_is_a_head(tmp_path: Path) -> None:
    first = transformer(tmp_path / "source")
    dense = redrawn(Dense(24, 2, activation_function=torch.nn.Identity(), module_output_name="scores"))
    theirs = CrossEncoder(modules=[first, Pooling(24, "cls"), dense], device="cpu")
    theirs.save_pretrained(str(tmp_path / "repo"))
    ours = MLXCrossEncoder(tmp_path / "repo")
    assert ours.num_labels == theirs.num_labels == 2
    assert_same(theirs, ours, apply_softmax=True)


@pytest.mark.parametrize("false_id", [7, None])
def test_logit_score_reads_a_causal_language_model(false_id: int | None, tmp_path: Path) -> None:
    config = {**QWEN3.config.to_dict(), "tie_word_embeddings": True}
    row = Row("qwen3", "Qwen3", transformers.Qwen3Config(**config), pad_token_id=4)
    first = transformer(tmp_path / "source", row, "ForCausalLM", transformer_task="text-generation")
    theirs = CrossEncoder(modules=[first, LogitScore(9, false_id)], device="cpu")
    theirs.save_pretrained(str(tmp_path / "repo"))
    ours = MLXCrossEncoder(tmp_path / "repo")
    assert ours.num_labels == 1
    assert_same(theirs, ours, activation_fn=torch.nn.Identity())
    ours.save_pretrained(tmp_path / "saved")
    again = CrossEncoder(str(tmp_path / "saved"), device="cpu")
    np.testing.assert_allclose(again.predict(PAIRS), ours.predict(PAIRS), **TOLERANCE)


def test_a_head_of_another_size_or_none_is_refused(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "three", None, "ForSequenceClassification", 3)
    with pytest.raises(ConfigError, match="num_labels=1, and the checkpoint has 3"):
        MLXCrossEncoder(tmp_path / "three", num_labels=1)
    make_checkpoint(tmp_path / "none")
    with pytest.raises(WeightsError):
        MLXCrossEncoder(tmp_path / "none")


def test_what_is_of_torch_alone_and_what_is_unknown_is_refused(tmp_path: Path) -> None:
    _, ours = both(tmp_path)
    with pytest.raises(InputError, match="keep_in_fp32_modules"):
        ours.set_keep_in_fp32_modules(["0.model.classifier"])
    with pytest.raises(InputError, match=r"has been called with \['strange'\]"):
        ours.predict(PAIRS, strange=1)
    with pytest.raises(InputError, match=r"backend='onnx'"):
        MLXCrossEncoder(tmp_path, backend="onnx")
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    with pytest.raises(UnsupportedModelError, match="a chat template"):
        MLXCrossEncoder(tmp_path)


def test_a_packed_model_ranks_as_the_float_one(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, FAMILIES[5], "ForSequenceClassification", 1)
    ours = MLXCrossEncoder(tmp_path, quantization_config={"bits": 8, "group_size": 32}, activation_fn=np.array)
    wanted = MLXCrossEncoder(tmp_path, activation_fn=np.array).predict(PAIRS)
    got = ours.predict(PAIRS)
    assert 0 < np.abs(got - wanted).max() < 0.1 * np.abs(wanted).max()
