"""Semantic search, paraphrase mining and community detection match sentence_transformers.util."""

import inspect
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import scipy.sparse
import torch
from sentence_transformers import util

from mlx_hf_bridge import sentence_transformers as mlx_model
from mlx_hf_bridge.errors import InputError
from mlx_hf_bridge.sentence_transformers.scoring import nearest

# float32 dot products summed in a different order.
TOLERANCE = 2e-6
NAMES = ("semantic_search", "paraphrase_mining", "paraphrase_mining_embeddings", "community_detection")


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(307, 16)).astype(np.float32)


@pytest.mark.parametrize("name", NAMES)
def test_arguments_and_defaults_are_sentence_transformers(name: str) -> None:
    def arguments(function: Any) -> list[tuple[str, Any]]:
        parameters = inspect.signature(function).parameters.values()
        return [(one.name, getattr(one.default, "__name__", one.default)) for one in parameters]

    assert arguments(getattr(mlx_model, name)) == arguments(getattr(util, name))


def check_search(found: Any, expected: Any) -> None:
    assert len(found) == len(expected)
    for row, row_expected in zip(found, expected, strict=True):
        assert [list(hit) for hit in row] == [["corpus_id", "score"]] * len(row_expected)
        assert [hit["corpus_id"] for hit in row] == [hit["corpus_id"] for hit in row_expected]
        scores = np.array([(hit["score"], other["score"]) for hit, other in zip(row, row_expected, strict=True)])
        assert np.abs(scores[:, 0] - scores[:, 1]).max(initial=0) < TOLERANCE * max(1, np.abs(scores).max(initial=0))


@pytest.mark.parametrize("score", ["cos_sim", "dot_score"])
@pytest.mark.parametrize(
    "options",
    [{}, {"top_k": 1}, {"top_k": 400}, {"corpus_chunk_size": 50, "query_chunk_size": 7}, {"corpus_chunk_size": 3}],
)
def test_search_finds_what_sentence_transformers_finds(
    options: dict[str, int], score: str, vectors: np.ndarray
) -> None:
    queries = vectors[:20] + 0.1
    found = mlx_model.semantic_search(queries, vectors, score_function=getattr(nearest, score), **options)
    check_search(found, util.semantic_search(queries, vectors, score_function=getattr(util, score), **options))
    assert type(found[0][0]["corpus_id"]) is int and type(found[0][0]["score"]) is float


def test_search_in_more_than_memory_is_given_is_the_same(vectors: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = util.semantic_search(vectors[:20], vectors)
    monkeypatch.setattr(nearest, "_BYTES_AT_A_TIME", 64 * 4 * 20)
    parts = []
    part = nearest.EmbeddingRows.read
    monkeypatch.setattr(nearest.EmbeddingRows, "read", lambda *given: parts.append(given[2] - given[1]) or part(*given))
    check_search(mlx_model.semantic_search(vectors[:20], vectors), expected)
    assert max(parts) == 100 and parts.count(64) == 5


KINDS = {
    "mlx": mx.array,
    "torch": torch.from_numpy,
    "list of arrays": list,
    "list of tensors": lambda array: [torch.from_numpy(row) for row in array],
    "nested lists": lambda array: array.tolist(),
    "scipy": scipy.sparse.csr_array,
    "torch sparse": lambda array: torch.from_numpy(array).to_sparse(),
    "float64": lambda array: array.astype(np.float64),
}


@pytest.mark.parametrize("kind", KINDS)
def test_search_takes_vectors_of_any_kind(kind: str, vectors: np.ndarray) -> None:
    found = mlx_model.semantic_search(KINDS[kind](vectors[:5]), KINDS[kind](vectors), corpus_chunk_size=100)
    check_search(found, util.semantic_search(vectors[:5], vectors))


def test_search_takes_a_memory_map_a_single_query_and_nothing(vectors: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "corpus.npy", vectors)
    mapped = np.load(tmp_path / "corpus.npy", mmap_mode="r")
    check_search(mlx_model.semantic_search(vectors[3], mapped), util.semantic_search(vectors[3], vectors))
    assert mlx_model.semantic_search(vectors[:2], vectors[:0]) == [[], []]
    assert mlx_model.semantic_search(vectors[:0], vectors) == []


def test_ties_come_by_number() -> None:
    [hits] = mlx_model.semantic_search(np.ones((1, 4)), np.ones((300, 4)), top_k=300)
    assert [hit["corpus_id"] for hit in hits] == list(range(300))


def test_functions_of_sentence_transformers_and_of_the_user_score(vectors: np.ndarray) -> None:
    expected = util.semantic_search(vectors[:3], vectors, score_function=util.dot_score)
    check_search(mlx_model.semantic_search(vectors[:3], vectors, score_function=util.dot_score), expected)
    check_search(mlx_model.semantic_search(vectors[:3], vectors, score_function=lambda a, b: a @ b.T), expected)
    with pytest.raises(InputError, match="score_function=euclidean_sim of sentence-transformers works on torch"):
        mlx_model.semantic_search(vectors[:3], vectors, score_function=util.euclidean_sim)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"top_k": 0}, "top_k=0, expected an integer of 1 or more"),
        ({"query_chunk_size": 1.5}, "query_chunk_size=1.5, expected an integer"),
        ({"corpus_chunk_size": -1}, "corpus_chunk_size=-1, expected an integer"),
        ({"query_embeddings": np.zeros((2, 3))}, "the queries are 3 wide and the corpus is 16 wide"),
        ({"corpus_embeddings": np.zeros((2, 3, 4))}, r"corpus_embeddings has the shape \(2, 3, 4\)"),
    ],
)
def test_what_cannot_be_searched_is_a_clear_error(change: dict[str, Any], told: str, vectors: np.ndarray) -> None:
    with pytest.raises(InputError, match=told):
        mlx_model.semantic_search(**{"query_embeddings": vectors[:2], "corpus_embeddings": vectors, **change})


