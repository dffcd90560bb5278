"""Tests of tools that use embedding models: equal results with torch, backend="mlx" and the torch-free classes.

`pytest -m integrations` runs them. They need the extra "integrations"; a missing tool is a failure.
"""

import logging
import runpy
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from public_api import calls, foreign
from sentence_transformers import SentenceTransformer

from mlx_hf_bridge import MLXSentenceTransformer
from mlx_hf_bridge.errors import InputError
from mlx_hf_bridge.sentence_transformers import base

# Warnings of these tools cannot be fixed here.
pytestmark = [pytest.mark.integrations, pytest.mark.filterwarnings("ignore")]

TOLERANCE = 1e-5
SPORT = ["the team won the match", "a late goal decided the game", "the striker scored twice", "fans cheered the cup"]
MONEY = ["shares fell on the market", "the bank raised its rates", "profits rose at the firm", "investors sold bonds"]
SKY = ["a telescope saw a new planet", "the moon passed the sun", "stars form in clouds of gas", "a comet was near"]
TEXTS = [f"{text} {word}" for text in SPORT + MONEY + SKY for word in ("today", "again", "this year")]


@pytest.fixture(scope="module")
def name(minilm: Path) -> str:
    return str(minilm)


@pytest.fixture(scope="module")
def on_torch(name: str) -> SentenceTransformer:
    return SentenceTransformer(name, device="cpu")


@pytest.fixture(scope="module")
def on_backend(name: str, tmp_path_factory: pytest.TempPathFactory) -> SentenceTransformer:
    return SentenceTransformer(name, device="cpu", backend="mlx")


@pytest.fixture(scope="module")
def torch_free(name: str) -> MLXSentenceTransformer:
    return MLXSentenceTransformer(name)


def adapter(tool: str, name: str) -> Any:
    """Return a class of mlx_hf_bridge.integrations."""
    return getattr(import_module(f"mlx_hf_bridge.integrations.{tool}"), name)


def close(found: Any, expected: Any) -> bool:
    """Return whether all values agree within the tolerance."""
    return bool(np.abs(np.asarray(found) - np.asarray(expected)).max() < TOLERANCE)


def test_langchain(name: str, torch_free: MLXSentenceTransformer, on_torch: SentenceTransformer) -> None:
    from langchain_core.vectorstores import InMemoryVectorStore

    mlx_model = adapter("langchain", "MLXEmbeddings")(torch_free)
    assert close(mlx_model.embed_documents(TEXTS), on_torch.encode(TEXTS))
    assert close(mlx_model.embed_query(TEXTS[0]), on_torch.encode(TEXTS[0]))
    store = InMemoryVectorStore.from_texts(TEXTS, mlx_model)
    assert store.similarity_search("a football game", k=1)[0].page_content.rsplit(" ", 1)[0] in SPORT


ADAPTERS = {
    "bertopic": ["MLXBackend"],
    "chroma": ["MLXEmbeddingFunction"],
    "haystack": ["MLXTextEmbedder", "MLXDocumentEmbedder"],
    "keybert": ["MLXBackend"],
    "langchain": ["MLXEmbeddings"],
    "llama_index": ["MLXEmbedding"],
    "mteb": ["MLXEncoder"],
    "txtai": ["MLXVectors"],
}


# Packages that check arguments for these tools.
THEIRS = ("chromadb", "jsonschema", "pydantic")


