"""MLXSparseEncoder matches sentence-transformers after a round trip through files on disk."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch
import transformers
from checkpoints import FIRST_ROWS, Row, heads_of, make_checkpoint, row_name
from sentence_transformers import SparseEncoder
from sentence_transformers.base.modules import Router
from sentence_transformers.sentence_transformer.modules import Pooling
from sentence_transformers.sparse_encoder.modules import SparseAutoEncoder, SparseStaticEmbedding, SpladePooling
from st_checkpoints import TEXTS, TOLERANCE, randomized, transformer
from subprocesses import run_python

from mlx_hf_bridge import MLXSparseEncoder
from mlx_hf_bridge.errors import ArgumentTypeError, ConfigError, InputError, UnsupportedModelError

MASKED = [
    row
    for row in FIRST_ROWS
    if "ForMaskedLM" in heads_of(row)
    and type(row.config) in transformers.MODEL_FOR_MASKED_LM_MAPPING
    and not row.length_dependent
    # sentence-transformers cannot make the inputs of these.
    and row.model_type not in ("markuplm", "tapas")
]


def saved(folder: Path, *modules: Any, **options: Any) -> Any:
    torch_model = SparseEncoder(modules=list(modules), device="cpu", **options)
    torch_model.save_pretrained(str(folder / "repo"))
    return torch_model


def splade(folder: Path, row: Row | None = None, **options: Any) -> Any:
    first = transformer(folder / "source", row, "ForMaskedLM", transformer_task="fill-mask")
    pooling = SpladePooling(**options.pop("pooling", {}))
    return saved(folder, first, pooling, **options)


def csr(folder: Path, normalize: bool = False, **options: Any) -> Any:
    auto_encoder = randomized(SparseAutoEncoder(24, 40, k=7, k_aux=9, normalize=normalize))
    return saved(folder, transformer(folder / "source"), Pooling(24, "mean"), auto_encoder, **options)


def assert_same(folder: Path, torch_model: Any, texts: Any = TEXTS, **arguments: Any) -> None:
    expected, actual = (
        torch_model.encode(texts, **arguments),
        MLXSparseEncoder(folder / "repo").encode(texts, **arguments),
    )
    assert (actual.is_sparse, actual.dtype, actual.shape) == (expected.is_sparse, expected.dtype, expected.shape)
    np.testing.assert_allclose(actual.to_dense().numpy(), expected.to_dense().numpy(), **TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("row", MASKED, ids=row_name)
def test_splade_of_every_family_is_that_of_sentence_transformers(row: Row, tmp_path: Path) -> None:
    assert_same(tmp_path, splade(tmp_path, row))


@pytest.mark.parametrize("strategy", ["max", "sum"])
@pytest.mark.parametrize("activation", ["relu", "log1p_relu"])
@pytest.mark.parametrize("chunk", [None, 3])
def test_splade_pooling_has_both_strategies_and_activations(
    strategy: str, activation: str, chunk: int | None, tmp_path: Path
) -> None:
    torch_model = splade(tmp_path, pooling={"pooling_strategy": strategy, "activation_function": activation})
    mlx_model = MLXSparseEncoder(tmp_path / "repo")
    mlx_model.splade_pooling_chunk_size = chunk
    assert mlx_model.splade_pooling_chunk_size == chunk
    np.testing.assert_allclose(mlx_model.encode(TEXTS).to_dense(), torch_model.encode(TEXTS).to_dense(), **TOLERANCE)


def test_older_names_of_modules_and_keys_are_read(tmp_path: Path) -> None:
    torch_model, repo = splade(tmp_path, pooling={"pooling_strategy": "sum"}), tmp_path / "repo"
    entries = json.loads((repo / "modules.json").read_text())
    for entry, name in zip(entries, ("MLMTransformer", "SpladePooling"), strict=True):
        entry["type"] = f"sentence_transformers.sparse_encoder.models.{name}"
    (repo / "modules.json").write_text(json.dumps(entries))
    (repo / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 40, "do_lower_case": False}))
    pooling = {"pooling_strategy": "sum", "activation_function": "relu", "word_embedding_dimension": 101}
    (repo / "1_SpladePooling" / "config.json").write_text(json.dumps(pooling))
    assert_same(tmp_path, torch_model)
    assert MLXSparseEncoder(repo).get_embedding_dimension() == 101


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("dims", [None, 3])
def test_csr_models_keep_their_largest_dimensions(normalize: bool, dims: int | None, tmp_path: Path) -> None:
    torch_model = csr(tmp_path, normalize)
    assert MLXSparseEncoder(tmp_path / "repo").max_active_dims == torch_model.max_active_dims == 7
    assert_same(tmp_path, torch_model, max_active_dims=dims)


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
    torch_model = splade(tmp_path, prompts={"query": "news ", "passage": "film "})
    mlx_model = MLXSparseEncoder(tmp_path / "repo")
    for sparse in (True, False):
        options = {"convert_to_tensor": False, "convert_to_sparse_tensor": sparse}
        for actual, expected in zip(
            mlx_model.encode(TEXTS, **options), torch_model.encode(TEXTS, **options), strict=True
        ):
            assert actual.is_sparse == expected.is_sparse
            np.testing.assert_allclose(actual.to_dense(), expected.to_dense(), **TOLERANCE)
        assert mlx_model.encode([], convert_to_sparse_tensor=sparse).shape == torch_model.encode([]).shape
    for method in ("encode_query", "encode_document"):
        actual, expected = getattr(mlx_model, method)(TEXTS), getattr(torch_model, method)(TEXTS)
        np.testing.assert_allclose(actual.to_dense(), expected.to_dense(), **TOLERANCE)


@pytest.mark.parametrize("name", ["cosine", "dot", "euclidean", "manhattan"])
def test_similarities_of_sparse_and_dense_vectors(name: str, tmp_path: Path) -> None:
    torch_model = splade(tmp_path, similarity_fn_name=name)
    mlx_model = MLXSparseEncoder(tmp_path / "repo")
    vectors, others = torch_model.encode(TEXTS), torch_model.encode(TEXTS[:3])
    expected = torch_model.similarity(vectors, others)
    for given, second in ((vectors, others), (vectors.to_dense(), others), (list(vectors), others.to_dense().numpy())):
        # sentence-transformers takes the square root of a difference of squares, which loses digits.
        np.testing.assert_allclose(mlx_model.similarity(given, second), expected, rtol=1e-4, atol=2e-3)
    expected = torch_model.similarity_pairwise(vectors, torch_model.encode(TEXTS[::-1]))
    actual = mlx_model.similarity_pairwise(vectors, mlx_model.encode(TEXTS[::-1]))
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=2e-3)
    one = torch_model.encode(TEXTS[0])
    as_numpy = mlx_model.similarity_pairwise(one.to_dense().numpy(), one.to_dense().numpy())
    np.testing.assert_allclose(as_numpy, mlx_model.similarity(one, one)[0, 0], rtol=1e-5, atol=2e-3)
    assert isinstance(as_numpy, np.floating)


def test_decode_sparsity_and_intersection(tmp_path: Path) -> None:
    torch_model = splade(tmp_path)
    mlx_model = MLXSparseEncoder(tmp_path / "repo")
    vectors = torch_model.encode(TEXTS, max_active_dims=9)
    for top_k in (None, 4):
        for given in (vectors, vectors[0], vectors.to_dense()):
            expected, actual = torch_model.decode(given, top_k), mlx_model.decode(given, top_k)
            assert [[word for word, _ in one] for one in _listed(actual)] == [
                [w for w, _ in one] for one in _listed(expected)
            ]
            np.testing.assert_allclose(_weights(actual), _weights(expected))
    assert mlx_model.sparsity(vectors) == pytest.approx(torch_model.sparsity(vectors))
    assert mlx_model.sparsity(vectors[0]) == pytest.approx(torch_model.sparsity(vectors[0]))
    for others in (vectors, vectors[1]):
        expected, actual = torch_model.intersection(vectors[0], others), mlx_model.intersection(vectors[0], others)
        assert actual.is_sparse
        np.testing.assert_allclose(actual.to_dense(), expected.to_dense(), rtol=1e-6)
    with pytest.raises(InputError, match="top_k=0"):
        mlx_model.decode(vectors, 0)
    with pytest.raises(ArgumentTypeError, match="got a str"):
        mlx_model.sparsity("no vectors")


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
    torch_model = saved(tmp_path, router, similarity_fn_name="dot")
    mlx_model = MLXSparseEncoder(tmp_path / "repo")
    for model in (mlx_model, _saved_again(mlx_model, tmp_path / "saved")):
        for method in ("encode_query", "encode_document", "encode"):
            actual, expected = getattr(model, method)(TEXTS), getattr(torch_model, method)(TEXTS)
            np.testing.assert_allclose(actual.to_dense(), expected.to_dense(), **TOLERANCE)
    assert mlx_model.get_model_kwargs() == sorted(torch_model.get_model_kwargs())
    again = SparseEncoder(str(tmp_path / "saved"), device="cpu")
    np.testing.assert_allclose(
        again.encode_query(TEXTS).to_dense(), torch_model.encode_query(TEXTS).to_dense(), **TOLERANCE
    )


def _saved_again(mlx_model: MLXSparseEncoder, folder: Path) -> MLXSparseEncoder:
    mlx_model.save_pretrained(folder)
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
    torch_model = make(tmp_path, prompts={"query": "news "}, max_active_dims=6)
    mlx_model = MLXSparseEncoder(tmp_path / "repo")
    mlx_model.max_seq_length = 8
    again = _saved_again(mlx_model, tmp_path / "saved")
    loaded = SparseEncoder(str(tmp_path / "saved"), device="cpu")
    torch_model.max_seq_length = 8
    for model in (again, loaded):
        assert model.max_active_dims == 6
        actual, expected = model.encode_query(TEXTS), torch_model.encode_query(TEXTS)
        np.testing.assert_allclose(actual.to_dense(), expected.to_dense(), **TOLERANCE)


def test_a_plain_masked_language_model_gets_splade_pooling_and_others_are_refused(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "repo", None, "ForMaskedLM")
    assert_same(tmp_path, SparseEncoder(str(tmp_path / "repo"), device="cpu"))
    make_checkpoint(tmp_path / "bare")
    with pytest.raises(UnsupportedModelError, match="randomly initialized"):
        MLXSparseEncoder(tmp_path / "bare")


def test_bad_values_are_refused(tmp_path: Path) -> None:
    splade(tmp_path)
    mlx_model = MLXSparseEncoder(tmp_path / "repo")
    for dims in (0, -1, True, 1.5):
        with pytest.raises(InputError, match="max_active_dims"):
            mlx_model.encode(TEXTS, max_active_dims=dims)
    with pytest.raises(InputError, match="expected one embedding first"):
        mlx_model.intersection(np.eye(3), np.eye(3))
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
    torch_model = splade(tmp_path)
    texts = ["the cat sat", "a dog"]
    vectors = torch_model.encode(texts)
    expected = [torch_model.decode(vectors[0], 1)[0][0], round(torch_model.sparsity(vectors)["active_dims"], 3)]
    shared = torch_model.intersection(vectors[0], vectors)._nnz()
    assert run_python(WITHOUT_TORCH, tmp_path / "repo") == f"{expected[0]} {expected[1]} {shared}"
    assert scipy.sparse.issparse(scipy.sparse.eye(2))
