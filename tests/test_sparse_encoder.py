"""MLXSparseEncoder against sentence-transformers, through files on disk."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch
import transformers
from checkpoints import FAMILIES, Row, heads_of, make_checkpoint, row_name
from programs import finished
from sentence_transformers import SparseEncoder
from sentence_transformers.base.modules import Router
from sentence_transformers.sentence_transformer.modules import Pooling
from sentence_transformers.sparse_encoder.modules import SparseAutoEncoder, SparseStaticEmbedding, SpladePooling
from st_repos import TEXTS, TOLERANCE, redrawn, transformer

from mlx_hf_bridge import MLXSparseEncoder
from mlx_hf_bridge.errors import ArgumentTypeError, ConfigError, InputError, UnsupportedModelError

MASKED = [
    row
    for row in FAMILIES
    if "ForMaskedLM" in heads_of(row)
    and type(row.config) in transformers.MODEL_FOR_MASKED_LM_MAPPING
    and not row.padding_shows
]


def saved(folder: Path, *modules: Any, **options: Any) -> Any:
    theirs = SparseEncoder(modules=list(modules), device="cpu", **options)
    theirs.save_pretrained(str(folder / "repo"))
    return theirs


def splade(folder: Path, row: Row | None = None, **options: Any) -> Any:
    first = transformer(folder / "source", row, "ForMaskedLM", transformer_task="fill-mask")
    pooling = SpladePooling(**options.pop("pooling", {}))
    return saved(folder, first, pooling, **options)


def csr(folder: Path, normalize: bool = False, **options: Any) -> Any:
    auto_encoder = redrawn(SparseAutoEncoder(24, 40, k=7, k_aux=9, normalize=normalize))
    return saved(folder, transformer(folder / "source"), Pooling(24, "mean"), auto_encoder, **options)


def assert_same(folder: Path, theirs: Any, texts: Any = TEXTS, **arguments: Any) -> None:
    wanted, got = theirs.encode(texts, **arguments), MLXSparseEncoder(folder / "repo").encode(texts, **arguments)
    assert (got.is_sparse, got.dtype, got.shape) == (wanted.is_sparse, wanted.dtype, wanted.shape)
    np.testing.assert_allclose(got.to_dense().numpy(), wanted.to_dense().numpy(), **TOLERANCE)


@pytest.mark.parametrize("row", MASKED, ids=row_name)
def test_splade_of_every_family_is_that_of_sentence_transformers(row: Row, tmp_path: Path) -> None:
    assert_same(tmp_path, splade(tmp_path, row))


@pytest.mark.parametrize("strategy", ["max", "sum"])
@pytest.mark.parametrize("activation", ["relu", "log1p_relu"])
@pytest.mark.parametrize("chunk", [None, 3])
def test_splade_pooling_has_both_strategies_and_activations(
    strategy: str, activation: str, chunk: int | None, tmp_path: Path
) -> None:
    theirs = splade(tmp_path, pooling={"pooling_strategy": strategy, "activation_function": activation})
    ours = MLXSparseEncoder(tmp_path / "repo")
    ours.splade_pooling_chunk_size = chunk
    assert ours.splade_pooling_chunk_size == chunk
    np.testing.assert_allclose(ours.encode(TEXTS).to_dense(), theirs.encode(TEXTS).to_dense(), **TOLERANCE)


def test_older_names_of_modules_and_keys_are_read(tmp_path: Path) -> None:
    theirs, repo = splade(tmp_path, pooling={"pooling_strategy": "sum"}), tmp_path / "repo"
    entries = json.loads((repo / "modules.json").read_text())
    for entry, name in zip(entries, ("MLMTransformer", "SpladePooling"), strict=True):
        entry["type"] = f"sentence_transformers.sparse_encoder.models.{name}"
    (repo / "modules.json").write_text(json.dumps(entries))
    (repo / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 40, "do_lower_case": False}))
    pooling = {"pooling_strategy": "sum", "activation_function": "relu", "word_embedding_dimension": 101}
    (repo / "1_SpladePooling" / "config.json").write_text(json.dumps(pooling))
    assert_same(tmp_path, theirs)
    assert MLXSparseEncoder(repo).get_embedding_dimension() == 101


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("dims", [None, 3])
def test_csr_models_keep_their_largest_dimensions(normalize: bool, dims: int | None, tmp_path: Path) -> None:
    theirs = csr(tmp_path, normalize)
    assert MLXSparseEncoder(tmp_path / "repo").max_active_dims == theirs.max_active_dims == 7
    assert_same(tmp_path, theirs, max_active_dims=dims)


@pytest.mark.parametrize(
    "arguments",
    [
        {"convert_to_sparse_tensor": False},
        {"max_active_dims": 5},
        {"prompt": "the dog "},
        {"prompt_name": "query"},
        {"batch_size": 2, "show_progress_bar": True, "save_to_cpu": True, "device": "cpu"},
        {"processing_kwargs": {"text": {"max_length": 5}}},
    ],
    ids=str,
)
@pytest.mark.parametrize("texts", [TEXTS, TEXTS[0]], ids=["list", "single"])
def test_encode_takes_every_argument(arguments: dict[str, Any], texts: Any, tmp_path: Path) -> None:
    assert_same(tmp_path, splade(tmp_path, prompts={"query": "about the news: "}), texts, **arguments)


def test_lists_queries_documents_and_nothing_are_as_in_sentence_transformers(tmp_path: Path) -> None:
    theirs = splade(tmp_path, prompts={"query": "news ", "passage": "film "})
    ours = MLXSparseEncoder(tmp_path / "repo")
    for sparse in (True, False):
        options = {"convert_to_tensor": False, "convert_to_sparse_tensor": sparse}
        for got, wanted in zip(ours.encode(TEXTS, **options), theirs.encode(TEXTS, **options), strict=True):
            assert got.is_sparse == wanted.is_sparse
            np.testing.assert_allclose(got.to_dense(), wanted.to_dense(), **TOLERANCE)
        assert ours.encode([], convert_to_sparse_tensor=sparse).shape == theirs.encode([]).shape
    for method in ("encode_query", "encode_document"):
        got, wanted = getattr(ours, method)(TEXTS), getattr(theirs, method)(TEXTS)
        np.testing.assert_allclose(got.to_dense(), wanted.to_dense(), **TOLERANCE)


@pytest.mark.parametrize("name", ["cosine", "dot", "euclidean", "manhattan"])
def test_similarities_of_sparse_and_dense_vectors(name: str, tmp_path: Path) -> None:
    theirs = splade(tmp_path, similarity_fn_name=name)
    ours = MLXSparseEncoder(tmp_path / "repo")
    vectors, others = theirs.encode(TEXTS), theirs.encode(TEXTS[:3])
    wanted = theirs.similarity(vectors, others)
    for given, second in ((vectors, others), (vectors.to_dense(), others), (list(vectors), others.to_dense().numpy())):
        # Theirs takes roots of differences of squares.
        np.testing.assert_allclose(ours.similarity(given, second), wanted, rtol=1e-4, atol=2e-3)
    wanted = theirs.similarity_pairwise(vectors, theirs.encode(TEXTS[::-1]))
    got = ours.similarity_pairwise(vectors, ours.encode(TEXTS[::-1]))
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=2e-3)
    one = theirs.encode(TEXTS[0])
    as_numpy = ours.similarity_pairwise(one.to_dense().numpy(), one.to_dense().numpy())
    np.testing.assert_allclose(as_numpy, ours.similarity(one, one)[0, 0], rtol=1e-5, atol=2e-3)
    assert isinstance(as_numpy, np.floating)


def test_decode_sparsity_and_intersection(tmp_path: Path) -> None:
    theirs = splade(tmp_path)
    ours = MLXSparseEncoder(tmp_path / "repo")
    vectors = theirs.encode(TEXTS, max_active_dims=9)
    for top_k in (None, 4):
        for given in (vectors, vectors[0], vectors.to_dense()):
            wanted, got = theirs.decode(given, top_k), ours.decode(given, top_k)
            assert [[word for word, _ in one] for one in _listed(got)] == [
                [w for w, _ in one] for one in _listed(wanted)
            ]
            np.testing.assert_allclose(_weights(got), _weights(wanted))
    assert ours.sparsity(vectors) == pytest.approx(theirs.sparsity(vectors))
    assert ours.sparsity(vectors[0]) == pytest.approx(theirs.sparsity(vectors[0]))
    for others in (vectors, vectors[1]):
        wanted, got = theirs.intersection(vectors[0], others), ours.intersection(vectors[0], others)
        assert got.is_sparse
        np.testing.assert_allclose(got.to_dense(), wanted.to_dense(), rtol=1e-6)
    with pytest.raises(InputError, match="top_k=0"):
        ours.decode(vectors, 0)
    with pytest.raises(ArgumentTypeError, match="got a str"):
        ours.sparsity("no vectors")


def _listed(decoded: Any) -> Any:
    return decoded if isinstance(decoded[0], list) else [decoded]


def _words(decoded: Any) -> list[list[str]]:
    return [[word for word, _ in one] for one in _listed(decoded)]


def _weights(decoded: Any) -> list[float]:
    return [weight for one in _listed(decoded) for _, weight in one]


def test_a_router_takes_queries_through_a_table_of_words(tmp_path: Path) -> None:
    document = transformer(tmp_path / "source", None, "ForMaskedLM", transformer_task="fill-mask")
    make_checkpoint(tmp_path / "words")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "words")
    query = SparseStaticEmbedding(tokenizer, torch.rand(101, generator=torch.Generator().manual_seed(1)))
    router = Router.for_query_document([query], [document, SpladePooling()])
    theirs = saved(tmp_path, router, similarity_fn_name="dot")
    ours = MLXSparseEncoder(tmp_path / "repo")
    for model in (ours, _saved_again(ours, tmp_path / "saved")):
        for method in ("encode_query", "encode_document", "encode"):
            got, wanted = getattr(model, method)(TEXTS), getattr(theirs, method)(TEXTS)
            np.testing.assert_allclose(got.to_dense(), wanted.to_dense(), **TOLERANCE)
    assert ours.get_model_kwargs() == sorted(theirs.get_model_kwargs())
    again = SparseEncoder(str(tmp_path / "saved"), device="cpu")
    np.testing.assert_allclose(again.encode_query(TEXTS).to_dense(), theirs.encode_query(TEXTS).to_dense(), **TOLERANCE)


def _saved_again(ours: MLXSparseEncoder, folder: Path) -> MLXSparseEncoder:
    ours.save_pretrained(folder)
    return MLXSparseEncoder(folder)


def test_words_weights_may_lie_in_a_json_file(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "words")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "words")
    saved(tmp_path, SparseStaticEmbedding(tokenizer))
    repo = tmp_path / "repo"
    (repo / "idf.json").write_text(json.dumps({"cat": 2.5, "dog": 0.25}))
    (repo / "config.json").write_text(json.dumps({"frozen": True, "path": "idf.json"}))
    weights = MLXSparseEncoder(repo).encode("the cat, a dog", convert_to_sparse_tensor=False)
    assert sorted(weights[weights > 0].tolist()) == [0.25, 2.5]


@pytest.mark.parametrize("make", [splade, csr])
def test_a_saved_folder_loads_back_here_and_in_sentence_transformers(make: Any, tmp_path: Path) -> None:
    theirs = make(tmp_path, prompts={"query": "news "}, max_active_dims=6)
    ours = MLXSparseEncoder(tmp_path / "repo")
    ours.max_seq_length = 8
    again = _saved_again(ours, tmp_path / "saved")
    loaded = SparseEncoder(str(tmp_path / "saved"), device="cpu")
    theirs.max_seq_length = 8
    for model in (again, loaded):
        assert model.max_active_dims == 6
        got, wanted = model.encode_query(TEXTS), theirs.encode_query(TEXTS)
        np.testing.assert_allclose(got.to_dense(), wanted.to_dense(), **TOLERANCE)


def test_a_plain_masked_language_model_gets_splade_pooling_and_others_are_refused(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "repo", None, "ForMaskedLM")
    assert_same(tmp_path, SparseEncoder(str(tmp_path / "repo"), device="cpu"))
    make_checkpoint(tmp_path / "bare")
    with pytest.raises(UnsupportedModelError, match="random weights"):
        MLXSparseEncoder(tmp_path / "bare")


def test_bad_values_are_refused(tmp_path: Path) -> None:
    splade(tmp_path)
    ours = MLXSparseEncoder(tmp_path / "repo")
    for dims in (0, -1, True, 1.5):
        with pytest.raises(InputError, match="max_active_dims"):
            ours.encode(TEXTS, max_active_dims=dims)
    with pytest.raises(InputError, match="expected one vector first"):
        ours.intersection(np.eye(3), np.eye(3))
    path = tmp_path / "repo" / "1_SpladePooling" / "config.json"
    path.write_text(json.dumps({"pooling_strategy": "median"}))
    with pytest.raises(ConfigError, match="pooling_strategy='median'"):
        MLXSparseEncoder(tmp_path / "repo")


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
import scipy.sparse
from mlx_hf_bridge import MLXSparseEncoder
model = MLXSparseEncoder(sys.argv[1])
texts = ["the cat sat", "a dog"]
whole, one = model.encode(texts), model.encode(texts[0])
assert isinstance(whole, scipy.sparse.csr_array) and whole.shape[0] == 2, whole
assert one.ndim == 1 and abs(one.toarray() - whole.toarray()[0]).max() < 1e-5
assert abs(model.encode(texts, convert_to_sparse_tensor=False) - whole.toarray()).max() < 1e-5
assert model.similarity(whole, whole).shape == (2, 2)
print(model.decode(one, 1)[0][0], round(model.sparsity(whole)["active_dims"], 3), model.intersection(one, whole).nnz)
"""


def test_without_torch_sparse_vectors_are_scipys(tmp_path: Path) -> None:
    theirs = splade(tmp_path)
    texts = ["the cat sat", "a dog"]
    vectors = theirs.encode(texts)
    wanted = [theirs.decode(vectors[0], 1)[0][0], round(theirs.sparsity(vectors)["active_dims"], 3)]
    shared = theirs.intersection(vectors[0], vectors)._nnz()
    assert finished(WITHOUT_TORCH, tmp_path / "repo") == f"{wanted[0]} {wanted[1]} {shared}"
    assert scipy.sparse.issparse(scipy.sparse.eye(2))
