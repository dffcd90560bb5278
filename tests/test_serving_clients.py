"""Real clients of the server on loopback: their vectors are those of encode.

`pytest -m integrations` runs them. They need the extra "integrations"; a missing client is a failure.
"""

import gc
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx
import huggingface_hub
import numpy as np
import pytest
from serving_models import OVERLONG, make_classifiers, on_loopback

from mlx_hf_bridge import MLXCrossEncoder, MLXSentenceTransformer
from mlx_hf_bridge.serving import Settings

# Warnings of these clients cannot be fixed here.
pytestmark = [pytest.mark.integrations, pytest.mark.filterwarnings("ignore")]

CLOSE = {"rtol": 0, "atol": 1e-6}
TEXTS = ["The cat sleeps.", "A dog barks at the mailman.", "Stocks fell sharply today."]
KEY = "secret"


@pytest.fixture(autouse=True)
def _closed_connections() -> Iterator[None]:
    """Collect what clients leave open while its warnings are ignored."""
    yield
    gc.collect()


@pytest.fixture(scope="module")
def reranker(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_classifiers(tmp_path_factory.mktemp("clients"))["reranker"]


@pytest.fixture(scope="module")
def address(minilm: Path, reranker: str) -> Iterator[str]:
    with on_loopback({"minilm": str(minilm), "reranker": reranker}, Settings(api_key=KEY)) as found:
        yield found


@pytest.fixture(scope="module")
def expected(minilm: Path) -> np.ndarray:
    vectors: np.ndarray = MLXSentenceTransformer(minilm).encode(TEXTS)
    return vectors


def test_openai(address: str, expected: np.ndarray) -> None:
    openai = import_module("openai")
    client = openai.OpenAI(base_url=f"{address}/v1", api_key=KEY)
    for options in ({}, {"encoding_format": "float"}, {"encoding_format": "base64"}):
        found = client.embeddings.create(model="minilm", input=TEXTS, **options)
        rows: list[Any] = [item.embedding for item in found.data]
        if options.get("encoding_format") == "base64":
            # Asked for by name, it is left to the caller.
            decode = import_module("base64").b64decode
            rows = [np.frombuffer(decode(row), "<f4") if isinstance(row, str) else row for row in rows]
        np.testing.assert_allclose(rows, expected, **CLOSE)
    assert found.usage.prompt_tokens == found.usage.total_tokens > 0
    assert [model.id for model in client.models.list()] == ["minilm", "reranker"]
    with pytest.raises(openai.NotFoundError) as missing:
        client.embeddings.create(model="nope", input="a")
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as overlong:
        client.embeddings.create(model="minilm", input="a " * 1000)
    assert overlong.value.code == "context_length_exceeded"
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{address}/v1", api_key="wrong").models.list()


def test_huggingface_hub(address: str, expected: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    # The tests are offline but for this machine.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    for place in (address, f"{address}/embed"):
        client = huggingface_hub.InferenceClient(model=place, token=KEY)
        np.testing.assert_allclose(client.feature_extraction(TEXTS), expected, **CLOSE)
    client = huggingface_hub.InferenceClient(model=f"{address}/similarity", token=KEY)
    scores = client.sentence_similarity(TEXTS[0], TEXTS[1:])
    np.testing.assert_allclose(scores, expected[1:] @ expected[0], **CLOSE)


def test_langchain(address: str, expected: np.ndarray) -> None:
    embeddings = import_module("langchain_openai").OpenAIEmbeddings(
        model="minilm", base_url=f"{address}/v1", api_key=KEY, check_embedding_ctx_length=False
    )
    np.testing.assert_allclose(embeddings.embed_documents(TEXTS), expected, **CLOSE)


def test_llama_index(address: str, expected: np.ndarray) -> None:
    like = import_module("llama_index.embeddings.openai_like").OpenAILikeEmbedding(
        model_name="minilm", api_base=f"{address}/v1", api_key=KEY
    )
    np.testing.assert_allclose(like.get_text_embedding_batch(TEXTS), expected, **CLOSE)


def test_cohere(address: str, reranker: str) -> None:
    cohere = import_module("cohere")
    ranked = MLXCrossEncoder(reranker).rank("a dog", TEXTS)
    for client in (cohere.ClientV2(api_key=KEY, base_url=address), cohere.Client(api_key=KEY, base_url=address)):
        found = client.rerank(model="reranker", query="a dog", documents=TEXTS, top_n=2)
        assert [item.index for item in found.results] == [one["corpus_id"] for one in ranked[:2]]
        scores = [item.relevance_score for item in found.results]
        np.testing.assert_allclose(scores, [one["score"] for one in ranked[:2]], **CLOSE)
        found = client.rerank(model="reranker", query="a dog", documents=["cats", OVERLONG])
        assert found.meta.warnings == ["1 of 2 documents were too long and were truncated."]
    with pytest.raises(cohere.UnauthorizedError):
        cohere.ClientV2(api_key="wrong", base_url=address).rerank(model="reranker", query="a", documents=["b"])


def test_jina(address: str, reranker: str) -> None:
    jina = import_module("llama_index.postprocessor.jinaai_rerank").JinaRerank(
        model="reranker", top_n=2, api_key=KEY, base_url=f"{address}/v1"
    )
    schema = import_module("llama_index.core.schema")
    nodes = [schema.NodeWithScore(node=schema.TextNode(text=text)) for text in TEXTS]
    found = jina.postprocess_nodes(nodes, query_str="a dog")
    ranked = MLXCrossEncoder(reranker).rank("a dog", TEXTS, top_k=2)
    assert [one.node.get_content() for one in found] == [TEXTS[one["corpus_id"]] for one in ranked]
    np.testing.assert_allclose([one.score for one in found], [one["score"] for one in ranked], **CLOSE)


def test_openai_dimensions(address: str, minilm: Path) -> None:
    client = import_module("openai").OpenAI(base_url=f"{address}/v1", api_key=KEY)
    found = client.embeddings.create(model="minilm", input=TEXTS, dimensions=64)
    expected = MLXSentenceTransformer(minilm).encode(TEXTS, truncate_dim=64, normalize_embeddings=True)
    np.testing.assert_allclose([one.embedding for one in found.data], expected, **CLOSE)


def test_responses_are_those_of_the_schemas_of_openai_and_cohere(address: str) -> None:
    openai, cohere = import_module("openai"), import_module("cohere")
    headers = {"Authorization": f"Bearer {KEY}"}

    def post(path: str, body: Any) -> Any:
        return httpx.post(f"{address}{path}", json=body, headers=headers, timeout=60).json()

    embeddings = post("/v1/embeddings", {"model": "minilm", "input": TEXTS})
    openai.types.CreateEmbeddingResponse.model_validate(embeddings, strict=True)
    assert set(embeddings) == set(openai.types.CreateEmbeddingResponse.model_fields)
    assert set(embeddings["data"][0]) == set(openai.types.Embedding.model_fields)
    models = httpx.get(f"{address}/v1/models", headers=headers).json()
    for one in models["data"]:
        openai.types.Model.model_validate(one, strict=True)
    error = post("/v1/embeddings", {"model": "minilm"})["error"]
    import_module("openai.types.shared").ErrorObject.model_validate(error, strict=True)
    ranked = post("/v2/rerank", {"model": "reranker", "query": "a", "documents": TEXTS})
    types = import_module("cohere.types") if not hasattr(cohere, "V2RerankResponse") else cohere
    types.V2RerankResponse.model_validate(ranked)
    types.RerankResponse.model_validate(post("/v1/rerank", {"model": "reranker", "query": "a", "documents": TEXTS}))
