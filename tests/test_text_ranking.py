"""pipeline("text-ranking") matches CrossEncoder.rank of sentence-transformers on torch."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import CrossEncoder
from three_pipelines import ABSOLUTE, NLI, ROWS, edit_json, make_labelled

from mlx_hf_bridge import errors, pipeline

TASK = "text-ranking"
QUERY = "the cat sat"
DOCUMENTS = ["a stock market rose today!", "the cat is on the mat.", "i love this film", "", "bad news", "cat " * 60]


@pytest.fixture(params=["bert", "roberta", "xlm-roberta"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return make_labelled(tmp_path / "ranker", ROWS[request.param], {0: "LABEL_0"}, 5.0)


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    return make_labelled(tmp_path / "ranker", ROWS["bert"], {0: "LABEL_0"}, 5.0)


def assert_ranked(actual: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert [list(one) for one in actual] == [list(one) for one in expected]
    assert [one["corpus_id"] for one in actual] == [one["corpus_id"] for one in expected]
    assert [one.get("text") for one in actual] == [one.get("text") for one in expected]
    assert [one["score"] for one in actual] == pytest.approx([float(one["score"]) for one in expected], abs=ABSOLUTE)
    assert all(type(one["score"]) is float and type(one["corpus_id"]) is int for one in actual)


@pytest.mark.parametrize(
    "options", [{}, {"top_k": 2}, {"return_documents": True}, {"top_k": 99, "batch_size": 2}], ids=str
)
def test_documents_are_ranked_as_by_a_cross_encoder(folder: Path, options: dict[str, Any]) -> None:
    assert_ranked(
        pipeline(TASK, folder)(QUERY, DOCUMENTS, **options), CrossEncoder(str(folder)).rank(QUERY, DOCUMENTS, **options)
    )


SAVED: list[dict[str, Any]] = [
    {"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}},
    {"sbert_ce_default_activation_function": "torch.nn.modules.activation.Tanh"},
    {"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Sigmoid"}},
]


@pytest.mark.parametrize("settings", SAVED, ids=str)
def test_the_function_is_the_one_that_the_checkpoint_names(bert: Path, settings: dict[str, Any]) -> None:
    edit_json(bert / "config.json", **settings)
    assert_ranked(pipeline(TASK, bert)(QUERY, DOCUMENTS), CrossEncoder(str(bert)).rank(QUERY, DOCUMENTS))


def test_a_cross_encoder_that_sentence_transformers_saved_keeps_its_function(bert: Path, tmp_path: Path) -> None:
    torch_model = CrossEncoder(str(bert), activation_fn=torch.nn.Identity())
    torch_model.save_pretrained(str(tmp_path / "saved"))
    assert_ranked(pipeline(TASK, tmp_path / "saved")(QUERY, DOCUMENTS), torch_model.rank(QUERY, DOCUMENTS))


def test_a_function_that_is_not_known_is_refused(bert: Path) -> None:
    edit_json(bert / "config.json", sentence_transformers={"activation_fn": "torch.nn.modules.activation.GELU"})
    with pytest.raises(errors.ConfigError, match=r"GELU' to its scores; known are Identity, Sigmoid, Tanh"):
        pipeline(TASK, bert)


def test_the_call_may_choose_the_function(bert: Path) -> None:
    pipe = pipeline(TASK, bert)
    raw = {one["corpus_id"]: one["score"] for one in pipe(QUERY, DOCUMENTS, function_to_apply="none")}
    edit_json(bert / "config.json", sentence_transformers={"activation_fn": "torch.nn.Identity"})
    assert raw == pytest.approx({one["corpus_id"]: one["score"] for one in pipeline(TASK, bert)(QUERY, DOCUMENTS)})


def test_every_form_of_input_gives_the_same_ranking(bert: Path) -> None:
    pipe = pipeline(TASK, bert, top_k=3)
    example, expected = {"query": QUERY, "documents": DOCUMENTS}, pipe(QUERY, DOCUMENTS)
    assert len(expected) == 3
    assert pipe(query=QUERY, documents=DOCUMENTS) == pipe(QUERY, documents=DOCUMENTS) == pipe(example) == expected
    other = {"query": "bad", "documents": DOCUMENTS[:2]}
    several = pipe([example, other])
    assert_ranked(several[0], expected)
    assert len(several[1]) == 2
    for mlx_value, torch_value in zip(pipe(one for one in (example, other)), several, strict=True):
        assert_ranked(mlx_value, torch_value)


def test_equal_documents_stay_in_their_order(bert: Path) -> None:
    ranking = pipeline(TASK, bert)(QUERY, ["cat", "dog", "cat", "dog", "cat"])
    places = [one["corpus_id"] for one in ranking]
    assert places in ([0, 2, 4, 1, 3], [1, 3, 0, 2, 4])


def test_documents_that_are_cut_are_reported_once(bert: Path, caplog: pytest.LogCaptureFixture) -> None:
    pipe = pipeline(TASK, bert)
    with caplog.at_level(logging.WARNING, "mlx_hf_bridge"):
        pipe(QUERY, DOCUMENTS)
        pipe(QUERY, DOCUMENTS)
    assert [record.getMessage()[:12] for record in caplog.records] == ["1 of 6 texts"]


def test_more_than_one_label_is_refused(tmp_path: Path) -> None:
    with pytest.raises(errors.ConfigError, match="has 3 labels, expected one score"):
        pipeline(TASK, make_labelled(tmp_path, ROWS["bert"], NLI))


@pytest.mark.parametrize(
    ("arguments", "options", "kind", "message"),
    [
        ((QUERY, []), {}, ValueError, "documents is empty"),
        ((QUERY, "a text"), {}, ValueError, "documents \\(a list of texts\\)"),
        ((QUERY, ["a", 5]), {}, ValueError, "documents \\(a list of texts\\)"),
        ((QUERY,), {}, ValueError, "expected a query"),
        ((QUERY, ["a"], ["b"]), {}, ValueError, "Pass one query and its documents"),
        (([],), {}, IndexError, "the list of texts is empty"),
        ((QUERY, ["a"]), {"top_k": 0}, ValueError, "top_k=0, expected 1 or more"),
        ((QUERY, ["a"]), {"top_k": "1"}, TypeError, "top_k='1', expected an integer"),
        ((QUERY, ["a"]), {"function_to_apply": "softmax"}, KeyError, "use one of sigmoid, tanh, none"),
        ((QUERY, ["a"]), {"k": 1}, TypeError, "got k, which it does not take"),
    ],
)
def test_what_is_no_query_with_documents_is_refused(
    bert: Path, arguments: tuple[Any, ...], options: dict[str, Any], kind: type, message: str
) -> None:
    with pytest.raises(kind, match=message) as refusal:
        pipeline(TASK, bert)(*arguments, **options)
    assert isinstance(refusal.value, errors.BridgeError)


def test_a_chat_template_is_left_to_the_cross_encoder(bert: Path) -> None:
    (bert / "chat_template.jinja").write_text("{{ messages }}")
    with pytest.raises(errors.UnsupportedModelError, match=r"chat template, .* Use MLXCrossEncoder"):
        pipeline(TASK, str(bert))
    (bert / "modules.json").write_text(
        '[{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]'
    )
    assert len(pipeline(TASK, str(bert))(QUERY, DOCUMENTS[:2])) == 2
