"""Tests of MLXMultiVectorEncoder against sentence-transformers, on saved models."""

import json
import shutil
import string
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import torch
from checkpoints import make_checkpoint
from safetensors.torch import load_file, save_file
from sentence_transformers import MultiVectorEncoder, SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize
from sentence_transformers.multi_vector_encoder import modules as torch_modules
from sentence_transformers.sentence_transformer.modules import Pooling
from sentence_transformers.util import similarity as torch_similarity
from st_checkpoints import TEXTS, TOLERANCE, randomized, transformer

from mlx_hf_bridge import MLXMultiVectorEncoder
from mlx_hf_bridge.errors import ConfigError, InputError, UnsupportedModelError
from mlx_hf_bridge.layers.token_batch import TokenBatch
from mlx_hf_bridge.sentence_transformers.modules.base import Features
from mlx_hf_bridge.sentence_transformers.modules.token_pooling import HierarchicalTokenPooling, LambdaTokenPooling
from mlx_hf_bridge.sentence_transformers.scoring.late_interaction import maxsim, maxsim_pairwise

METHODS = ("encode_query", "encode_document", "encode")


def projection(width: int = 10) -> Any:
    """Return a random Dense module for token embeddings."""
    return randomized(Dense(24, width, bias=False, activation_function=None, module_input_name="token_embeddings"))


def colbert(folder: Path, *after: Any, mask: Any = None, **options: Any) -> Any:
    """Save a tiny ColBERT-style repo (Transformer, Dense, mask, Normalize, `after`) and return the torch model."""
    of_transformer = {
        key: options.pop(key) for key in ("query_expansion", "query_length", "document_length") if key in options
    }
    first = transformer(folder / "source", **of_transformer)
    mask = torch_modules.MultiVectorMask() if mask is None else mask
    modules = [first, projection(), mask, Normalize("token_embeddings"), *after]
    model = MultiVectorEncoder(modules=modules, device="cpu", **options)
    model.save_pretrained(str(folder / "repo"))
    return model


def assert_rows(actual: Any, expected: Any) -> None:
    """Assert equal shapes and close values of every array."""
    assert [tuple(one.shape) for one in actual] == [tuple(one.shape) for one in expected]
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_allclose(np.array(one), np.asarray(other), **TOLERANCE)


def assert_same(torch_model: Any, mlx_model: MLXMultiVectorEncoder, texts: Any = TEXTS, **arguments: Any) -> None:
    """Assert that all encode methods return close results."""
    for method in METHODS:
        assert_rows(getattr(mlx_model, method)(texts, **arguments), getattr(torch_model, method)(texts, **arguments))


@pytest.mark.parametrize("attend", [False, True])
@pytest.mark.parametrize(("strategy", "length"), [("fixed", 7), ("min", 7), ("fixed", 30)])
def test_queries_are_expanded_as_in_sentence_transformers(
    attend: bool, strategy: str, length: int, tmp_path: Path
) -> None:
    expansion = {"strategy": strategy, "attend": attend, "length": length}
    torch_model = colbert(tmp_path, query_expansion=expansion)
    assert_same(torch_model, MLXMultiVectorEncoder(tmp_path / "repo"))


@pytest.mark.parametrize(
    "options",
    [
        {"skiplist_words": list(string.punctuation)},
        {"skiplist_words": [".", "cat"], "skiplist_tasks": ["query", "document"]},
        {"keep_only_token_ids": [5, 6, 7, 15]},
    ],
    ids=str,
)
def test_the_mask_decides_what_is_scored(options: dict[str, Any], tmp_path: Path) -> None:
    torch_model = colbert(
        tmp_path,
        mask=torch_modules.MultiVectorMask(**options),
        query_expansion={"strategy": "fixed", "length": 9},
        document_length=8,
    )
    assert_same(torch_model, MLXMultiVectorEncoder(tmp_path / "repo"))


@pytest.mark.parametrize(
    "arguments",
    [
        {"convert_to_numpy": True},
        {"normalize_embeddings": True},
        {"prompt": "the dog "},
        {"prompt_name": "news"},
        {"batch_size": 1},
        {"processing_kwargs": {"text": {"max_length": 5}}},
    ],
    ids=str,
)
def test_encode_takes_every_argument(arguments: dict[str, Any], tmp_path: Path) -> None:
    torch_model = colbert(tmp_path, prompts={"news": "about the news: ", "query": "q ", "document": "d "})
    mlx_model = MLXMultiVectorEncoder(tmp_path / "repo")
    assert_same(torch_model, mlx_model, **arguments)
    np.testing.assert_allclose(
        np.array(mlx_model.encode(TEXTS[0], **arguments)),
        np.asarray(torch_model.encode(TEXTS[0], **arguments)),
        **TOLERANCE,
    )
    kind = np.ndarray if arguments.get("convert_to_numpy") else mx.array
    assert isinstance(mlx_model.encode(TEXTS[0], **arguments), kind)
    assert mlx_model.encode([]) == []


