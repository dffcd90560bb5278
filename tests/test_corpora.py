"""Tests of corpora in files: rows and their order, bad rows, and what an interrupted run leaves to the next one."""

import csv
import gzip
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import make_checkpoint
from failing_task import SMALL, failing
from subprocesses import start_python, wait_for

from mlx_hf_bridge import MLXCrossEncoder, MLXSentenceTransformer, pipeline
from mlx_hf_bridge.cli import main
from mlx_hf_bridge.corpora import classify_files, embed_files, rerank_files
from mlx_hf_bridge.corpora.api import run_job, shard_of
from mlx_hf_bridge.errors import ArgumentTypeError, BackendError, InputError, RepositoryError
from mlx_hf_bridge.sentence_transformers.encoding.pools import WorkerError

pa = pytest.importorskip("pyarrow")
ds = pytest.importorskip("pyarrow.dataset")
feather = pytest.importorskip("pyarrow.feather")
pq = pytest.importorskip("pyarrow.parquet")

WORDS = ("the cat", "a dog", "sat on", "this example", "is good", "market rose", "sport")
TEXTS = [" ".join(WORDS[(n + k) % 7] for k in range(n % 5 + 1)) for n in range(40)]
TOLERANCE = 1e-6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    make_checkpoint(path)
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> MLXSentenceTransformer:
    return MLXSentenceTransformer(str(folder))


def table(start: int, stop: int) -> Any:
    """Return rows of the corpus as an Arrow table."""
    return pa.table({"id": list(range(start, stop)), "body": TEXTS[start:stop]})


def write_stream(path: Path, rows: Any) -> None:
    """Write an Arrow file as datasets does."""
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, rows.schema) as writer:
        writer.write_table(rows, max_chunksize=4)


