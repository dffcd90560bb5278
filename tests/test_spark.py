"""Tests on local Spark with two Python workers, which need Java and the extra "spark"; see scripts/test-clusters."""

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

# Warnings of Spark cannot be fixed here.
pytestmark = [pytest.mark.integrations, pytest.mark.filterwarnings("ignore")]

WORDS = ("the cat", "a dog", "sat on", "this example", "is good", "market rose", "sport")
TEXTS = [" ".join(WORDS[(n + k) % 7] for k in range(n % 5 + 1)) for n in range(40)]
OPTIONS: dict[str, Any] = {"id_column": "id", "rows_per_unit": 14, "chunk_size": 3}
TOLERANCE = 1e-6
# Two executors of one core and 1 GB: processes of their own, as on a cluster. The default is one process.
MASTER = os.environ.get("MLX_HF_BRIDGE_TEST_SPARK", "local[2,4]")


@pytest.fixture(scope="module")
def spark() -> Iterator[Any]:
    """Start a session in which a task may fail three times."""
    sql = pytest.importorskip("pyspark.sql")
    # Workers import failing_task.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    builder = sql.SparkSession.builder.master(MASTER).config("spark.ui.enabled", "false")
    session = builder.config("spark.driver.memory", "512m").config("spark.sql.shuffle.partitions", "2").getOrCreate()
    yield session
    session.stop()


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


def test_files_give_the_parts_of_one_process(spark: Any, corpus: Path, folder: Path, tmp_path: Path) -> None:
    from mlx_hf_bridge.integrations.spark import embed_dataset

    result = embed_dataset(str(corpus), folder, "body", output=tmp_path / "out", **OPTIONS)
    assert (result.rows, result.quarantined) == (40, 2)
    embed_files(corpus, tmp_path / "one", folder, "body", **OPTIONS)
    for path in (tmp_path / "one").glob("part-*"):
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes(), path.name
    assert embed_dataset(str(corpus), folder, "body", output=tmp_path / "out", **OPTIONS).computed == 0


@pytest.mark.parametrize("victim", ["", "self"])
def test_a_task_that_fails_once_is_repeated(
    victim: str, spark: Any, corpus: Path, folder: Path, tmp_path: Path
) -> None:
    """By an error, and by the death of its process."""
    from mlx_hf_bridge.integrations.spark import run_job

    result = run_job(failing(corpus, folder, tmp_path, victim, 8), spark)
    assert (tmp_path / "marker").exists()
    assert (result.rows, result.quarantined, result.pending) == (40, 2, 0)


def test_a_dataframe_gets_further_columns(spark: Any, folder: Path, tmp_path: Path) -> None:
    from pyspark.ml import Pipeline, PipelineModel

    from mlx_hf_bridge.integrations.spark import MLXEmbedder, embed_dataset

    frame = spark.createDataFrame([*enumerate(TEXTS), (40, None)], "id long, body string")
    expected = MLXSentenceTransformer(str(folder)).encode(TEXTS)
    rows = embed_dataset(frame, folder, "body").orderBy("id").collect()
    assert [row.id for row in rows] == list(range(41))
    assert (rows[40].embedding, rows[40].error) == (None, "'body' is null, expected a text")
    assert np.abs(np.array([row.embedding for row in rows[:40]]) - expected).max() < TOLERANCE
    stage = MLXEmbedder(model=str(folder), inputCol="body", outputCol="vector", options={"truncate_dim": 8})
    Pipeline(stages=[stage]).fit(frame).write().overwrite().save(str(tmp_path / "pipeline"))
    found = PipelineModel.load(str(tmp_path / "pipeline")).transform(frame).orderBy("id").collect()
    assert np.abs(np.array([row.vector for row in found[:40]]) - expected[:, :8]).max() < TOLERANCE
    with pytest.raises(InputError, match="the DataFrame has no column 'text'"):
        embed_dataset(frame, folder)
    with pytest.raises(InputError, match="Leave output out, and write it by Spark"):
        embed_dataset(frame, folder, "body", output=tmp_path / "x")