def test_everything_of_a_text_is_there_on_request(tmp_path: Path) -> None:
    torch_model = colbert(tmp_path)
    actual = MLXMultiVectorEncoder(tmp_path / "repo").encode(TEXTS, output_value=None)
    for one, other in zip(actual, torch_model.encode(TEXTS, output_value=None), strict=True):
        length = int(other["attention_mask"].sum())
        for key in ("input_ids", "token_embeddings"):
            np.testing.assert_allclose(np.array(one[key])[:length], np.asarray(other[key])[:length], **TOLERANCE)


# Random vectors: token embeddings of a tiny model are so similar that rounding would change which ones are merged.
@pytest.mark.parametrize("options", [{}, {"normalize_embeddings": False}, {"num_protected_tokens": 0}], ids=str)
@pytest.mark.parametrize("factor", [1.0, 1.5, 3])
def test_tokens_are_clustered_as_in_sentence_transformers(options: dict[str, Any], factor: float) -> None:
    random = np.random.default_rng(0)
    vectors, mask = random.normal(size=(3, 11, 6)).astype(np.float32), np.arange(11)[None] < np.array([[11], [4], [1]])
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    torch_model, mlx_model = (
        torch_modules.HierarchicalTokenPooling(factor, **options),
        HierarchicalTokenPooling(factor, **options),
    )
    listed = [row[seen] for row, seen in zip(vectors, mask, strict=True)]
    assert_rows(mlx_model.pool(listed), torch_model.pool([torch.from_numpy(row) for row in listed]))
    assert mlx_model.pool(listed, task="query")[0] is listed[0]
    given = {"token_embeddings": torch.from_numpy(vectors), "attention_mask": torch.from_numpy(mask)}
    expected = torch_model(dict(given), task="document")
    batch = TokenBatch(mx.zeros(mask.shape, mx.int32), mx.array(mask))
    actual = mlx_model(Features(batch, {"token_embeddings": mx.array(vectors)}, task="document"))
    seen = np.asarray(expected["attention_mask"])
    np.testing.assert_array_equal(np.array(actual.mask), seen)
    np.testing.assert_allclose(
        np.array(actual["token_embeddings"])[seen], np.asarray(expected["token_embeddings"])[seen], **TOLERANCE
    )


