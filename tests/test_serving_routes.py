"""The routes of Text Embeddings Inference, Cohere and Jina, and those for labels: shapes, results and errors."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import make_checkpoint
from serving_models import OVERLONG, TEXTS, Server, make_classifiers, make_embedder

from mlx_hf_bridge import MLXCrossEncoder, MLXMultiVectorEncoder, MLXSparseEncoder, pipeline
from mlx_hf_bridge.sentence_transformers.modules.activations import NamedActivation

CLOSE = {"rtol": 0, "atol": 1e-6}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("served")
    found: dict[str, Any] = {"tiny": make_embedder(folder)}
    folders = make_classifiers(folder)
    found["reranker"] = MLXCrossEncoder(folders["reranker"])
    found["nli"] = pipeline("text-classification", model=folders["nli"])
    found["tagger"] = pipeline("token-classification", model=folders["tagger"])
    return found


@pytest.fixture(scope="module")
def server(served: dict[str, Any]) -> Server:
    return Server(served)


def ok(response: Any) -> Any:
    assert response.status_code == 200, response.text
    return response.json()


def test_embed_is_encode(server: Server, served: dict[str, Any]) -> None:
    model = served["tiny"]
    one, several, plain, short, ids, prompted, cut, root = server.send(
        ("/embed", {"inputs": TEXTS[0]}),
        ("/embed", {"inputs": TEXTS}),
        ("/embed", {"inputs": TEXTS, "normalize": False}),
        ("/embed", {"inputs": TEXTS, "dimensions": 5}),
        ("/embed", {"inputs": model.tokenizer(TEXTS)["input_ids"]}),
        ("/embed", {"inputs": TEXTS, "prompt_name": "query"}),
        ("/embed", {"inputs": OVERLONG, "truncate": True, "truncation_direction": "Right"}),
        ("/", {"inputs": TEXTS}),
    )
    expected = model.encode(TEXTS, normalize_embeddings=True)
    np.testing.assert_allclose(ok(one), expected[:1], **CLOSE)
    for found in (several, ids, root):
        np.testing.assert_allclose(ok(found), expected, **CLOSE)
    np.testing.assert_allclose(ok(plain), model.encode(TEXTS), **CLOSE)
    np.testing.assert_allclose(ok(short), model.encode(TEXTS, truncate_dim=5, normalize_embeddings=True), **CLOSE)
    np.testing.assert_allclose(ok(prompted), model.encode_query(TEXTS), **CLOSE)
    np.testing.assert_allclose(ok(cut)[0], model.encode(OVERLONG), **CLOSE)
    assert cut.headers["x-truncated-texts"] == "1"
    assert several.headers["x-compute-tokens"] == str(sum(map(len, model.tokenizer(TEXTS)["input_ids"])))


def test_token_embeddings_and_similarity(server: Server, served: dict[str, Any]) -> None:
    tokens, scores = server.send(
        ("/embed_all", {"inputs": TEXTS}),
        ("/similarity", {"inputs": {"source_sentence": TEXTS[0], "sentences": TEXTS[1:]}}),
    )
    for found, expected in zip(ok(tokens), served["tiny"].encode(TEXTS, output_value="token_embeddings"), strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    vectors = served["tiny"].encode(TEXTS)
    np.testing.assert_allclose(ok(scores), vectors[:1].dot(vectors[1:].T)[0], **CLOSE)


def test_sparse_embeddings_are_those_of_encode(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, head="ForMaskedLM")
    model = MLXSparseEncoder(tmp_path)
    found = ok(Server(model).post("/embed_sparse", {"inputs": TEXTS[:2]}))
    expected = model.encode(TEXTS[:2], convert_to_sparse_tensor=False).numpy()
    dense = np.zeros_like(expected)
    for row, values in enumerate(found):
        for one in values:
            dense[row, one["index"]] = one["value"]
    np.testing.assert_allclose(dense, expected, rtol=1e-5, atol=1e-6)


def test_multi_vector_models_give_the_tokens_that_are_scored(tmp_path: Path) -> None:
    from test_multi_vector_encoder import colbert

    colbert(tmp_path)
    model = MLXMultiVectorEncoder(tmp_path / "repo")
    found = ok(Server(model).post("/embed_all", {"inputs": TEXTS[:2]}))
    for one, expected in zip(found, model.encode(TEXTS[:2], convert_to_numpy=True), strict=True):
        np.testing.assert_allclose(one, expected, rtol=0, atol=1e-5)


def test_rerank_is_rank(server: Server, served: dict[str, Any]) -> None:
    model = served["reranker"]
    plain, raw, v1, v2 = server.send(
        ("/rerank", {"query": "a dog", "texts": TEXTS, "return_text": True}),
        ("/rerank", {"query": "a dog", "texts": TEXTS, "raw_scores": True}),
        (
            "/v1/rerank",
            {"model": "reranker", "query": "a dog", "documents": [{"text": text} for text in TEXTS], "top_n": 2}
            | {"return_documents": True},
        ),
        ("/v2/rerank", {"model": "reranker", "query": "a dog", "documents": [*TEXTS, OVERLONG]}),
    )
    expected = model.rank("a dog", TEXTS)
    order = [one["corpus_id"] for one in expected]
    scores = [one["score"] for one in expected]
    assert [one["index"] for one in ok(plain)] == order
    np.testing.assert_allclose([one["score"] for one in ok(plain)], scores, **CLOSE)
    assert [one["text"] for one in ok(plain)] == [TEXTS[index] for index in order]
    logits = model.predict([("a dog", TEXTS[index]) for index in order], activation_fn=NamedActivation("Identity"))
    np.testing.assert_allclose([one["score"] for one in ok(raw)], logits, rtol=0, atol=1e-5)
    assert [one["index"] for one in ok(v1)["results"]] == order[:2]
    assert ok(v1)["results"][0]["document"] == {"text": TEXTS[order[0]]}
    assert ok(v1)["meta"] == {"api_version": {"version": "1"}, "billed_units": {"search_units": 1}}
    found = ok(v2)
    assert set(found["results"][0]) == {"index", "relevance_score"}
    assert len(found["results"]) == len(TEXTS) + 1
    assert found["meta"]["warnings"] == [f"1 of {len(TEXTS) + 1} documents were too long and were truncated."]


def test_documents_are_read_up_to_max_tokens_per_doc(server: Server, served: dict[str, Any]) -> None:
    body = {"model": "reranker", "query": "a dog", "max_tokens_per_doc": 2}
    [found] = ok(server.post("/v2/rerank", {**body, "documents": ["the cat sat on the mat."]}))["results"]
    expected = served["reranker"].predict([("a dog", "the cat")])[0]
    np.testing.assert_allclose(found["relevance_score"], expected, **CLOSE)


def test_labels_are_those_of_the_pipelines(server: Server, served: dict[str, Any]) -> None:
    single, batch, own, given, entities = server.send(
        ("/predict", {"inputs": TEXTS[0]}),
        ("/predict", {"inputs": [[TEXTS[0]], ["a dog", "cats"]]}),
        ("/v1/classify", {"input": TEXTS, "top_k": 1}),
        ("/v1/classify", {"input": TEXTS[0], "labels": ["dog", "film"], "multi_label": True}),
        ("/v1/ner", {"input": TEXTS, "model": "tagger"}),
    )
    labels = served["nli"]
    assert [one["label"] for one in ok(single)] == [one["label"] for one in labels(TEXTS[0], top_k=None)]
    pair = labels([{"text": "a dog", "text_pair": "cats"}], top_k=None)[0]
    assert [one["label"] for one in ok(batch)[1]] == [one["label"] for one in pair]
    np.testing.assert_allclose([one["score"] for one in ok(batch)[1]], [one["score"] for one in pair], **CLOSE)
    assert [one["prediction"] for one in ok(own)["data"]] == [one["label"] for one in labels(TEXTS)]
    assert {len(one["predictions"]) for one in ok(own)["data"]} == {1}
    assert ok(own)["usage"]["total_tokens"] > 0
    zero_shot = pipeline("zero-shot-classification", model=labels.model)
    expected = zero_shot(TEXTS[0], ["dog", "film"], multi_label=True)
    [found] = ok(given)["data"]
    assert [one["label"] for one in found["predictions"]] == expected["labels"]
    np.testing.assert_allclose([one["score"] for one in found["predictions"]], expected["scores"], **CLOSE)
    found = ok(entities)["data"]
    expected = served["tagger"](TEXTS, aggregation_strategy="simple")
    assert [[one["word"] for one in row["entities"]] for row in found] == [[o["word"] for o in row] for row in expected]


def test_tokens_and_texts_of_tokens(server: Server, served: dict[str, Any]) -> None:
    tokens, bare, named, texts, wrong = server.send(
        ("/tokenize", {"inputs": "the cat sat"}),
        ("/tokenize", {"inputs": ["the cat"], "add_special_tokens": False, "prompt_name": "query"}),
        ("/tokenize", {"inputs": "the cat", "model": "nli"}),
        ("/decode", {"ids": [[5, 6], [5]]}),
        ("/decode", {"ids": [10**6]}),
    )
    [found] = ok(tokens)
    assert [one["id"] for one in found] == served["tiny"].tokenizer("the cat sat")["input_ids"]
    assert found[0] == {"id": found[0]["id"], "text": "[CLS]", "special": True, "start": None, "stop": None}
    assert found[2] == {"id": found[2]["id"], "text": "cat", "special": False, "start": 4, "stop": 7}
    assert [one["text"] for one in ok(bare)[0]] == ["the", "the", "cat"]
    assert [one["text"] for one in ok(named)[0]] == ["[CLS]", "the", "cat", "[SEP]"]
    assert ok(texts) == [served["tiny"].tokenizer.backend.decode(ids) for ids in ([5, 6], [5])]
    assert wrong.status_code == 422


@pytest.mark.parametrize(
    ("path", "body", "status", "kind"),
    [
        ("/embed", {"inputs": ""}, 400, "Empty"),
        ("/embed", {"inputs": []}, 400, "Empty"),
        ("/embed", {"inputs": ["a", OVERLONG]}, 413, "Validation"),
        ("/embed", {"inputs": OVERLONG, "truncate": True, "truncation_direction": "Left"}, 422, "Validation"),
        ("/embed", {"inputs": 5}, 422, "Validation"),
        ("/embed", {"inputs": "a", "prompt": "x"}, 422, "Validation"),
        ("/embed", {"inputs": "a", "model": "other"}, 424, "Backend"),
        ("/embed_sparse", {"inputs": "a"}, 424, "Backend"),
        ("/predict", {"inputs": ["a", "b", "c"]}, 422, "Validation"),
        ("/rerank", {"query": "a", "texts": []}, 400, "Empty"),
        ("/rerank", {"query": "a", "texts": [OVERLONG]}, 413, "Validation"),
        ("/similarity", {"inputs": {"source_sentence": "a", "sentences": []}}, 400, "Empty"),
        ("/", {"input": "a"}, 422, "Validation"),
    ],
)
def test_errors_have_the_form_of_text_embeddings_inference(
    server: Server, path: str, body: Any, status: int, kind: str
) -> None:
    response = server.post(path, body)
    assert response.status_code == status, response.text
    content = response.json()
    assert set(content) == {"error", "error_type"}
    assert content["error_type"] == kind


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"documents": []}, 400),
        ({"documents": [{"title": "a"}]}, 400),
        ({"documents": ["a"], "model": "other"}, 404),
        ({"documents": ["a"], "model": "tiny"}, 404),
        ({"documents": ["a"], "top_n": 0}, 400),
    ],
)
def test_errors_have_coheres_form(server: Server, body: Any, status: int) -> None:
    for path in ("/v1/rerank", "/v2/rerank"):
        response = server.post(path, {"model": "reranker", "query": "a dog", **body})
        assert response.status_code == status, response.text
        assert set(response.json()) == {"message"}


def test_the_server_describes_itself(server: Server) -> None:
    info, named, health, live, metrics = server.send(
        ("/info", None), ("/info?model=nli", None), ("/health", None), ("/health/live", None), ("/metrics", None)
    )
    found = ok(info)
    assert (found["model_id"], found["model_type"]) == ("tiny", {"embedding": {"pooling": "mean"}})
    assert found["max_input_length"] == 44
    assert set(ok(named)["model_type"]["classifier"]) == {"id2label", "label2id"}
    assert (health.status_code, health.text, live.status_code) == (200, "", 200)
    assert "mlx_hf_bridge_queue_tokens 0.0" in metrics.text


def test_metrics_count_texts_and_tokens(served: dict[str, Any]) -> None:
    async def work(client: Any) -> str:
        await client.post("/embed", json={"inputs": TEXTS})
        return str((await client.get("/metrics")).text)

    found = Server({"tiny": served["tiny"]}).talk(work)
    assert 'mlx_hf_bridge_texts_total{model="tiny"} 5.0' in found
    assert 'mlx_hf_bridge_requests_total{method="POST",route="/embed",status="200"} 1.0' in found