@pytest.mark.parametrize(("tool", "kind"), [(tool, kind) for tool, kinds in ADAPTERS.items() for kind in kinds])
def test_adapters_raise_bridge_errors_only(
    tool: str, kind: str, torch_free: MLXSentenceTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or errors of the tool's own classes, such as pydantic's."""

    def refuse(*_: Any) -> Any:
        raise InputError("no processes in this test")

    monkeypatch.setattr(base, "start_pool", refuse)
    made = adapter(tool, kind)
    path = str(torch_free._readme.parent) if torch_free._readme else ""
    instance = {"txtai": lambda: made({"path": path}, None, None), "chroma": lambda: made(path)}.get(
        tool, lambda: made(torch_free)
    )()
    own = [(name, getattr(instance, name)) for name in vars(made) if not name.startswith("_") or name == "__call__"]
    named = {kind: made, **{name: method for name, method in own if callable(method)}}
    logging.disable(logging.CRITICAL)
    try:
        tried = [case for name, function in named.items() for case in calls(name, function, False)]
        found = [
            text
            for label, call in tried
            if (text := foreign(label, call, (tool, "chromadb", "jsonschema", "pydantic")))
        ]
    finally:
        logging.disable(logging.NOTSET)
    assert found == [], "\n".join(found)


def test_langchain_huggingface(name: str, on_torch: SentenceTransformer) -> None:
    module = import_module("langchain_huggingface.embeddings.huggingface")
    torch_model = module.HuggingFaceEmbeddings(model_name=name, model_kwargs={"backend": "mlx", "device": "cpu"})
    assert torch_model._client.get_backend() == "mlx"
    assert close(torch_model.embed_documents(TEXTS), on_torch.encode(TEXTS))


def test_keybert(
    on_torch: SentenceTransformer, on_backend: SentenceTransformer, torch_free: MLXSentenceTransformer
) -> None:
    from keybert import KeyBERT

    text = " . ".join(MONEY)
    models = [on_torch, on_backend, adapter("keybert", "MLXBackend")(torch_free)]
    expected, *found = (KeyBERT(model=model).extract_keywords(text, top_n=5) for model in models)
    for keywords in found:
        assert [word for word, _ in keywords] == [word for word, _ in expected]
        assert np.allclose([score for _, score in keywords], [score for _, score in expected], atol=2e-4)


def test_bertopic(
    on_torch: SentenceTransformer, on_backend: SentenceTransformer, torch_free: MLXSentenceTransformer
) -> None:
    from bertopic import BERTopic
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA

    def topics(model: Any) -> tuple[list[int], dict[int, list[str]]]:
        # PCA and KMeans replace UMAP and HDBSCAN, whose first call compiles for minutes; they are not under test.
        made = BERTopic(
            embedding_model=model,
            umap_model=PCA(3, random_state=0),
            hdbscan_model=KMeans(3, random_state=0, n_init=5),
        )
        found, _ = made.fit_transform(TEXTS)
        return list(found), {topic: [word for word, _ in words] for topic, words in made.get_topics().items()}

    expected = topics(on_torch)
    assert topics(on_backend) == expected
    assert topics(adapter("bertopic", "MLXBackend")(torch_free)) == expected


EXAMPLES = Path(__file__).parent.parent / "examples" / "integrations"
ANSWERS = {
    "bertopic_topics": "bread",
    "chroma_search": "bakery",
    "haystack_search": "bakery",
    "keybert_keywords": "bakery",
    "langchain_search": "bakery",
    "llama_index_search": "bakery",
    "mteb_scores": None,  # downloads its task; test_mteb covers it with a local task
    "txtai_search": "bakery",
}


def test_every_example_has_an_answer() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(ANSWERS)


@pytest.mark.parametrize("example", [name for name, answer in ANSWERS.items() if answer])
def test_examples_answer(example: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLES / f"{example}.py"))["main"](name)
    assert str(ANSWERS[example]) in capsys.readouterr().out


def local_task() -> Any:
    """Return an MTEB task with local data."""
    import mteb
    from datasets import Dataset
    from mteb.abstasks.sts import AbsTaskSTS

    class LocalSTS(AbsTaskSTS):
        metadata = mteb.TaskMetadata(
            name="LocalSTS",
            dataset={"path": "local", "revision": "1"},
            description="Pairs of a few sentences.",
            reference=None,
            type="STS",
            category="t2t",
            modalities=["text"],
            eval_splits=["test"],
            eval_langs=["eng-Latn"],
            main_score="cosine_spearman",
        )
        min_score, max_score = 0, 5

        def load_data(self, *_: Any, **__: Any) -> None:
            pairs = [(one, other) for one in TEXTS[::4] for other in TEXTS[::5]]
            scores = [float(sum(map(len, pair)) % 6) for pair in pairs]
            first, second = zip(*pairs, strict=True)
            content = {"sentence1": list(first), "sentence2": list(second), "score": scores}
            self.dataset = {"test": Dataset.from_dict(content)}
            self.data_loaded = True

    return LocalSTS()


def test_mteb(
    on_torch: SentenceTransformer, on_backend: SentenceTransformer, torch_free: MLXSentenceTransformer
) -> None:
    import mteb

    def score(model: Any) -> float:
        result = mteb.evaluate(model, [local_task()], cache=None, show_progress_bar=False)
        return float(result.task_results[0].scores["test"][0]["main_score"])

    expected = score(on_torch)
    assert score(on_backend) == pytest.approx(expected, abs=1e-4)
    assert score(adapter("mteb", "MLXEncoder")(torch_free, "local/minilm", "1")) == pytest.approx(expected, abs=1e-4)


def test_chroma(name: str, on_torch: SentenceTransformer) -> None:
    chromadb = import_module("chromadb")
    functions = import_module("chromadb.utils.embedding_functions")
    client = chromadb.EphemeralClient(chromadb.config.Settings(anonymized_telemetry=False))
    mlx_model = adapter("chroma", "MLXEmbeddingFunction")
    torch_model = functions.SentenceTransformerEmbeddingFunction
    torch_model.models.clear()
    for number, function in enumerate((mlx_model(name), torch_model(name, backend="mlx"))):
        assert close(function(TEXTS), on_torch.encode(TEXTS))
        collection = client.create_collection(f"texts{number}", embedding_function=function)
        collection.add(ids=[str(place) for place in range(len(TEXTS))], documents=TEXTS)
        found = collection.query(query_texts=["a football game"], n_results=1)["documents"][0][0]
        assert found.rsplit(" ", 1)[0].removesuffix(" this") in SPORT
    again = mlx_model.build_from_config(mlx_model(name, truncate_dim=5).get_config())
    assert again(["a"])[0].shape == (5,)


def test_llama_index(name: str, torch_free: MLXSentenceTransformer, on_torch: SentenceTransformer) -> None:
    torch_model = import_module("llama_index.embeddings.huggingface").HuggingFaceEmbedding
    made: list[Callable[[list[str]], Any]] = [
        adapter("llama_index", "MLXEmbedding")(torch_free).get_text_embedding_batch,
        torch_model(model_name=name, device="cpu", backend="mlx").get_text_embedding_batch,
    ]
    for embed in made:
        assert close(embed(TEXTS), on_torch.encode(TEXTS))


def test_haystack(torch_free: MLXSentenceTransformer, on_torch: SentenceTransformer) -> None:
    haystack = import_module("haystack")
    documents = [haystack.Document(content=text) for text in TEXTS]
    pipeline = haystack.Pipeline()
    pipeline.add_component("documents", adapter("haystack", "MLXDocumentEmbedder")(torch_free))
    found = pipeline.run({"documents": {"documents": documents}})["documents"]["documents"]
    assert close([document.embedding for document in found], on_torch.encode(TEXTS))
    query = adapter("haystack", "MLXTextEmbedder")(torch_free).run(TEXTS[0])
    assert close(query["embedding"], on_torch.encode(TEXTS[0]))


def test_txtai(name: str, torch_free: MLXSentenceTransformer, on_torch: SentenceTransformer) -> None:
    embeddings_class = import_module("txtai.embeddings").Embeddings
    embeddings = embeddings_class(method="external", transform=lambda texts: torch_free.encode(texts), content=False)
    embeddings.index(list(enumerate(TEXTS)))
    number, score = embeddings.search("a football game", 1)[0]
    assert TEXTS[number].rsplit(" ", 1)[0].removesuffix(" this") in SPORT
    scores = on_torch.similarity(on_torch.encode("a football game"), on_torch.encode(TEXTS))
    assert abs(score - float(scores.max())) < 1e-4


def test_txtai_takes_the_backend(name: str, on_torch: SentenceTransformer) -> None:
    """txtai passes its `vectors` option to SentenceTransformer as keyword arguments."""
    embeddings_class = import_module("txtai.embeddings").Embeddings
    embeddings = embeddings_class(
        path=name, method="sentence-transformers", vectors={"backend": "mlx"}, gpu=False, content=False
    )
    embeddings.index(list(enumerate(TEXTS)))
    assert embeddings.model.model.get_backend() == "mlx"
    score = embeddings.search("a football game", 1)[0][1]
    scores = on_torch.similarity(on_torch.encode("a football game"), on_torch.encode(TEXTS))
    assert abs(score - float(scores.max())) < 1e-4