def test_token_pooling_is_a_module_of_a_model_and_an_argument_of_a_call(tmp_path: Path) -> None:
    colbert(tmp_path, torch_modules.HierarchicalTokenPooling(2.0))
    with_pooling = MLXMultiVectorEncoder(tmp_path / "repo")
    plain = MLXMultiVectorEncoder(modules=with_pooling[:-1])
    own = HierarchicalTokenPooling(2.0)
    counts = [len(one) for one in plain.encode_document(TEXTS)]
    for rows in (with_pooling.encode_document(TEXTS), plain.encode_document(TEXTS, token_pooling=own)):
        assert [len(one) for one in rows] == [1 + max((count - 1) // 2, 1) for count in counts]
    assert_rows(with_pooling.encode_query(TEXTS), plain.encode_query(TEXTS, token_pooling=own))
    everything = plain.encode_document(TEXTS, output_value=None, token_pooling=own)
    rows = [np.array(one["token_embeddings"])[np.array(one["attention_mask"]) > 0] for one in everything]
    assert_rows(rows, plain.encode_document(TEXTS, token_pooling=own))


def test_a_function_pools_and_is_not_saved(tmp_path: Path) -> None:
    colbert(tmp_path)
    mlx_model = MLXMultiVectorEncoder(tmp_path / "repo")
    halved = mlx_model.encode_document(TEXTS, token_pooling=LambdaTokenPooling(lambda vectors: vectors[::2]))
    assert_rows(halved, [one[::2] for one in mlx_model.encode_document(TEXTS)])
    with pytest.raises(InputError, match="cannot be saved"):
        LambdaTokenPooling(np.array).save(tmp_path)


@pytest.mark.parametrize("name", ["maxsim", "meanmaxsim"])
def test_similarities_are_those_of_sentence_transformers(name: str, tmp_path: Path) -> None:
    torch_model = colbert(tmp_path, similarity_fn_name=name)
    mlx_model = MLXMultiVectorEncoder(tmp_path / "repo")
    assert mlx_model.similarity_fn_name == name
    queries, documents = torch_model.encode_query(TEXTS[:4]), torch_model.encode_document(TEXTS)
    expected = torch_model.similarity(queries, documents)
    assert torch.is_tensor(mlx_model.similarity(queries, documents))
    for given in (queries, mlx_model.encode_query(TEXTS[:4]), [one.numpy() for one in queries]):
        np.testing.assert_allclose(
            mlx_model.similarity(given, documents, chunk_elements=200), expected, rtol=1e-5, atol=1e-5
        )
    pairwise = torch_model.similarity_pairwise(queries, documents[:4])
    np.testing.assert_allclose(mlx_model.similarity_pairwise(queries, documents[:4]), pairwise, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(mlx_model.similarity(queries[0], documents), expected[:1], rtol=1e-5, atol=1e-5)
    with pytest.raises(ConfigError, match="similarity_fn_name='cosine'"):
        mlx_model.similarity_fn_name = "cosine"


def test_maxsim_of_padded_arrays_masks_and_empty_documents() -> None:
    random = np.random.default_rng(0)
    queries, documents = random.normal(size=(3, 5, 7)), random.normal(size=(3, 6, 7))
    queries[0, 3:], documents[1, 2:] = 0, 0
    queries, documents = queries.astype(np.float32), documents.astype(np.float32)
    query_mask, mask = random.random((3, 5)) > 0.4, random.random((3, 6)) > 0.4
    mask[2] = False
    for masks in ({}, {"a_mask": query_mask, "b_mask": mask}):
        given = {key: torch.from_numpy(value) for key, value in masks.items()}
        for mlx_model, torch_model in (
            (maxsim, torch_similarity.maxsim),
            (maxsim_pairwise, torch_similarity.maxsim_pairwise),
        ):
            for normalize in (False, True):
                expected = torch_model(queries, documents, **given, length_normalize=normalize)
                actual = mlx_model(queries, documents, **masks, length_normalize=normalize)
                np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)
    listed = [documents[0], documents[1][:0]]
    np.testing.assert_allclose(maxsim(queries[2], listed), torch_similarity.maxsim(queries[2], listed), rtol=1e-5)
    with pytest.raises(InputError, match="3 queries and 2 documents"):
        maxsim_pairwise(queries, listed)


def test_a_saved_folder_loads_back_here_and_in_sentence_transformers(tmp_path: Path) -> None:
    colbert(
        tmp_path,
        torch_modules.HierarchicalTokenPooling(),
        mask=torch_modules.MultiVectorMask([".", ","]),
        query_expansion={"strategy": "fixed", "length": 12},
        document_length=9,
        prompts={"query": "news "},
    )
    mlx_model = MLXMultiVectorEncoder(tmp_path / "repo")
    mlx_model.save_pretrained(tmp_path / "saved")
    again, loaded = MLXMultiVectorEncoder(tmp_path / "saved"), MultiVectorEncoder(str(tmp_path / "saved"), device="cpu")
    assert_same(loaded, again)
    assert_same(loaded, mlx_model)


PYLATE: dict[str, Any] = {
    "query_prefix": "[unused1] ",
    "document_prefix": "[unused2] ",
    "query_length": 9,
    "document_length": 10,
    "attend_to_expansion_tokens": True,
    "skiplist_words": ["."],
    "prompts": {},
}


@pytest.fixture(scope="module")
def pylate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a Transformer and a Dense with PyLate's class names, and no mask module."""
    repo = tmp_path_factory.mktemp("pylate") / "repo"
    make_checkpoint(repo)
    (repo / "1_Dense").mkdir()
    projection().save(str(repo / "1_Dense"))
    config = json.loads((repo / "1_Dense" / "config.json").read_text())
    old = {key: config[key] for key in ("in_features", "out_features", "bias", "activation_function")}
    (repo / "1_Dense" / "config.json").write_text(json.dumps(old))
    types = ["sentence_transformers.models.Transformer", "pylate.models.Dense.Dense"]
    entries = [{"idx": n, "name": str(n), "path": ["", "1_Dense"][n], "type": types[n]} for n in range(2)]
    (repo / "modules.json").write_text(json.dumps(entries))
    return repo


@pytest.mark.parametrize("model_type", [None, "SentenceTransformer", "ColBERT", "MultiVectorEncoder"])
@pytest.mark.parametrize("without", [(), ("skiplist_words",), ("query_prefix", "document_prefix"), tuple(PYLATE)])
def test_pylates_files_are_read(pylate: Path, model_type: str | None, without: tuple[str, ...]) -> None:
    """PyLate has its own settings and marker tokens, and named no model_type before sentence-transformers 5."""
    settings = {key: value for key, value in PYLATE.items() if key not in without}
    settings |= {} if model_type is None else {"model_type": model_type}
    (pylate / "config_sentence_transformers.json").write_text(json.dumps(settings))
    torch_model, mlx_model = MultiVectorEncoder(str(pylate), device="cpu"), MLXMultiVectorEncoder(pylate)
    assert mlx_model.prompts == torch_model.prompts
    assert [type(module).__name__ for module in mlx_model] == [type(module).__name__ for module in torch_model]
    assert_same(torch_model, mlx_model, TEXTS[:3])


@pytest.mark.parametrize(
    "changes",
    [
        {"query_expansion": None},
        {"do_query_expansion": False},
        {"prompts": {"query": "news "}, "default_prompt_name": "query"},
    ],
)
def test_pylates_settings_apply_without_a_model_type(pylate: Path, changes: dict[str, Any]) -> None:
    (pylate / "config_sentence_transformers.json").write_text(json.dumps({**PYLATE, **changes}))
    torch_model, mlx_model = MultiVectorEncoder(str(pylate), device="cpu"), MLXMultiVectorEncoder(pylate)
    assert mlx_model.default_prompt_name == torch_model.default_prompt_name
    assert_same(torch_model, mlx_model, TEXTS[:3])


def test_another_class_of_model_is_no_colbert(pylate: Path) -> None:
    """sentence-transformers drops its modules and adds a randomly initialized projection."""
    (pylate / "config_sentence_transformers.json").write_text(json.dumps({**PYLATE, "model_type": "CrossEncoder"}))
    with pytest.raises(UnsupportedModelError, match="was saved as model_type='CrossEncoder'; sentence-tr"):
        MLXMultiVectorEncoder(pylate)


def test_stanfords_files_are_read(tmp_path: Path) -> None:
    make_checkpoint(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": ["HF_ColBERT"]}))
    weights = {f"bert.{name}": tensor for name, tensor in load_file(tmp_path / "model.safetensors").items()}
    weights["linear.weight"] = projection().linear.weight.detach()
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    metadata = {"query_maxlen": 11, "doc_maxlen": 12, "query_token_id": "[unused0]", "doc_token_id": "[unused1]"}
    (tmp_path / "artifact.metadata").write_text(json.dumps(metadata))
    assert_same(MultiVectorEncoder(str(tmp_path), device="cpu"), MLXMultiVectorEncoder(tmp_path))


def test_a_sentence_transformer_with_a_dense_becomes_one_and_others_are_refused(tmp_path: Path) -> None:
    first = transformer(tmp_path / "source")
    dense = randomized(Dense(24, 10))
    SentenceTransformer(modules=[first, Pooling(24), dense, Normalize()]).save_pretrained(str(tmp_path / "repo"))
    torch_model = MultiVectorEncoder(str(tmp_path / "repo"), device="cpu")
    assert_same(torch_model, MLXMultiVectorEncoder(tmp_path / "repo"))
    make_checkpoint(tmp_path / "bare")
    with pytest.raises(UnsupportedModelError, match="randomly initialized"):
        MLXMultiVectorEncoder(tmp_path / "bare")


def test_what_has_no_meaning_for_several_vectors_is_refused(tmp_path: Path) -> None:
    colbert(tmp_path)
    mlx_model = MLXMultiVectorEncoder(tmp_path / "repo")
    with pytest.raises(InputError, match="no convert_to_tensor"):
        mlx_model.encode(TEXTS, convert_to_tensor=True)
    with pytest.raises(InputError, match="output_value='sentence_embedding'"):
        mlx_model.encode(TEXTS, output_value="sentence_embedding")
    with pytest.raises(InputError, match="query_expansion="):
        mlx_model[0].query_expansion = {"strategy": "most", "length": 3}
    with pytest.raises(InputError, match="does not have"):
        mlx_model[0].query_expansion = {"strategy": "fixed", "length": 3, "token": "[NONE]"}
    shutil.rmtree(tmp_path / "repo" / "1_Dense")
    with pytest.raises(OSError, match="1_Dense"):
        MLXMultiVectorEncoder(tmp_path / "repo")
