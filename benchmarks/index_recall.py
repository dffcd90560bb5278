"""Recall and speed of indexes, compared with exact search, for embeddings of generated texts.

python -m benchmarks.index_recall --model NAME [--texts 100000] [--queries 200] [--sizes 10000,100000,1000000]

Needs the extra "indexes". Embeddings of texts are made once, and kept in --vectors FILE if that is given. With --sizes,
exact search is timed for so many vectors, which are those of the texts with noise.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mlx_hf_bridge import MLXSentenceTransformer
from mlx_hf_bridge.integrations.indexes import BinaryIndex

TOP_K = 10
# Searching stops after so long, however many queries are left.
_MOST_SECONDS = 20


def main() -> None:
    """Measure, and print two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--texts", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--vectors", type=Path)
    parser.add_argument("--sizes", default="")
    parser.add_argument("--only", default="")
    args = parser.parse_args()
    documents, queries = _embeddings(args)
    truth = np.argsort(-(queries @ documents.T), axis=1)[:, :TOP_K]
    print(f"{len(documents)} embeddings of {documents.shape[1]} dimensions, {len(queries)} queries, one at a time\n")
    print("| index | recall@10 | queries/s | built in s | MiB |")
    print("| --- | --- | --- | --- | --- |")
    for name, build in INDEXES.items():
        if args.only in name:
            _report(name, build, documents, queries, truth)
    for size in filter(None, args.sizes.split(",")):
        _time_exact(documents, queries[:50], int(size))


def _embeddings(args: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    if args.vectors and args.vectors.exists():
        stored = np.load(args.vectors)
        return stored[: -args.queries], stored[-args.queries :]
    from benchmarks.corpus_texts import sentences

    model = MLXSentenceTransformer(args.model)
    vectors = model.encode(sentences(args.texts + args.queries), normalize_embeddings=True)
    if args.vectors:
        np.save(args.vectors, vectors)
    return vectors[: args.texts], vectors[args.texts :]


def _report(
    name: str, build: Callable[..., Any], documents: np.ndarray, queries: np.ndarray, truth: np.ndarray
) -> None:
    start = time.perf_counter()
    search, size = build(documents)
    built = time.perf_counter() - start
    found: list[Any] = []
    start = time.perf_counter()
    for query in queries:
        found.append(search(query[None]))
        if time.perf_counter() - start > _MOST_SECONDS:
            break
    speed = len(found) / (time.perf_counter() - start)
    hits = [len(set(row) & set(expected)) for row, expected in zip(map(np.ravel, found), truth, strict=False)]
    recall = np.mean(hits) / TOP_K
    print(f"| {name} | {recall:.3f} | {speed:,.0f} | {built:.0f} | {size / 2**20:.0f} |", flush=True)


def _exact(documents: np.ndarray) -> tuple[Callable[[np.ndarray], Any], int]:
    from mlx_hf_bridge.sentence_transformers import semantic_search

    def search(query: np.ndarray) -> list[int]:
        return [hit["corpus_id"] for hit in semantic_search(query, documents, top_k=TOP_K)[0]]

    return search, documents.nbytes


def _usearch(dtype: str) -> Callable[[np.ndarray], Any]:
    def build(documents: np.ndarray) -> tuple[Callable[[np.ndarray], Any], int]:
        from usearch.index import Index

        index = Index(ndim=documents.shape[1], metric="cos", dtype=dtype)
        index.add(np.arange(len(documents)), documents)
        return lambda query: index.search(query[0], TOP_K).keys, index.memory_usage

    return build


def _faiss(factory: str) -> Callable[[np.ndarray], Any]:
    def build(documents: np.ndarray) -> tuple[Callable[[np.ndarray], Any], int]:
        import faiss

        index = faiss.index_factory(documents.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
        if not index.is_trained:
            index.train(documents[:20_000])
        index.add(documents)
        return lambda query: index.search(query, TOP_K)[1], faiss.serialize_index(index).nbytes

    return build


def _binary(factory: str) -> Callable[[np.ndarray], Any]:
    def build(documents: np.ndarray) -> tuple[Callable[[np.ndarray], Any], int]:
        import faiss

        index = BinaryIndex.of(documents, factory)
        return lambda query: index.search(query, TOP_K)[1], faiss.serialize_index_binary(index.index).nbytes

    return build


INDEXES: dict[str, Callable[[np.ndarray], Any]] = {
    "exact (semantic_search)": _exact,
    "faiss Flat": _faiss("Flat"),
    "faiss SQ8 (int8)": _faiss("SQ8"),
    "faiss HNSW32": _faiss("HNSW32"),
    "faiss HNSW32,SQ8": _faiss("HNSW32,SQ8"),
    "faiss binary, rescored": _binary("BFlat"),
    "faiss binary HNSW32, rescored": _binary("BHNSW32"),
    "usearch HNSW, f32": _usearch("f32"),
    "usearch HNSW, i8": _usearch("i8"),
}


def _time_exact(documents: np.ndarray, queries: np.ndarray, size: int) -> None:
    """Print how long exact search takes for one query and for all queries together."""
    from mlx_hf_bridge.sentence_transformers import semantic_search

    rng = np.random.default_rng(0)
    vectors = np.empty((size, documents.shape[1]), np.float32)
    for start in range(0, size, 50_000):
        stop = min(size, start + 50_000)
        part = documents[rng.integers(0, len(documents), stop - start)]
        part = part + rng.normal(0, 0.02, part.shape).astype(np.float32)
        vectors[start:stop] = part / np.linalg.norm(part, axis=1, keepdims=True)
    times = []
    for query in queries[:5]:
        start_time = time.perf_counter()
        semantic_search(query[None], vectors, top_k=TOP_K)
        times.append(time.perf_counter() - start_time)
    start_time = time.perf_counter()
    semantic_search(queries, vectors, top_k=TOP_K)
    together = (time.perf_counter() - start_time) / len(queries)
    one = 1000 * min(times)
    print(f"exact, {size:>9,} vectors: {one:7.1f} ms for one query, {1000 * together:7.1f} ms each of {len(queries)}")


if __name__ == "__main__":
    main()
