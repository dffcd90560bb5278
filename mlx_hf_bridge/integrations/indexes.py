"""Put the embeddings of a corpus where they are searched: LanceDB, usearch, faiss, Qdrant and pgvector.

Each function reads the folder that `embed_files` or `embed_dataset` wrote, a batch at a time, and hands ids and
embeddings to the tool's own client, which is searched as its documentation says. Writing a folder to a database again
replaces rows by their ids.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlx_hf_bridge.corpora.job import MANIFEST
from mlx_hf_bridge.corpora.storage import Storage, pyarrow
from mlx_hf_bridge.errors import InputError
from mlx_hf_bridge.runtime.extras import require

Folder = str | os.PathLike[str]
_BATCH = 8192
# Candidates of a binary search that are scored again with float embeddings, for each result.
_CANDIDATES = 10


def read_embeddings(folder: Folder, batch_size: int = _BATCH) -> Iterator[Any]:
    """Yield the rows of a folder of results, in the order of the corpus.

    Args:
        folder: What `embed_files` or `embed_dataset` wrote for files.
        batch_size: The most rows of a batch. Default: 8192.

    Returns:
        An iterator of pyarrow.RecordBatch, with the id, the kept columns and "embedding".

    Raises:
        InputError: If the folder is not complete.
    """
    storage = Storage.at(folder)
    manifest = storage.read_json(MANIFEST)
    if manifest is None:
        raise InputError(f"{os.fspath(folder)} has no {MANIFEST}: it is not complete. Run embed_files there again.")
    return _batches(storage, [part["part"] for part in manifest["outputs"]], batch_size)


def write_lancedb(folder: Folder, database: Any, table: str, id_column: str = "id") -> Any:
    """Write embeddings and the other columns into a LanceDB table.

    Args:
        folder: A folder of results.
        database: What lancedb.connect returned.
        table: The name of the table; created if needed.
        id_column: The column that identifies rows. Default: "id".

    Returns:
        The lancedb.table.Table. For a large one, call its `create_index(vector_column_name="embedding")`.

    Raises:
        InputError: If the folder is not complete.
    """
    opened: Any = None
    for batch in read_embeddings(folder):
        rows = pyarrow().Table.from_batches([batch])
        if opened is None:
            opened = _opened(database, table, rows.schema)
        opened.merge_insert(id_column).when_matched_update_all().when_not_matched_insert_all().execute(rows)
    return opened


def usearch_index(folder: Folder, dtype: str = "f32", id_column: str = "id", **options: Any) -> tuple[Any, list[Any]]:
    """Build a usearch index (HNSW) of embeddings, by cosine similarity.

    Args:
        folder: A folder of results.
        dtype: How usearch stores embeddings: "f32", "f16" or "i8". Default: "f32".
        id_column: The column that identifies rows. Default: "id".
        **options: Further arguments of usearch.index.Index, such as connectivity.

    Returns:
        The index, whose keys are the numbers of the rows, and the id of each row.

    Raises:
        InputError: If the folder is not complete or empty.
        BackendError: If usearch is not installed.
    """
    usearch, index, ids = require("usearch.index", "indexes", "A usearch index"), None, list[Any]()
    for batch in read_embeddings(folder):
        vectors = as_matrix(batch)
        if index is None:
            index = usearch.index.Index(ndim=vectors.shape[1], metric="cos", dtype=dtype, **options)
        index.add(np.arange(len(ids), len(ids) + len(vectors)), vectors)
        ids += batch.column(id_column).to_pylist()
    if index is None:
        raise InputError(f"{os.fspath(folder)} has no embeddings.")
    return index, ids


def faiss_index(folder: Folder, factory: str = "HNSW32", id_column: str = "id") -> tuple[Any, list[Any]]:
    """Build a faiss index of embeddings, by inner product.

    Args:
        folder: A folder of results; embeddings of length 1 (normalize_embeddings) give cosine similarity.
        factory: What faiss.index_factory takes: "HNSW32", "HNSW32,SQ8" or "SQ8" (one byte for each dimension), "Flat"
            (exact), ... A kind that is trained is trained with the first batch. Default: "HNSW32".
        id_column: The column that identifies rows. Default: "id".

    Returns:
        The index, which numbers the rows from 0, and the id of each row.

    Raises:
        InputError: If the folder is not complete or empty.
        BackendError: If faiss is not installed.
    """
    faiss, index, ids = require("faiss", "indexes", "A faiss index"), None, list[Any]()
    for batch in read_embeddings(folder):
        vectors = as_matrix(batch)
        if index is None:
            index = faiss.index_factory(vectors.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
        if not index.is_trained:
            index.train(vectors)
        index.add(vectors)
        ids += batch.column(id_column).to_pylist()
    if index is None:
        raise InputError(f"{os.fspath(folder)} has no embeddings.")
    return index, ids


@dataclass(frozen=True)
class BinaryIndex:
    """One bit for each dimension in memory, and float embeddings on disk to score the best of them again.

    Args:
        index: A faiss binary index.
        embeddings: Float embeddings (N, V), for example mapped into memory from a .npy file.
    """

    index: Any
    embeddings: np.ndarray

    @classmethod
    def of(cls, embeddings: np.ndarray, factory: str = "BFlat") -> "BinaryIndex":
        """Build the index.

        Args:
            embeddings: Float embeddings (N, V), V a multiple of 8.
            factory: What faiss.index_binary_factory takes: "BFlat", "BHNSW32", ... Default: "BFlat".

        Returns:
            The index.

        Raises:
            BackendError: If faiss is not installed.
        """
        faiss = require("faiss", "indexes", "A faiss index")
        index = faiss.index_binary_factory(embeddings.shape[1], factory)
        for start in range(0, len(embeddings), _BATCH):
            index.add(_bits(embeddings[start : start + _BATCH]))
        return cls(index, embeddings)

    def search(self, queries: np.ndarray, top_k: int, candidates: int = _CANDIDATES) -> tuple[np.ndarray, np.ndarray]:
        """Return the best rows by inner product, among those whose bits are nearest.

        Args:
            queries: Float embeddings (Q, V).
            top_k: How many rows are returned for each.
            candidates: How many times as many are scored again. Default: 10.

        Returns:
            Scores (Q, top_k) and the numbers of the rows (Q, top_k), best first.
        """
        found = self.index.search(_bits(queries), min(top_k * candidates, len(self.embeddings)))[1]
        scores = np.stack([self.embeddings[rows] @ query for rows, query in zip(found, queries, strict=True)])
        best = np.argsort(-scores, axis=1)[:, :top_k]
        return np.take_along_axis(scores, best, 1), np.take_along_axis(found, best, 1)


def write_qdrant(folder: Folder, client: Any, collection: str, id_column: str = "id", **options: Any) -> int:
    """Write embeddings into a collection of Qdrant, with the other columns as payload.

    Args:
        folder: A folder of results.
        client: A qdrant_client.QdrantClient.
        collection: The name of the collection; created with cosine distance if needed.
        id_column: The column with the ids: integers of 0 or more, or UUIDs. Default: "id".
        **options: Further arguments of `create_collection`, such as quantization_config.

    Returns:
        How many points were written.

    Raises:
        InputError: If the folder is not complete.
        BackendError: If qdrant_client is not installed.
    """
    models, count = require("qdrant_client.models", "indexes", "Writing to Qdrant").models, 0
    for batch in read_embeddings(folder, 1024):
        vectors, rows = as_matrix(batch), batch.drop_columns("embedding").to_pylist()
        if not client.collection_exists(collection):
            size = models.VectorParams(size=vectors.shape[1], distance=models.Distance.COSINE)
            client.create_collection(collection, vectors_config=size, **options)
        ids = [row.pop(id_column) for row in rows]
        client.upsert(collection, models.Batch(ids=ids, vectors=vectors.tolist(), payloads=rows))
        count += len(ids)
    return count


def write_pgvector(folder: Folder, connection: Any, table: str, id_column: str = "id", id_type: str = "bigint") -> int:
    """Write embeddings into a table of PostgreSQL with the extension pgvector.

    Args:
        folder: A folder of results.
        connection: A psycopg connection; every batch is committed.
        table: The name of the table (id, embedding), created if needed.
        id_column: The column with the ids. Default: "id".
        id_type: The type of the ids in the table. Default: "bigint".

    Returns:
        How many rows were written. For a large table, create an index: CREATE INDEX ON articles USING hnsw (embedding
        vector_cosine_ops).

    Raises:
        InputError: If the folder is not complete, or a name is not an identifier.
    """
    for name in (table, *id_type.split()):
        if not name.isidentifier():
            raise InputError(f"{name!r} is not a name. Give letters, digits and underscores.")
    count = 0
    for batch in read_embeddings(folder, 1024):
        vectors = as_matrix(batch)
        with connection.cursor() as cursor:
            if not count:
                cursor.execute("CREATE EXTENSION IF NOT EXISTS vector")
                columns = f"id {id_type} PRIMARY KEY, embedding vector({vectors.shape[1]})"
                cursor.execute(f"CREATE TABLE IF NOT EXISTS {table} ({columns})")
            values = [
                (one, "[" + ",".join(map(str, vector.tolist())) + "]")
                for one, vector in zip(batch.column(id_column).to_pylist(), vectors, strict=True)
            ]
            update = "ON CONFLICT (id) DO UPDATE SET embedding = excluded.embedding"
            cursor.executemany(f"INSERT INTO {table} (id, embedding) VALUES (%s, %s::vector) {update}", values)
        connection.commit()
        count += len(values)
    return count


def as_matrix(batch: Any) -> np.ndarray:
    """Return the embeddings of some rows.

    Args:
        batch: A pyarrow.RecordBatch with the column "embedding".

    Returns:
        Embeddings (n, V).
    """
    column = batch.column("embedding")
    return np.asarray(column.flatten()).reshape(len(column), -1)


def _opened(database: Any, table: str, schema: Any) -> Any:
    try:
        return database.open_table(table)
    # Which of them depends on the version of lancedb.
    except (ValueError, FileNotFoundError):
        return database.create_table(table, schema=schema)


def _batches(storage: Storage, parts: list[str], batch_size: int) -> Iterator[Any]:
    for part in parts:
        with storage.open(part) as file:
            yield from pyarrow().parquet.ParquetFile(file).iter_batches(batch_size)


def _bits(vectors: np.ndarray) -> np.ndarray:
    return np.packbits(vectors > 0, axis=1)