def write_lines(path: Path, start: int, stop: int, opened: Callable[..., Any] = open) -> None:
    """Write a JSONL file."""
    with opened(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps({"id": n, "body": TEXTS[n]}) + "\n" for n in range(start, stop))


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Write TEXTS into one file of each kind."""
    path = tmp_path / "corpus"
    (path / "below").mkdir(parents=True)
    pq.write_table(table(0, 12), path / "a.parquet", row_group_size=5)
    write_stream(path / "b.arrow", table(12, 20))
    feather.write_feather(table(20, 25), path / "below" / "c.feather")
    write_lines(path / "d.jsonl", 25, 35)
    write_lines(path / "e.jsonl.gz", 35, 40, gzip.open)
    return path


def read(output: Path) -> Any:
    """Return all results, as any tool would read the folder."""
    return ds.dataset(output).to_table()


def vectors(output: Path) -> np.ndarray:
    """Return the embeddings of a folder."""
    return np.stack(read(output)["embedding"].to_numpy())


def quarantined(output: Path) -> list[dict[str, Any]]:
    """Return the rows without a result."""
    files = sorted((output / "_quarantine").glob("*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def test_rows_of_all_formats_keep_their_ids_and_order(
    corpus: Path, folder: Path, model: MLXSentenceTransformer, tmp_path: Path
) -> None:
    result = embed_files(corpus, tmp_path / "out", folder, "body", id_column="id", **SMALL)
    assert (result.rows, result.quarantined, result.pending, result.is_complete) == (40, 0, 0, True)
    assert read(tmp_path / "out")["id"].to_pylist() == list(range(40))
    assert np.abs(vectors(tmp_path / "out") - model.encode(TEXTS)).max() < TOLERANCE
    manifest = json.loads((tmp_path / "out" / "_manifest.json").read_text())
    assert (manifest["rows"], len(manifest["outputs"])) == (40, result.units)
    by_file = {file["name"]: 0 for file in manifest["inputs"]}
    for part in manifest["outputs"]:
        by_file[part["input"]] += part["rows"]
    assert by_file == {"a.parquet": 12, "b.arrow": 8, "below/c.feather": 5, "d.jsonl": 10, "e.jsonl.gz": 5}
    assert not list((tmp_path / "out").glob(".*")), "something half written was left"


def test_options_are_those_of_encode(corpus: Path, folder: Path, model: MLXSentenceTransformer, tmp_path: Path) -> None:
    options: dict[str, Any] = {"prompt": "the ", "normalize_embeddings": True, "truncate_dim": 16}
    embed_files([corpus / "a.parquet"], tmp_path / "a", folder, "body", keep_columns=["body"], **options, **SMALL)
    assert read(tmp_path / "a").drop_columns("embedding").to_pydict() == {
        "id": [f"a.parquet:{row}" for row in range(12)],
        "body": TEXTS[:12],
    }
    assert np.abs(vectors(tmp_path / "a") - model.encode(TEXTS[:12], **options)).max() < TOLERANCE
    embed_files(corpus / "a.parquet", tmp_path / "b", folder, "body", precision="ubinary", **SMALL)
    assert np.array_equal(vectors(tmp_path / "b"), model.encode(TEXTS[:12], precision="ubinary"))
    with pytest.raises(InputError, match="'int8' is scaled to the range of all embeddings"):
        embed_files(corpus, tmp_path / "c", folder, "body", precision="int8")
    with pytest.raises(ArgumentTypeError, match=r"embed does not take top_k. It takes batch_size, chunk_size"):
        embed_files(corpus, tmp_path / "c", folder, "body", top_k=3)  # type: ignore[call-arg]


BAD_LINES = [
    (b'{"id": 0, "body": "a dog"}', None),
    (b"{bad", "it is not JSON (Expecting property name"),
    (b"", None),
    (b'{"id": 1, "body": null}', "'body' is null, expected a text"),
    (b'{"id": 2, "body": 5}', "'body' is of type int, expected a text"),
    (b'{"id": 3}', "it has no 'body'"),
    (b'{"id": "x", "body": "a"}', "'id' is x, expected int64"),
    (b'{"id": null, "body": "a"}', "'id' is null"),
    (b'["a"]', "it is a JSON list, expected an object"),
    (b'{"id": 4, "body": "\xff"}', "it is not JSON ('utf-8' codec can't decode"),
    (b'{"id": 5, "body": "\\ud800"}', "'body' is not UTF-8"),
    (b'{"id": 6, "body": "' + b"the " * 99 + b'"}', "text 0 "),
    (b'{"id": 7, "body": "the cat"}', None),
]


@pytest.mark.parametrize("rows_per_unit", [2, 100])
def test_a_bad_row_is_recorded_with_its_reason(rows_per_unit: int, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    # Without a line end behind the last line.
    path.write_bytes(b"\n".join(line for line, _ in BAD_LINES))
    options: Any = {"id_column": "id", "overlong": "error", "rows_per_unit": rows_per_unit}
    result = embed_files(path, tmp_path / "out", folder, "body", **options)
    assert (result.rows, result.quarantined) == (2, 10)
    assert read(tmp_path / "out")["id"].to_pylist() == [0, 7]
    found = {row["row"]: row["reason"] for row in quarantined(tmp_path / "out")}
    expected = {row: reason for row, (_, reason) in enumerate(BAD_LINES) if reason}
    assert set(found) == set(expected)
    assert all(reason in found[row] or "tokens" in found[row] for row, reason in expected.items()), found


def test_values_of_csv_stay_as_they_are_written(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("id", "body"), ("007", "the cat,\nsat"), ("x", "a", "dog"), ("8", "")])
    result = embed_files(path, tmp_path / "out", folder, "body", id_column="id")
    assert (result.rows, result.quarantined) == (2, 1)
    assert read(tmp_path / "out")["id"].to_pylist() == ["007", "8"]
    assert quarantined(tmp_path / "out")[0]["reason"] == "it has 3 fields, expected 2"


def test_bytes_of_parquet_that_are_no_text_are_one_bad_row(folder: Path, tmp_path: Path) -> None:
    texts = pa.StringArray.from_buffers(2, *pa.array([b"a dog", b"\xff"]).buffers()[1:])
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet")
    assert embed_files(tmp_path / "a.parquet", tmp_path / "out", folder).rows == 1
    assert quarantined(tmp_path / "out")[0]["reason"] == "'text' is not UTF-8"


@pytest.mark.parametrize("damage", ["all", "page", "compressed"])
def test_a_file_that_cannot_be_read_does_not_end_the_run(
    damage: str, corpus: Path, folder: Path, tmp_path: Path
) -> None:
    name = "e.jsonl.gz" if damage == "compressed" else "a.parquet"
    content = (corpus / name).read_bytes()
    damaged = {
        "all": b"PAR1 and nothing",
        "page": content[:4] + b"\xff" * 60 + content[64:],
        "compressed": content[:-30],
    }
    (corpus / name).write_bytes(damaged[damage])
    result = embed_files(corpus, tmp_path / "out", folder, "body", id_column="id", **SMALL)
    assert result.is_complete
    found = quarantined(tmp_path / "out")
    assert {row["file"] for row in found} == {name}
    assert {row["row"] for row in found} == {None}
    assert "the file cannot be read from row " in found[0]["reason"]
    whole = set(range(40)) - set(range(35, 40) if damage == "compressed" else range(12))
    assert whole <= set(read(tmp_path / "out")["id"].to_pylist())


@pytest.mark.parametrize(
    ("column", "told"),
    [("text", "it has no column 'text', only ['id', 'body']"), ("id", "'id' is of type int, expected a text")],
)
def test_a_wrong_column_is_an_error_and_not_a_quarantine(
    column: str, told: str, corpus: Path, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="the corpus has no row with a text") as error:
        embed_files(corpus / "a.parquet", tmp_path / "out", folder, column)
    assert told in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_run_continues_where_it_failed(corpus: Path, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        run_job(failing(corpus, folder, tmp_path, row=17))
    first = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("part-*")}
    assert 0 < len(first) < 6
    assert not (tmp_path / "out" / "_manifest.json").exists()
    result = run_job(failing(corpus, folder, tmp_path, row=17))
    assert result.computed == result.units - len(first)
    assert all((tmp_path / "out" / name).stat().st_mtime_ns == time for name, time in first.items())
    embed_files(corpus, tmp_path / "whole", folder, "body", id_column="id", **SMALL)
    for part in (tmp_path / "whole").glob("part-*"):
        assert (tmp_path / "out" / part.name).read_bytes() == part.read_bytes(), part.name


def test_shards_in_any_order_give_one_manifest(corpus: Path, folder: Path, tmp_path: Path) -> None:
    for output, shard in (("one", "3/3"), ("two", "1/3"), ("one", "2/3")):
        result = embed_files(corpus, tmp_path / output, folder, "body", id_column="id", shard=shard, **SMALL)
        assert result.rows is None and result.pending
    # As rsync would, from another machine.
    for part in (tmp_path / "two").glob("part-*"):
        part.rename(tmp_path / "one" / part.name)
    result = embed_files(corpus, tmp_path / "one", folder, "body", id_column="id", **SMALL)
    assert (result.rows, result.computed) == (40, 0)
    assert read(tmp_path / "one")["id"].to_pylist() == list(range(40))


@pytest.mark.parametrize("shard", ["0/3", "4/3", "1", "a/b", "1/3/4", "-1/3", ""])
def test_a_shard_of_another_form_is_refused(shard: str) -> None:
    with pytest.raises(InputError, match="expected 'i/n' with i from 1 to n"):
        shard_of([], shard)


def test_files_that_were_added_are_computed_behind_the_others(corpus: Path, folder: Path, tmp_path: Path) -> None:
    (corpus / "a.parquet").rename(tmp_path / "a.parquet")
    first = embed_files(corpus, tmp_path / "out", folder, "body", id_column="id", **SMALL)
    (tmp_path / "a.parquet").rename(corpus / "a.parquet")
    # Copies have other times.
    os.utime(corpus / "d.jsonl", (5, 5))
    second = embed_files(corpus, tmp_path / "out", folder, "body", id_column="id", **SMALL)
    assert (first.rows, second.rows, second.computed) == (28, 40, second.units - first.units)
    assert read(tmp_path / "out")["id"].to_pylist() == [*range(12, 40), *range(12)]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"prompt": "the "}, "prompt was None and is 'the '"),
        ({"quantization_config": "q8"}, "quantization_config was None and is 'q8'"),
        ({"rows_per_unit": 8}, "rows_per_unit was 7 and is 8"),
        ({"keep_columns": ["body"]}, r"carried was \['id'\] and is \['id', 'body'\]"),
    ],
)
def test_other_settings_do_not_continue_the_work(
    change: dict[str, Any], told: str, corpus: Path, folder: Path, tmp_path: Path
) -> None:
    options: Any = {"id_column": "id", **SMALL}
    embed_files(corpus, tmp_path / "out", folder, "body", shard="1/9", **options)
    with pytest.raises(InputError, match=f"earlier run with other settings: {told}"):
        embed_files(corpus, tmp_path / "out", folder, "body", **options | change)


def test_other_files_do_not_continue_the_work(corpus: Path, folder: Path, tmp_path: Path) -> None:
    embed_files(corpus, tmp_path / "out", folder, "body", shard="1/9", **SMALL)
    write_lines(corpus / "d.jsonl", 25, 34)
    (corpus / "a.parquet").unlink()
    with pytest.raises(InputError, match=r"some differ: 1 missing \(a.parquet\), 1 changed \(d.jsonl\)"):
        embed_files(corpus, tmp_path / "out", folder, "body", **SMALL)
    assert embed_files(corpus, tmp_path / "out", folder, "body", restart=True, **SMALL).rows == 27


def test_another_model_does_not_continue_the_work(corpus: Path, folder: Path, tmp_path: Path) -> None:
    embed_files(corpus, tmp_path / "out", folder, "body", shard="1/9", **SMALL)
    make_checkpoint(tmp_path / "other", seed=1)
    with pytest.raises(InputError, match="holds results of another model"):
        embed_files(corpus, tmp_path / "out", tmp_path / "other", "body", **SMALL)


def test_a_part_of_another_job_is_found_at_the_end(corpus: Path, folder: Path, tmp_path: Path) -> None:
    embed_files(corpus, tmp_path / "out", folder, "body", shard="1/9", **SMALL)
    (tmp_path / "out" / "part-000000.parquet").rename(tmp_path / "out" / "part-000001.parquet")
    with pytest.raises(RepositoryError, match=r"part-000001.parquet is not of this job. Remove it, and run again"):
        embed_files(corpus, tmp_path / "out", folder, "body", **SMALL)
    (tmp_path / "out" / "part-000001.parquet").write_bytes(b"")
    with pytest.raises(RepositoryError, match=r"part-000001.parquet cannot be read .* Remove it, and run again"):
        embed_files(corpus, tmp_path / "out", folder, "body", **SMALL)
    (tmp_path / "out" / "part-000001.parquet").unlink()
    assert embed_files(corpus, tmp_path / "out", folder, "body", **SMALL).rows == 40


# Paths that no file system has: too long, with NUL, and not UTF-8.
IMPOSSIBLE = [(name, "cannot be a file") for name in ("x" * 5000, "a\0b", "a\ud800", ["a\udcff.csv"])]


@pytest.mark.parametrize(
    ("inputs", "told"),
    [
        ("none", "has no files to read. Give a file"),
        ("a.txt", "is in no known format"),
        ([], "got no files"),
        *IMPOSSIBLE,
    ],
)
def test_inputs_without_files_are_refused(inputs: Any, told: str, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    given = tmp_path / inputs if isinstance(inputs, str) else inputs
    with pytest.raises(InputError, match=told):
        embed_files(given, tmp_path / "out", folder)


def test_outputs_do_not_go_where_other_files_are(corpus: Path, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot go into the folder of the corpus"):
        embed_files(corpus, corpus, folder, "body")
    with pytest.raises(RepositoryError, match=r"has files but no _job.json. Give an empty or new folder"):
        embed_files(corpus, tmp_path, folder, "body") if (tmp_path / "x").write_text("") == 0 else None
    with pytest.raises(InputError, match="the results have a column 'embedding' of their own"):
        embed_files(corpus, tmp_path / "out", folder, "body", id_column="embedding")


def test_a_missing_pyarrow_is_an_error_that_names_the_extra(
    corpus: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.fs", None)
    with pytest.raises(BackendError, match=r"needs pyarrow, which is not installed .*'mlx-hf-bridge\[parquet\]'"):
        embed_files(corpus, tmp_path / "out", folder)


def test_pairs_are_scored_as_by_predict(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "model", head="ForSequenceClassification")
    pairs = list(zip(TEXTS[:9], TEXTS[9:18], strict=True))
    pq.write_table(pa.table({"query": TEXTS[:9], "text": TEXTS[9:18]}), tmp_path / "pairs.parquet")
    assert rerank_files(tmp_path / "pairs.parquet", tmp_path / "out", tmp_path / "model", chunk_size=4).rows == 9
    scores = np.stack(read(tmp_path / "out")["score"].to_numpy())
    assert np.abs(scores - MLXCrossEncoder(str(tmp_path / "model")).predict(pairs)).max() < TOLERANCE


def test_labels_are_those_of_the_pipeline(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "model", head="ForSequenceClassification")
    pq.write_table(pa.table({"text": TEXTS[:9]}), tmp_path / "texts.parquet")
    assert classify_files(tmp_path / "texts.parquet", tmp_path / "out", tmp_path / "model", chunk_size=4).rows == 9
    found = read(tmp_path / "out")
    expected = pipeline("text-classification", model=tmp_path / "model")(TEXTS[:9], top_k=None)
    assert found["label"].to_pylist() == [row[0]["label"] for row in expected]
    assert [[one["label"] for one in row] for row in found["labels"].to_pylist()] == [
        [one["label"] for one in row] for row in expected
    ]
    assert np.abs(found["score"].to_numpy() - [row[0]["score"] for row in expected]).max() < TOLERANCE


def test_the_command_embeds_shards_and_says_what_is_left(
    corpus: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["embed", str(corpus), str(tmp_path / "out"), "-m", str(folder), "--text-column", "body", "--normalize"]
    words += ["--id-column", "id", "--rows-per-unit", "7"]
    assert main([*words, "--shard", "1/2"]) == 0
    assert "4 of 8 units are in " in capsys.readouterr().out
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["rows"], found["quarantined"], found["computed"]) == (40, 0, 4)
    given: Any = {"id_column": "id", "rows_per_unit": 7, "batch_size": 32, "normalize_embeddings": True}
    assert embed_files(corpus, tmp_path / "out", folder, "body", **given).computed == 0
    assert main([*words, "--restart", "--shard", "3/2"]) == 1
    assert "shard='3/2', expected 'i/n'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*words, "--ray", "auto", "--workers", "2"])
    assert "--ray divides the work itself" in capsys.readouterr().err


KILLED = """
import sys
from pathlib import Path
from failing_task import failing
from mlx_hf_bridge.corpora.api import run_job
if __name__ == "__main__":
    corpus, folder, tmp_path = map(Path, sys.argv[1:4])
    run_job(failing(corpus, folder, tmp_path, sys.argv[4], 17), workers=int(sys.argv[5]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("victim", "workers", "survives"), [("self", 1, False), ("self", 2, True), ("parent", 2, False)]
)
def test_whatever_is_killed_nothing_is_lost_and_nothing_is_there_twice(
    victim: str, workers: int, survives: bool, corpus: Path, folder: Path, tmp_path: Path
) -> None:
    """A worker of two is replaced; after the death of the process that started them, another run continues."""
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    program = f"import runpy, sys; sys.argv[0] = {str(script)!r}; runpy.run_path(sys.argv[0], run_name='__main__')"
    run = wait_for(start_python(program, corpus, folder, tmp_path, victim, workers, PYTHONPATH=path))
    assert (tmp_path / "marker").exists(), run
    assert run[0] == (0 if survives else -signal.SIGKILL), run
    result = embed_files(corpus, tmp_path / "out", folder, "body", id_column="id", **SMALL)
    assert (result.rows, result.computed == 0) == (40, survives)
    assert read(tmp_path / "out")["id"].to_pylist() == list(range(40))
    embed_files(corpus, tmp_path / "whole", folder, "body", id_column="id", **SMALL)
    assert np.abs(vectors(tmp_path / "out") - vectors(tmp_path / "whole")).max() < TOLERANCE
    assert not list((tmp_path / "out").glob(".*"))


@pytest.mark.slow
def test_a_text_that_always_kills_its_worker_ends_the_run(corpus: Path, folder: Path, tmp_path: Path) -> None:
    opened = failing(corpus, folder, tmp_path, "always")
    with pytest.raises(WorkerError, match="worker processes died 3 times"):
        run_job(opened, workers=2)