@pytest.mark.parametrize("count", [1, 5, 64])
@pytest.mark.parametrize("columns", [64, 65, 500])
def test_the_largest_by_blocks_are_the_largest(count: int, columns: int) -> None:
    scores = np.random.default_rng(columns).normal(size=(9, columns)).astype(np.float32)
    values, ids = (np.array(array) for array in nearest.top_scores(mx.array(scores), count))
    assert np.array_equal(np.sort(values), np.sort(scores)[:, -count:])
    assert np.array_equal(np.take_along_axis(scores, ids.astype(int), axis=1), values)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"top_k": 3},
        {"max_pairs": 40},
        {"query_chunk_size": 20, "corpus_chunk_size": 33, "top_k": 5, "max_pairs": 100},
    ],
)
def test_mining_finds_what_sentence_transformers_finds(options: dict[str, int], vectors: np.ndarray) -> None:
    found = mlx_model.paraphrase_mining_embeddings(vectors, **options)
    expected = util.paraphrase_mining_embeddings(torch.from_numpy(vectors), **options)
    # Pairs whose scores differ by less than the tolerance may swap.
    assert sorted(pair[1:] for pair in found) == sorted(pair[1:] for pair in expected)
    assert np.abs(np.array(found)[:, 0] - np.array(expected)[:, 0]).max() < TOLERANCE
    places = {(i, j): score for score, i, j in expected}
    assert max(abs(score - places[i, j]) for score, i, j in found) < TOLERANCE
    assert [type(one) for one in found[0]] == [float, int, int]


def test_mining_encodes_the_texts_as_sentence_transformers_does(vectors: np.ndarray) -> None:
    calls = []

    class Model:
        def encode(self, texts: list[str], **options: Any) -> np.ndarray:
            calls.append(options)
            return vectors[: len(texts)]

    pairs = mlx_model.paraphrase_mining(Model(), ["a"] * 9, batch_size=5, prompt="p", truncate_dim=3)
    assert len(pairs) == 36
    assert calls[0] == {
        "batch_size": 5, "prompt": "p", "prompt_name": None, "show_progress_bar": False, "truncate_dim": 3
    }  # fmt: skip


def test_mining_of_nothing_and_of_one_finds_nothing(vectors: np.ndarray) -> None:
    assert (
        mlx_model.paraphrase_mining_embeddings(vectors[:0]) == mlx_model.paraphrase_mining_embeddings(vectors[:1]) == []
    )


@pytest.mark.parametrize(("threshold", "smallest", "batch"), [(0.9, 3, 50), (0.95, 10, 7), (0.99, 2, 1024)])
def test_communities_are_sentence_transformers(threshold: float, smallest: int, batch: int) -> None:
    random = np.random.default_rng(1)
    centres = random.normal(size=(12, 16))
    rows = centres[random.integers(0, 12, 300)] + random.normal(size=(300, 16)) * random.uniform(0.05, 0.4, (300, 1))
    rows = rows.astype(np.float32)
    found = mlx_model.community_detection(rows, threshold, smallest, batch)
    assert found == util.community_detection(rows, threshold, smallest, batch)
    assert len(found) > 3


def test_too_few_for_a_community_are_none(vectors: np.ndarray) -> None:
    assert mlx_model.community_detection(vectors[:5], 0.1) == mlx_model.community_detection(vectors[:0]) == []
