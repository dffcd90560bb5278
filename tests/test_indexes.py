"""Tests of the tools that embeddings are searched with; they need the extra "indexes"."""

import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlx_hf_bridge.errors import InputError

# Warnings of these tools cannot be fixed here.
pytestmark = [pytest.mark.integrations, pytest.mark.filterwarnings("ignore")]

EXAMPLES = Path(__file__).parent.parent / "examples" / "indexes"
WIDTH = 16


@pytest.fixture(scope="module")
def embeddings() -> np.ndarray:
    vectors = np.random.default_rng(0).normal(size=(500, WIDTH)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def folder(embeddings: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a folder as embed_files does."""
    import json

    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path_factory.mktemp("embeddings")
    kind = pa.list_(pa.float32(), WIDTH)
    for number, part in enumerate(np.split(embeddings, 5)):
        ids = pa.array(range(100 * number, 100 * number + 100))
        columns = {"id": ids, "embedding": pa.array(list(part), kind)}
        pq.write_table(pa.table(columns), path / f"part-{number:06d}.parquet")
    outputs = [{"part": f"part-{number:06d}.parquet"} for number in range(5)]
    (path / "_manifest.json").write_text(json.dumps({"outputs": outputs}))
    return path


def test_a_folder_that_is_not_complete_is_refused(tmp_path: Path) -> None:
    from mlx_hf_bridge.integrations.indexes import read_embeddings

    with pytest.raises(InputError, match=r"has no _manifest.json: it is not complete"):
        read_embeddings(tmp_path)


def test_lancedb_has_each_row_once(folder: Path, embeddings: np.ndarray, tmp_path: Path) -> None:
    lancedb = pytest.importorskip("lancedb")

    from mlx_hf_bridge.integrations.indexes import write_lancedb

    database = lancedb.connect(tmp_path)
    for _ in range(2):
        table = write_lancedb(folder, database, "rows")
        assert table.count_rows() == 500
    assert [row["id"] for row in table.search(embeddings[321]).limit(1).to_list()] == [321]


@pytest.mark.parametrize("dtype", ["f32", "i8"])
def test_usearch_finds_each_row(dtype: str, folder: Path, embeddings: np.ndarray) -> None:
    pytest.importorskip("usearch")
    from mlx_hf_bridge.integrations.indexes import usearch_index

    index, ids = usearch_index(folder, dtype)
    found = [ids[int(index.search(vector, 1).keys[0])] for vector in embeddings]
    assert np.mean(np.array(found) == np.arange(500)) > 0.98


@pytest.mark.parametrize("factory", ["Flat", "HNSW32", "HNSW32,SQ8", "SQ8"])
def test_faiss_finds_each_row(factory: str, folder: Path, embeddings: np.ndarray) -> None:
    pytest.importorskip("faiss")
    from mlx_hf_bridge.integrations.indexes import faiss_index

    index, ids = faiss_index(folder, factory)
    found = index.search(embeddings, 1)[1][:, 0]
    assert np.mean(np.array(ids)[found] == np.arange(500)) > 0.98


def test_binary_search_is_exact_after_rescoring_all(embeddings: np.ndarray) -> None:
    from mlx_hf_bridge.integrations.indexes import BinaryIndex

    scores, rows = BinaryIndex.of(embeddings).search(embeddings[:20], 5, candidates=100)
    exact = embeddings[:20] @ embeddings.T
    assert np.array_equal(rows, np.argsort(-exact, axis=1)[:, :5])
    assert np.abs(scores - np.take_along_axis(exact, rows, 1)).max() < 1e-6


def test_qdrant_has_each_row_once(folder: Path, embeddings: np.ndarray) -> None:
    qdrant_client = pytest.importorskip("qdrant_client")
    from mlx_hf_bridge.integrations.indexes import write_qdrant

    client = qdrant_client.QdrantClient(":memory:")
    for _ in range(2):
        assert write_qdrant(folder, client, "rows") == 500
        assert client.count("rows").count == 500
    assert client.query_points("rows", query=embeddings[321].tolist(), limit=1).points[0].id == 321


class Recorder:
    """A connection that records what is executed, as there may be no server here."""

    def __init__(self) -> None:
        self.statements: list[str] = []
        self.rows: list[Any] = []
        self.commits = 0

    def cursor(self) -> "Recorder":
        return self

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def execute(self, statement: str) -> None:
        self.statements.append(statement)

    def executemany(self, statement: str, rows: list[Any]) -> None:
        self.statements.append(statement)
        self.rows += rows

    def commit(self) -> None:
        self.commits += 1


def test_pgvector_gets_statements_that_replace_rows(folder: Path, embeddings: np.ndarray) -> None:
    from mlx_hf_bridge.integrations.indexes import write_pgvector

    connection = Recorder()
    assert write_pgvector(folder, connection, "rows") == 500
    assert connection.statements[1] == ("CREATE TABLE IF NOT EXISTS rows (id bigint PRIMARY KEY, embedding vector(16))")
    assert "ON CONFLICT (id) DO UPDATE" in connection.statements[2]
    assert [row[0] for row in connection.rows] == list(range(500))
    assert np.array_equal(np.array(eval(connection.rows[7][1]), np.float32), embeddings[7])
    assert connection.commits == 5
    with pytest.raises(InputError, match="is not a name"):
        write_pgvector(folder, connection, "rows; DROP TABLE rows")


@pytest.fixture
def importable() -> Iterator[None]:
    sys.path.insert(0, str(EXAMPLES))
    yield
    sys.path.remove(str(EXAMPLES))


@pytest.mark.usefixtures("importable")
@pytest.mark.parametrize("example", ["lancedb", "usearch", "faiss", "qdrant"])
def test_examples_answer(example: str, minilm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip({"qdrant": "qdrant_client"}.get(example, example))
    runpy.run_path(str(EXAMPLES / f"{example}_search.py"))["main"](str(minilm))
    assert capsys.readouterr().out.strip().endswith("The bakery on the corner opens at six in the morning.")
