"""Adapters do what each tool's own wrapper of sentence-transformers does, on a model whose settings all show.

The model has prompts of several kinds, a default prompt, no Normalize module, a short limit and the dot product.
`pytest -m integrations` runs these tests; they need the extra "integrations".
"""

import asyncio
import json
from importlib import import_module
from typing import Any

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling
from st_checkpoints import transformer

from mlx_hf_bridge import MLXSentenceTransformer
from mlx_hf_bridge.errors import ArgumentTypeError, InputError

# Warnings of these tools cannot be fixed here.
pytestmark = [pytest.mark.integrations, pytest.mark.filterwarnings("ignore")]

PROMPTS = {
    "query": "i love ",
    "document": "news today ",
    "text": "bad film ",
    "STSBenchmark": "stock market ",
    "STS12-query": "the dog ",
    "PairClassification": "good cats ",
    "Retrieval-document": "cats sat on the mat ",
    "Classification": "rose ",
    "not a task": "hate ",
}
TEXTS = [
    "the cat sat on the mat.",
    "a dog\nrose",
    "stock market rose today !",
    "",
    "i love this film, i hate news ? " * 4,
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("settings")
    encoder = transformer(root / "encoder", max_seq_length=16)
    pooling = Pooling(encoder.get_embedding_dimension(), "mean", include_prompt=False)
    model = SentenceTransformer(modules=[encoder, pooling], device="cpu", similarity_fn_name="dot", prompts=PROMPTS)
    model.default_prompt_name = "text"
    model.save(str(root / "model"))
    return str(root / "model")


@pytest.fixture(scope="module")
def plain(folder: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same model without prompts."""
    model = SentenceTransformer(folder, device="cpu")
    model.default_prompt_name, model.prompts = None, {}
    path = tmp_path_factory.mktemp("plain") / "model"
    model.save(str(path))
    return str(path)


@pytest.fixture
def on_torch(folder: str) -> SentenceTransformer:
    return SentenceTransformer(folder, device="cpu")


@pytest.fixture
def mlx_model(folder: str) -> MLXSentenceTransformer:
    return MLXSentenceTransformer(folder)


def adapter(tool: str, name: str) -> Any:
    """Return a class of mlx_hf_bridge.integrations."""
    return getattr(import_module(f"mlx_hf_bridge.integrations.{tool}"), name)


def assert_close(found: Any, expected: Any) -> None:
    """Assert equal shapes and values; of integers, which may be rounded to either side, within 1."""
    found, expected = np.asarray(found), np.asarray(expected)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1 if expected.dtype.kind == "i" else 1e-5)


# LangChain

ENCODE_KWARGS: list[dict[str, Any]] = [
    {},
    {"encode_kwargs": {"normalize_embeddings": True, "batch_size": 2}},
    {"encode_kwargs": {"prompt_name": "document"}, "query_encode_kwargs": {"prompt_name": "query"}},
    {"query_encode_kwargs": {"prompt": "hate ", "truncate_dim": 5}},
    {"encode_kwargs": {"precision": "ubinary"}},
    {"encode_kwargs": {"prompt_name": "query"}, "show_progress": True},
]


@pytest.mark.parametrize("arguments", ENCODE_KWARGS, ids=str)
def test_langchain(arguments: dict[str, Any], folder: str, mlx_model: MLXSentenceTransformer) -> None:
    wrapper = import_module("langchain_huggingface").HuggingFaceEmbeddings
    expected = wrapper(model_name=folder, model_kwargs={"device": "cpu"}, **arguments)
    for found in (adapter("langchain", "MLXEmbeddings")(model, **arguments) for model in (mlx_model, folder)):
        assert_close(found.embed_documents(TEXTS), expected.embed_documents(TEXTS))
        assert_close(found.embed_query(TEXTS[1]), expected.embed_query(TEXTS[1]))
        assert_close(asyncio.run(found.aembed_documents(TEXTS)), expected.embed_documents(TEXTS))
        assert_close(asyncio.run(found.aembed_query(TEXTS[0])), expected.embed_query(TEXTS[0]))
        assert found.embed_documents([]) == expected.embed_documents([]) == []


def test_langchain_loads_by_name_and_refuses_what_cannot_count(folder: str, mlx_model: MLXSentenceTransformer) -> None:
    made = adapter("langchain", "MLXEmbeddings")
    wrapper = import_module("langchain_huggingface").HuggingFaceEmbeddings
    options = {"prompts": {"text": "a "}, "truncate_dim": 4}
    expected = wrapper(model_name=folder, model_kwargs={"device": "cpu", **options})
    for given in ({"model": folder}, {"model_name": folder}):
        assert_close(made(**given, model_kwargs=options).embed_query("cats"), expected.embed_query("cats"))
    with pytest.raises(ArgumentTypeError, match="truncate_dim cannot be applied to a model that is loaded"):
        made(mlx_model, model_kwargs={"truncate_dim": 4})
    with pytest.raises(ArgumentTypeError, match="got a list"):
        made(mlx_model, encode_kwargs={"convert_to_numpy": False}).embed_documents(TEXTS)
    with pytest.raises(ArgumentTypeError, match="got a int as the model"):
        made(3)


# LlamaIndex

LLAMA_INDEX: list[dict[str, Any]] = [
    {},
    {"query_instruction": "hate ", "text_instruction": "good ", "normalize": False},
    {"max_length": 7, "embed_batch_size": 2},
    {"text_instruction": "dog "},
]


@pytest.mark.parametrize("arguments", LLAMA_INDEX, ids=str)
def test_llama_index(arguments: dict[str, Any], folder: str) -> None:
    wrapper = import_module("llama_index.embeddings.huggingface").HuggingFaceEmbedding
    expected = wrapper(model_name=folder, device="cpu", **arguments)
    for model in (MLXSentenceTransformer(folder), folder):
        found = adapter("llama_index", "MLXEmbedding")(model, **arguments)
        assert_close(found.get_query_embedding(TEXTS[0]), expected.get_query_embedding(TEXTS[0]))
        assert_close(found.get_text_embedding(TEXTS[1]), expected.get_text_embedding(TEXTS[1]))
        assert_close(found.get_text_embedding_batch(TEXTS), expected.get_text_embedding_batch(TEXTS))
        assert_close(asyncio.run(found.aget_text_embedding_batch(TEXTS)), expected.get_text_embedding_batch(TEXTS))
        assert_close(asyncio.run(found.aget_query_embedding(TEXTS[0])), expected.get_query_embedding(TEXTS[0]))
        assert found.get_text_embedding_batch([]) == expected.get_text_embedding_batch([]) == []
        for name in ("model_name", "max_length", "normalize", "embed_batch_size", "query_instruction"):
            assert getattr(found, name) == getattr(expected, name)
        again = type(found).from_dict(found.to_dict())
        assert_close(again.get_query_embedding(TEXTS[0]), expected.get_query_embedding(TEXTS[0]))


def test_llama_index_knows_the_same_instructions() -> None:
    instructions = import_module("mlx_hf_bridge.integrations.llama_index")._instructions
    theirs = import_module("llama_index.embeddings.huggingface.utils")
    for name in (*theirs.BGE_MODELS, *theirs.INSTRUCTOR_MODELS, "BAAI/bge-m3", "a/b", "", "unknown"):
        queries, texts = instructions(name)
        assert queries == theirs.get_query_instruct_for_model_name(name)
        assert texts == theirs.get_text_instruct_for_model_name(name)


# Chroma


@pytest.mark.parametrize(
    "arguments",
    [{}, {"normalize_embeddings": True}, {"prompts": {"text": "a "}, "truncate_dim": 4}, {"device": "cpu"}],
    ids=str,
)
def test_chroma(arguments: dict[str, Any], folder: str) -> None:
    functions = import_module("chromadb.utils.embedding_functions")
    functions.SentenceTransformerEmbeddingFunction.models.clear()
    expected = functions.SentenceTransformerEmbeddingFunction(folder, **arguments)
    made = adapter("chroma", "MLXEmbeddingFunction")
    found = made(folder, **arguments)
    config = found.get_config()
    assert config == expected.get_config() == json.loads(json.dumps(config))
    made.validate_config(config)
    registered = functions.known_embedding_functions[found.name()]
    assert registered is made
    for function in (found, registered.build_from_config(config)):
        assert_close(function(TEXTS), expected(TEXTS))
        assert_close(function.embed_query(TEXTS), expected.embed_query(TEXTS))
        assert all(row.dtype == np.float32 for row in function(TEXTS))
    assert found.default_space() == expected.default_space()
    assert found.supported_spaces() == expected.supported_spaces()
    found.validate_config_update(config, {**config, "model_name": "moved"})


def test_chroma_refuses_what_it_cannot_store(folder: str) -> None:
    made = adapter("chroma", "MLXEmbeddingFunction")
    with pytest.raises(InputError, match="dtype is a type, which Chroma cannot store"):
        made(folder, dtype=np.float16)
    with pytest.raises(ValueError, match="has no device, normalize_embeddings"):
        made.build_from_config({"model_name": folder})


# Haystack

HAYSTACK: list[dict[str, Any]] = [
    {},
    {"prefix": "hate ", "suffix": " good", "normalize_embeddings": True, "batch_size": 2},
    {"truncate_dim": 6, "encode_kwargs": {"prompt_name": "query"}, "progress_bar": False},
    {"precision": "ubinary"},
    {"precision": "int8", "quantization_ranges": [[-1.0] * 24, [1.5] * 24]},
    {"tokenizer_kwargs": {"model_max_length": 6}},
]


def haystack_pair(kind: str, model: Any, arguments: dict[str, Any], folder: str) -> tuple[Any, Any]:
    """Return our component and Haystack's own."""
    theirs = import_module("haystack_integrations.components.embedders.sentence_transformers")
    device = import_module("haystack.utils").ComponentDevice.from_str("cpu")
    expected = getattr(theirs, f"SentenceTransformers{kind}Embedder")(model=folder, device=device, **arguments)
    return adapter("haystack", f"MLX{kind}Embedder")(model, **arguments), expected


@pytest.mark.parametrize("arguments", HAYSTACK, ids=str)
def test_haystack_embeds_a_text(arguments: dict[str, Any], folder: str) -> None:
    found, expected = haystack_pair("Text", folder, arguments, folder)
    again = type(found).from_dict(json.loads(json.dumps(found.to_dict())))
    for embedder in (found, again):
        assert_close(embedder.run(TEXTS[0])["embedding"], expected.run(TEXTS[0])["embedding"])


@pytest.mark.parametrize(
    "arguments",
    [
        *HAYSTACK,
        {"meta_fields_to_embed": ["title", "none", "number"]},
        {"meta_fields_to_embed": ["title"], "embedding_separator": " on "},
    ],
    ids=str,
)
def test_haystack_embeds_documents(arguments: dict[str, Any], folder: str) -> None:
    document = import_module("haystack").Document
    found, expected = haystack_pair("Document", folder, arguments, folder)
    again = type(found).from_dict(json.loads(json.dumps(found.to_dict())))
    documents = [document(content=text, meta={"title": "cats", "none": None, "number": 3}) for text in TEXTS]
    documents.append(document(content=None))
    wanted = expected.run(documents)["documents"]
    for embedder in (found, again):
        made = embedder.run(documents)["documents"]
        assert_close([one.embedding for one in made], [one.embedding for one in wanted])
        assert [one.id for one in made] == [one.id for one in wanted]
    assert found.run([]) == {"documents": []}
    if not arguments.get("quantization_ranges"):  # Haystack's own fails here
        assert expected.run([]) == {"documents": []}


def test_haystack_stores_a_loaded_model_by_its_name_and_settings(folder: str) -> None:
    model = MLXSentenceTransformer(folder, truncate_dim=12, quantization_config="q8", prompts={"text": "a "})
    model.max_seq_length = 9
    found = adapter("haystack", "MLXTextEmbedder")(model, prefix="hate ")
    again = type(found).from_dict(json.loads(json.dumps(found.to_dict())))
    assert_close(again.run(TEXTS[4])["embedding"], found.run(TEXTS[4])["embedding"])
    unnamed = MLXSentenceTransformer(modules=list(model))
    with pytest.raises(InputError, match="cannot be stored by name"):
        adapter("haystack", "MLXTextEmbedder")(unnamed).to_dict()


def test_haystack_refuses_what_its_own_refuses(folder: str, mlx_model: MLXSentenceTransformer) -> None:
    text, documents = (adapter("haystack", f"MLX{kind}Embedder") for kind in ("Text", "Document"))
    with pytest.raises(TypeError, match="expected a text"):
        text(mlx_model).run(["a"])
    with pytest.raises(TypeError, match="expected a list of Documents"):
        documents(mlx_model).run(["a"])
    with pytest.raises(ValueError, match="needs quantization_ranges"):
        text(folder, precision="int8")
    with pytest.raises(TypeError, match="got prefx, expected"):
        text(folder, prefx="a")
    with pytest.raises(TypeError, match="truncate_dim cannot be applied"):
        text(mlx_model, truncate_dim=3)


# BERTopic and KeyBERT


@pytest.mark.parametrize(
    ("tool", "options"), [("bertopic", {}), ("keybert", {}), ("keybert", {"prompt_name": "query", "batch_size": 2})]
)
def test_bertopic_and_keybert(tool: str, options: dict[str, Any], folder: str, on_torch: SentenceTransformer) -> None:
    wrapper = import_module(f"{tool}.backend._sentencetransformers").SentenceTransformerBackend
    expected = wrapper(on_torch, **options)
    for model in (MLXSentenceTransformer(folder), folder):
        found = adapter(tool, "MLXBackend")(model, **options)
        for documents in (TEXTS, np.array(TEXTS), "a single text", []):
            assert_close(found.embed(documents, verbose=True), expected.embed(documents, verbose=True))


# txtai

TXTAI: list[dict[str, Any]] = [
    {},
    {"encodebatch": 2, "encodeargs": {"prompt_name": "not a task"}},
    {"instructions": {"query": "good ", "data": "bad "}, "dimensionality": 9},
    {"vectors": {"truncate_dim": 8}},
    {"quantize": 8},
]


@pytest.mark.parametrize("config", TXTAI, ids=str)
def test_txtai(config: dict[str, Any], folder: str) -> None:
    embeddings = import_module("txtai.embeddings").Embeddings
    config = {"path": folder, "gpu": False, "content": False, **config}
    made = [
        embeddings(method=method, **config)
        for method in ("sentence-transformers", "mlx_hf_bridge.integrations.txtai.MLXVectors")
    ]
    for each in made:
        each.index(list(enumerate(TEXTS)))
    for category in ("query", "data", None):
        expected, found = (each.model.batchtransform([(None, text, None) for text in TEXTS], category) for each in made)
        assert_close(found, expected)
    expected, found = (dict(each.search("cats on a mat", 3)) for each in made)
    assert found == pytest.approx(expected, abs=1e-5)


# MTEB


def mteb_metadata(name: str) -> Any:
    return import_module("mteb").get_task(name).metadata


@pytest.mark.parametrize("kind", [None, "query", "document"])
@pytest.mark.parametrize(
    "task",
    [
        "STSBenchmark",
        "STS12",
        "SprintDuplicateQuestions",
        "NFCorpus",
        "Banking77Classification",
        "AskUbuntuDupQuestions",
    ],
)
@pytest.mark.parametrize("prompts", [None, {"STS": "dog ", "Reranking-query": "sat "}], ids=["own", "given"])
def test_mteb_resolves_prompts(prompts: dict[str, str] | None, task: str, kind: str | None, folder: str) -> None:
    types, wrappers = import_module("mteb.types"), import_module("mteb.models")
    dataset = import_module("datasets").Dataset.from_dict({"text": TEXTS})
    loader = import_module("torch.utils.data").DataLoader(dataset, batch_size=2)
    arguments: dict[str, Any] = {
        "task_metadata": mteb_metadata(task),
        "hf_split": "test",
        "hf_subset": "default",
        "prompt_type": types.PromptType(kind) if kind else None,
    }
    model = SentenceTransformer(folder, device="cpu")
    expected = wrappers.SentenceTransformerEncoderWrapper(model, model_prompts=prompts)
    found = adapter("mteb", "MLXEncoder")(MLXSentenceTransformer(folder), model_prompts=prompts)
    for options in ({}, {"batch_size": 2, "show_progress_bar": False, "precision": "ubinary"}):
        wanted = expected.encode(loader, **arguments, **options)
        assert_close(found.encode(loader, **arguments, **options), wanted)


def test_mteb_compares_and_describes_as_its_own(folder: str, on_torch: SentenceTransformer) -> None:
    expected = import_module("mteb.models").SentenceTransformerEncoderWrapper(on_torch)
    found = adapter("mteb", "MLXEncoder")(MLXSentenceTransformer(folder))
    vectors = on_torch.encode(TEXTS)
    assert_close(found.similarity(vectors, vectors[:2]), expected.similarity(vectors, vectors[:2]))
    assert_close(found.similarity_pairwise(vectors, vectors), expected.similarity_pairwise(vectors, vectors))
    for field in ("max_tokens", "embed_dim", "similarity_fn_name", "name"):
        assert getattr(found.mteb_model_meta, field) == getattr(expected.mteb_model_meta, field), field
    with pytest.raises(InputError, match="expected texts"):
        found.encode([{"image": [1]}], task_metadata=mteb_metadata("STS12"), hf_split="test", hf_subset="default")
