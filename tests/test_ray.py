"""Tests on a local Ray cluster of two nodes; `scripts/test-clusters` runs them. They need the extra "ray"."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import make_checkpoint
from failing_task import failing

from mlx_hf_bridge import MLXSentenceTransformer
from mlx_hf_bridge.corpora import embed_files
from mlx_hf_bridge.errors import InputError

# Warnings of Ray cannot be fixed here.
pytestmark = [pytest.mark.integrations, pytest.mark.filterwarnings("ignore")]

WORDS = ("the cat", "a dog", "sat on", "this example", "is good", "market rose", "sport")
TEXTS = [" ".join(WORDS[(n + k) % 7] for k in range(n % 5 + 1)) for n in range(60)]
OPTIONS: dict[str, Any] = {"id_column": "id", "rows_per_unit": 7, "chunk_size": 3}
TOLERANCE = 1e-6


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """Start a cluster of two nodes, with one core each."""
    ray = pytest.importorskip("ray")
    utils = pytest.importorskip("ray.cluster_utils")
    # Workers import failing_task.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    node = {"num_cpus": 1, "object_store_memory": 100 * 2**20, "include_dashboard": False}
    cluster = utils.Cluster(initialize_head=True, head_node_args=node)
    cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20)
    ray.init(address=cluster.address, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield ray
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    make_checkpoint(path)
    return path


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Write TEXTS into a file, with a bad row and a bad file."""
    path = tmp_path / "corpus"
    path.mkdir()
    lines = [json.dumps({"id": n, "body": text}) for n, text in enumerate(TEXTS)]
    (path / "a.jsonl").write_text("\n".join([*lines, "{bad"]))
    (path / "b.parquet").write_bytes(b"PAR1 and nothing")
    return path


def vectors(table: Any) -> np.ndarray:
    """Return the embeddings of a table."""
    return np.stack(table["embedding"].to_numpy())


def test_files_give_the_parts_of_one_process(ray: Any, corpus: Path, folder: Path, tmp_path: Path) -> None:
    from mlx_hf_bridge.integrations.ray import embed_dataset

    result = embed_dataset(str(corpus), folder, "body", output=tmp_path / "out", concurrency=2, **OPTIONS)
    assert (result.rows, result.quarantined) == (60, 2)
    embed_files(corpus, tmp_path / "one", folder, "body", **OPTIONS)
    names = {path.name for path in (tmp_path / "one").glob("part-*")}
    assert {path.name for path in (tmp_path / "out").glob("part-*")} == names
    for name in names:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "one" / name).read_bytes(), name
    again = embed_dataset(str(corpus), folder, "body", output=tmp_path / "out", **OPTIONS)
    assert (again.rows, again.computed) == (60, 0)


def test_an_actor_that_is_killed_is_replaced(ray: Any, corpus: Path, folder: Path, tmp_path: Path) -> None:
    from mlx_hf_bridge.integrations.ray import run_job

    result = run_job(failing(corpus, folder, tmp_path, "self", 8), 2, {})
    assert (tmp_path / "marker").exists()
    assert (result.rows, result.quarantined, result.pending) == (60, 2, 0)


def test_errors_of_actors_are_errors_of_the_call(ray: Any, corpus: Path, folder: Path, tmp_path: Path) -> None:
    from mlx_hf_bridge.integrations.ray import embed_dataset

    with pytest.raises(InputError, match="prompt_name"):
        embed_dataset(str(corpus), folder, "body", output=tmp_path / "out", prompt_name="none", **OPTIONS)
    with pytest.raises(InputError, match="files need a folder for the results"):
        embed_dataset(str(corpus), folder, "body")


def test_a_dataset_gets_further_columns(ray: Any, folder: Path) -> None:
    from mlx_hf_bridge.integrations.ray import embed_dataset

    rows = [{"id": n, "body": text} for n, text in enumerate(TEXTS)] + [{"id": 60, "body": None}]
    found = embed_dataset(ray.data.from_items(rows), folder, "body", chunk_size=7).to_pandas().sort_values("id")
    assert list(found["id"]) == list(range(61))
    assert "'body' is null" in found["error"].iloc[60]
    assert found["error"].iloc[:60].isna().all()
    expected = MLXSentenceTransformer(str(folder)).encode(TEXTS)
    assert np.abs(np.stack(list(found["embedding"].iloc[:60])) - expected).max() < TOLERANCE


def test_a_dataset_that_is_written_is_complete_and_in_order(ray: Any, folder: Path, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.dataset as ds
    import pyarrow.parquet as pq

    from mlx_hf_bridge.integrations.ray import embed_dataset

    (tmp_path / "in").mkdir()
    for number in range(3):
        part = slice(20 * number, 20 * number + 20)
        rows = {"id": list(range(60))[part], "body": [*TEXTS[:59], None][part]}
        pq.write_table(pa.table(rows), tmp_path / "in" / f"{number}.parquet")
    for _ in range(2):
        given = ray.data.read_parquet(str(tmp_path / "in"))
        result = embed_dataset(given, folder, "body", output=tmp_path / "out", id_column="id")
        assert (result.rows, result.quarantined) == (59, 1)
    table = ds.dataset(tmp_path / "out").to_table()
    assert table["id"].to_pylist() == list(range(59))
    assert np.abs(vectors(table) - MLXSentenceTransformer(str(folder)).encode(TEXTS[:59])).max() < TOLERANCE
