"""What a model is served as: by its files, or by the task that it is given; and entities with labels of a request."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import make_checkpoint
from gliner_entities import LABELS
from gliner_entities import TEXTS as ENTITY_TEXTS
from gliner_models import make as make_gliner
from serving_models import TEXTS, Server, with_engine

from mlx_hf_bridge import MLXGLiNER, MLXSentenceTransformer, MLXSparseEncoder, pipeline
from mlx_hf_bridge.checkpoints.sources import HubOptions, locate
from mlx_hf_bridge.cli.parser import parse
from mlx_hf_bridge.cli.serve import tasks_of
from mlx_hf_bridge.errors import (
    InputError,
    ModelLoadError,
    OverlongTextError,
    UnservedModelError,
    UnsupportedModelError,
)
from mlx_hf_bridge.gliner.labels import LabelSet
from mlx_hf_bridge.gliner.words import WordTokens
from mlx_hf_bridge.serving.recognition import kind_of_task, recognize
from mlx_hf_bridge.serving.registry import ModelRegistry
from mlx_hf_bridge.serving.tasks.entities import _check_labels

CLOSE = {"rtol": 0, "atol": 2e-5}
MASKED = {"architectures": ["BertForMaskedLM"]}
ONE_LABEL = {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "LABEL_0"}}
MODULES = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
SPLADE_MODULES = [*MODULES, {"idx": 1, "name": "1", "path": "", "type": "sentence_transformers.models.SpladePooling"}]
SAVED = "config_sentence_transformers.json"


def folder(root: Path, name: str, config: Any, files: dict[str, Any] | None = None, card: str = "") -> Path:
    """Write the small files of a model that has no weights."""
    path = root / name
    path.mkdir(parents=True)
    for file, content in {"config.json": config, **(files or {})}.items():
        (path / file).write_text(json.dumps(content))
    if card:
        (path / "README.md").write_text(f"---\n{card}\n---\ntext")
    return path


@pytest.mark.parametrize(
    ("name", "config", "files", "card", "kind", "warned"),
    [
        ("a", {"architectures": ["BertModel"]}, {"modules.json": MODULES}, "", "embedding", ""),
        ("a", {"architectures": ["BertModel"]}, {}, "", "embedding", "the mean of its token embeddings"),
        ("a", MASKED, {}, "", "embedding", "needs the task sparse"),
        ("a", MASKED, {"modules.json": MODULES}, "", "embedding", ""),
        ("Splade_PP_en_v1", MASKED, {}, "", "sparse", "its name or card calls it a sparse model"),
        ("a", MASKED, {}, "tags:\n- splade\n- passage-retrieval", "sparse", "SPLADE's max pooling"),
        ("a", {**MASKED, "_name_or_path": "naver/splade-v3"}, {}, "", "sparse", "SPLADE"),
        ("a", MASKED, {SAVED: {"model_type": "SparseEncoder"}}, "", "sparse", ""),
        ("a", MASKED, {"modules.json": SPLADE_MODULES}, "", "sparse", ""),
        ("splade", MASKED, {"modules.json": MODULES}, "", "embedding", ""),
        ("a", {"architectures": ["BertModel"]}, {SAVED: {"model_type": "MultiVectorEncoder"}}, "", "multi-vector", ""),
        ("a", {}, {SAVED: {"query_prefix": "[Q] "}, "modules.json": MODULES}, "", "multi-vector", ""),
        ("a", {"architectures": ["HF_ColBERT"]}, {}, "", "multi-vector", ""),
        ("a", ONE_LABEL, {}, "", "reranker", "needs the task classify"),
        ("bge-reranker-base", ONE_LABEL, {}, "", "reranker", ""),
        ("a", ONE_LABEL, {}, "pipeline_tag: text-ranking", "reranker", ""),
        ("a", ONE_LABEL, {SAVED: {"model_type": "CrossEncoder"}}, "", "reranker", ""),
        ("a", {**ONE_LABEL, "sentence_transformers": {}}, {}, "", "reranker", ""),
        ("a", {**ONE_LABEL, "id2label": {"0": "a", "1": "b"}}, {}, "", "classifier", ""),
        (
            "a",
            {**ONE_LABEL, "id2label": {"0": "a", "1": "b"}},
            {SAVED: {"model_type": "CrossEncoder"}},
            "",
            "classifier",
            "",
        ),
        ("a", {"architectures": ["Qwen2ForCausalLM"]}, {SAVED: {"model_type": "CrossEncoder"}}, "", "reranker", ""),
        ("a", {"architectures": ["BertForTokenClassification"]}, {}, "", "token-classifier", ""),
        ("a", {}, {"gliner_config.json": {}}, "", "zero-shot-ner", ""),
        ("a", {"architectures": ["XLMWithLMHeadModel"]}, {}, "", "embedding", "the mean"),
    ],
    ids=str,
)
def test_models_are_recognized_by_their_files(
    tmp_path: Path, name: str, config: Any, files: Any, card: str, kind: str, warned: str
) -> None:
    found = recognize(locate(folder(tmp_path, name, config, files, card), HubOptions()))
    assert found.kind == kind
    assert bool(found.warnings) == bool(warned)
    assert warned in " ".join(found.warnings)


@pytest.mark.parametrize(
    "config",
    [
        {"architectures": ["Qwen2ForCausalLM"]},
        {"architectures": ["GPT2LMHeadModel"]},
        {"architectures": ["BertForQuestionAnswering"]},
        {**ONE_LABEL, "problem_type": "regression"},
    ],
    ids=str,
)
def test_files_that_fit_several_kinds_are_an_error_that_asks_for_the_task(tmp_path: Path, config: Any) -> None:
    with pytest.raises(UnsupportedModelError, match="--task"):
        recognize(locate(folder(tmp_path, "a", config), HubOptions()))


def test_tasks_have_the_names_of_other_servers_and_of_the_hub() -> None:
    names = ("embed", "feature-extraction", "SPLADE", "token_classify", "score", "text-classification", "gliner")
    assert [kind_of_task(name) for name in names] == [
        *("embedding", "embedding", "sparse", "token-classifier", "reranker", "classifier", "zero-shot-ner"),
    ]
    with pytest.raises(InputError, match="'generate', expected embed, sparse, multi-vector"):
        kind_of_task("generate")


def test_tasks_are_options_of_the_command() -> None:
    assert tasks_of(parse(["serve", "a/b"]).task) is None
    assert tasks_of(parse(["serve", "a/b", "--task", "sparse"]).task) == "sparse"
    words = ["serve", "x=a/b", "c/d", "--task", "x=sparse", "--task", "c/d=rerank"]
    assert tasks_of(parse(words).task) == {"x": "sparse", "c/d": "rerank"}
    with pytest.raises(InputError, match="expected NAME=TASK"):
        tasks_of(["sparse", "x=embed"])


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("masked") / "words"
    make_checkpoint(path, head="ForMaskedLM")
    return path


def test_a_task_decides_and_a_guess_is_logged_and_shown(masked: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def work(engine: Any) -> Any:
        return await engine.encode_sparse(TEXTS[:2])

    expected = MLXSparseEncoder(masked).encode(TEXTS[:2], convert_to_sparse_tensor=False).numpy()
    for (columns, values), row in zip(with_engine(masked, work, task="sparse"), expected, strict=True):
        np.testing.assert_allclose(values, row[columns], **CLOSE)
    assert caplog.text == ""
    info = Server({"words": masked}).send(("/embed", {"inputs": TEXTS}), ("/info", None))[1].json()
    assert info["kind"] == "embedding"
    assert "the mean of its token embeddings is used" in info["warnings"][0]
    assert "words is served as a model of the kind 'embedding'" in caplog.text
    named = Server({"words": masked}, task={"words": "sparse"}).send(("/embed", {"inputs": "a"}), ("/info", None))
    assert named[0].status_code == 424
    assert (named[1].json()["model_type"], named[1].json()["warnings"]) == ({"embedding": {"pooling": "splade"}}, [])


@pytest.mark.parametrize(
    ("task", "message"), [({"other": "sparse"}, "got a task for other"), ("poetry", "'poetry', expected embed")]
)
def test_tasks_of_no_model_and_that_do_not_exist_are_refused(masked: Path, task: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ModelRegistry({"words": masked}, task=task)


def test_a_regressor_of_single_texts_is_served_by_predict(tmp_path: Path) -> None:
    path = tmp_path / "quality"
    model = make_checkpoint(path, head="ForSequenceClassification", labels=1)
    model.config.problem_type = "regression"
    model.config.save_pretrained(path)
    [found] = Server({"quality": path}, task="classify").send(("/predict", {"inputs": TEXTS[0]}))
    expected = pipeline("text-classification", model=str(path))(TEXTS[0])[0]
    np.testing.assert_allclose(found.json()[0]["score"], expected["score"], **CLOSE)
    with pytest.raises(ModelLoadError, match="--task rerank or --task classify"):
        ModelRegistry({"quality": path}).load(None)


def test_a_classifier_of_several_labels_does_not_rank(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "nli", head="ForSequenceClassification", labels=3)
    with pytest.raises(ModelLoadError, match="has 3 labels, and a reranker has 1"):
        ModelRegistry({"nli": tmp_path / "nli"}, task="rerank").load("nli")


def test_a_model_that_cannot_be_loaded_leaves_the_others_alone(
    masked: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = folder(tmp_path, "broken", {"architectures": ["BertModel"], "model_type": "bert"})
    server = Server({"broken": broken, "words": masked}, task={"words": "embed"})
    named, unnamed, again, info = server.send(
        ("/v1/embeddings", {"model": "broken", "input": "a"}),
        ("/embed", {"inputs": TEXTS}),
        ("/embed", {"inputs": "a", "model": "broken"}),
        ("/info", None),
    )
    assert (named.status_code, again.status_code, unnamed.status_code, info.status_code) == (503, 424, 200, 200)
    error = named.json()["error"]
    assert error["message"] == "the model 'broken' cannot be loaded. The server's log says why."
    assert str(tmp_path) not in named.text + again.text
    assert str(tmp_path) in caplog.text
    np.testing.assert_allclose(
        unnamed.json()[0], MLXSentenceTransformer(masked).encode(TEXTS, normalize_embeddings=True)[0], **CLOSE
    )


def test_only_max_models_are_in_memory_also_while_one_is_loaded(masked: Path, tmp_path: Path) -> None:
    registry = ModelRegistry({"a": masked, "b": folder(tmp_path, "b", MASKED)}, max_models=1, task="embed")
    registry.load("a")
    with pytest.raises(UnservedModelError, match="'b' is of the kind 'embedding', and this needs sparse"):
        registry.load("b", ("sparse",))
    assert [one.id for one in registry.in_memory] == ["a"]
    with pytest.raises(ModelLoadError):
        registry.load("b")
    assert registry.in_memory == []


@pytest.fixture(scope="module", params=["span", "token", "bi-span"])
def finder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> MLXGLiNER:
    return MLXGLiNER.from_pretrained(make_gliner(tmp_path_factory.mktemp("gliner"), request.param))


def test_entities_with_labels_of_the_request_are_those_of_inference(finder: MLXGLiNER) -> None:
    texts, labels = list(ENTITY_TEXTS[:3]), list(LABELS)
    body = {"input": [*texts, " "], "labels": labels, "threshold": 0.3}
    found, other, described = Server({"finder": finder}).send(
        ("/v1/ner", body),
        (
            "/v1/ner",
            {"input": texts[0], "labels": labels[:1], "threshold": 0.0, "flat_ner": False, "multi_label": True},
        ),
        ("/v1/ner", {"input": texts[0], "labels": {"who": labels[0]}, "threshold": 0.1}),
    )
    expected = [
        finder.inference([*texts, " "], labels, threshold=0.3),
        finder.inference(texts[:1], labels[:1], False, 0.0, True),
        finder.inference(texts[:1], {"who": labels[0]}, threshold=0.1),
    ]
    assert sum(map(len, expected[1])) > 0
    for response, rows in zip((found, other, described), expected, strict=True):
        assert response.status_code == 200, response.text
        for one, row in zip(response.json()["data"], rows, strict=True):
            assert [{**entity, "score": 0} for entity in one["entities"]] == [{**entity, "score": 0} for entity in row]
            np.testing.assert_allclose([e["score"] for e in one["entities"]], [e["score"] for e in row], **CLOSE)


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"labels": []}, 400, "labels"),
        ({"labels": [""]}, 400, "labels"),
        ({"labels": ["person"] * 257}, 400, "labels"),
        ({"labels": ["person"], "threshold": 2}, 400, "threshold"),
        ({"labels": ["person"], "aggregation_strategy": "simple"}, 400, "got aggregation_strategy with labels"),
        ({"threshold": 0.5}, 400, "got threshold without labels"),
        ({}, 404, "No model here is of the kind token-classifier"),
        ({"labels": ["person"], "input": "a " * 5000}, 400, "more tokens than the model takes"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_wrong_labels_are_refused(finder: MLXGLiNER, body: Any, status: int, message: str) -> None:
    response = Server({"finder": finder}).post("/v1/ner", {"input": "Ada lived in London.", **body})
    assert response.status_code == status, response.text
    assert message in response.json()["error"]["message"]


def test_labels_that_truncation_would_drop_are_refused() -> None:
    labels = LabelSet(("person", "city"), ("person", "city"))
    ids = np.arange(5, dtype=np.int32)
    _check_labels([WordTokens(ids, None, label_tokens=ids[:2])], labels)
    with pytest.raises(InputError, match="2 labels have more tokens than the model takes"):
        _check_labels([WordTokens(ids, None, label_tokens=ids[:1])], labels)


def test_tokens_and_info_of_a_model_that_finds_entities(finder: MLXGLiNER) -> None:
    tokens, info = Server({"finder": finder}).send(("/tokenize", {"inputs": "ada lived"}), ("/info", None))
    assert len(tokens.json()[0]) >= 2
    assert info.json()["kind"] == "zero-shot-ner"
    with pytest.raises(OverlongTextError):
        with_engine(finder, lambda engine: engine.find_entities(["a " * 5000], ["person"]))
