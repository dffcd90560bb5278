"""Tests of encoding a stream of texts into a file of embeddings that survives crashes."""

import itertools
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from checkpoints import make_checkpoint
from subprocesses import run_python

from mlx_hf_bridge import MLXSentenceTransformer
from mlx_hf_bridge.cli import main
from mlx_hf_bridge.errors import BackendError, InputError, OverlongTextError, RepositoryError
from mlx_hf_bridge.layers import linear, small_batch

WORDS = ("the cat", "a dog", "sat on", "this example", "is good", "market rose", "sport")
OPTIONS = {"batch_size": 2, "chunk_size": 7, "normalize_embeddings": True}


def texts(count: int) -> Iterator[str]:
    """Return an iterator over short texts of 0 to 6 words."""
    return (" ".join(itertools.islice(itertools.cycle(WORDS), n % 5, n % 5 + n % 7)) for n in range(count))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    make_checkpoint(path)
    return path


@pytest.fixture
def model(folder: Path) -> MLXSentenceTransformer:
    return MLXSentenceTransformer(str(folder))


def test_a_stream_has_the_vectors_of_encode_a_chunk_at_a_time(model: MLXSentenceTransformer) -> None:
    parts = list(model.encode_stream(texts(17), **OPTIONS))
    assert [len(part) for part in parts] == [7, 7, 3]
    whole = model.encode(list(texts(17)), normalize_embeddings=True)
    assert np.abs(np.concatenate(parts) - whole).max() < 2e-6


def test_a_stream_reads_no_further_than_the_chunk_that_is_asked_for(model: MLXSentenceTransformer) -> None:
    read: list[str] = []
    stream = model.encode_stream((read.append(text) or text for text in texts(100)), **OPTIONS)
    assert not read
    next(stream)
    assert len(read) == 7


@pytest.mark.parametrize("given", ["one text", 5, {"a": "b"}, None])
def test_what_is_no_iterable_of_texts_is_refused_before_the_first_chunk(
    given: object, model: MLXSentenceTransformer
) -> None:
    with pytest.raises(InputError, match=f"got a {type(given).__name__} to stream, expected an iterable of texts"):
        model.encode_stream(given)  # type: ignore[arg-type]


def test_a_precision_that_needs_all_vectors_is_refused(model: MLXSentenceTransformer) -> None:
    with pytest.raises(InputError, match="'int8' is scaled to the range of all embeddings, which a stream"):
        model.encode_stream(["a"], precision="int8")
    binary = np.concatenate(list(model.encode_stream(texts(9), precision="ubinary", chunk_size=4)))
    assert np.array_equal(binary, model.encode(list(texts(9)), precision="ubinary"))


def saved(array: np.ndarray, path: Path) -> bytes:
    """Save the array with numpy.save and return the bytes of the file."""
    np.save(path, array)
    return path.read_bytes()


@pytest.mark.parametrize("count", [0, 1, 7, 17])
def test_a_file_is_what_numpy_would_save_and_nothing_is_left_beside_it(
    count: int, model: MLXSentenceTransformer, tmp_path: Path
) -> None:
    path = model.encode_to_file(texts(count), tmp_path / "vectors.npy", **OPTIONS)
    expected = [np.zeros((0, 24), np.float32), *model.encode_stream(texts(count), **OPTIONS)]
    assert path.read_bytes() == saved(np.concatenate(expected), tmp_path / "expected.npy")
    assert {file.name for file in tmp_path.iterdir()} == {"vectors.npy", "expected.npy"}
    assert np.load(path, mmap_mode="r").shape == (count, 24) or not count


def broken_off(model: MLXSentenceTransformer, path: Path, after: int) -> None:
    """Interrupt encode_to_file after some texts and assert that the output file does not exist."""

    def stopping() -> Iterator[str]:
        yield from itertools.islice(texts(40), after)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.encode_to_file(stopping(), path, **OPTIONS)
    assert not path.exists()


@pytest.mark.parametrize("after", [0, 5, 7, 20, 39])
def test_work_that_was_broken_off_continues_byte_for_byte(
    after: int, model: MLXSentenceTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = model.encode_to_file(texts(40), tmp_path / "whole.npy", **OPTIONS).read_bytes()
    broken_off(model, tmp_path / "vectors.npy", after)
    encoded = []
    encode = model.encode
    monkeypatch.setattr(
        model, "encode", lambda given, **options: encoded.append(len(given)) or encode(given, **options)
    )
    path = model.encode_to_file(texts(40), tmp_path / "vectors.npy", **OPTIONS)
    assert path.read_bytes() == whole
    assert sum(encoded[1:]) == 40 - after // 7 * 7, "encoded again what was done"
    assert {file.name for file in tmp_path.iterdir()} == {"vectors.npy", "whole.npy"}


def test_what_a_crash_wrote_behind_the_record_is_cut_off(model: MLXSentenceTransformer, tmp_path: Path) -> None:
    path = tmp_path / "vectors.npy"
    broken_off(model, path, 20)
    with (tmp_path / "vectors.npy.partial" / "vectors.npy").open("ab") as file:
        file.write(b"half a row")
    whole = np.concatenate(list(model.encode_stream(texts(40), **OPTIONS)))
    assert np.array_equal(np.load(model.encode_to_file(texts(40), path, **OPTIONS)), whole)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"normalize_embeddings": False}, "normalize_embeddings was True and is False"),
        ({"batch_size": 3}, "batch_size was 2 and is 3"),
        ({"chunk_size": 8}, "chunk_size was 7 and is 8"),
        ({"truncate_dim": 5}, "truncate_dim was None and is 5; width was 24 and is 5"),
        ({"precision": "binary"}, "precision was 'float32' and is 'binary'"),
        ({"prompt": "the "}, "prompt was None and is 'the '"),
    ],
)
def test_other_settings_do_not_continue_the_work(
    change: dict[str, object], told: str, model: MLXSentenceTransformer, tmp_path: Path
) -> None:
    path = tmp_path / "vectors.npy"
    broken_off(model, path, 20)
    with pytest.raises(InputError, match="holds 14 embeddings of an earlier run with other settings: ") as error:
        model.encode_to_file(texts(40), path, **{**OPTIONS, **change})
    assert told in str(error.value)
    assert np.load(model.encode_to_file(texts(40), path, **{**OPTIONS, **change}, restart=True)).shape[0] == 40


def test_another_model_does_not_continue_the_work(
    model: MLXSentenceTransformer, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    broken_off(model, tmp_path / "vectors.npy", 20)
    other = tmp_path_factory.mktemp("other")
    make_checkpoint(other, seed=1)
    with pytest.raises(InputError, match=r"of an earlier run with another model, whose embeddings .* differ by up to"):
        MLXSentenceTransformer(str(other)).encode_to_file(texts(40), tmp_path / "vectors.npy", **OPTIONS)


def test_what_was_asked_before_changes_no_byte(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A text that is encoded alone uses packed tiles, which round differently; texts of a corpus never do."""
    monkeypatch.setattr(small_batch, "SMALL_BATCH_ROWS", 16)
    monkeypatch.setattr(small_batch, "WIDTH", 8)
    monkeypatch.setattr(linear, "SMALL_BATCH_ROWS", 16)
    matmul = small_batch.PackedTiles.matmul

    def differently(self: Any, x: mx.array, weight: mx.array) -> mx.array | None:
        result = matmul(self, x, weight)
        return None if result is None else result * 1.01

    monkeypatch.setattr(small_batch.PackedTiles, "matmul", differently)
    asked, fresh = (MLXSentenceTransformer(str(folder)) for _ in range(2))
    answers = [asked.encode("news") for _ in range(7)]
    for answer in answers[1:]:
        np.testing.assert_array_equal(answer, answers[0])
    assert not np.array_equal(answers[0], next(asked.encode_stream(["news"]))[0])
    options = {**OPTIONS, "chunk_size": 1}
    with pytest.raises(KeyError):
        asked.encode_to_file(broken_texts(10), tmp_path / "resumed.npy", **options)
    fresh.encode_to_file(texts(20), tmp_path / "resumed.npy", **options)
    asked.encode_to_file(texts(20), tmp_path / "asked.npy", **options)
    MLXSentenceTransformer(str(folder)).encode_to_file(texts(20), tmp_path / "whole.npy", **options)
    whole = (tmp_path / "whole.npy").read_bytes()
    assert (tmp_path / "resumed.npy").read_bytes() == (tmp_path / "asked.npy").read_bytes() == whole
    np.testing.assert_array_equal(
        np.concatenate(list(asked.encode_stream(texts(20), **options))), np.load(tmp_path / "whole.npy")
    )


def test_a_full_disk_says_so_and_the_work_continues(
    model: MLXSentenceTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = itertools.count()

    def full(file: Any) -> None:
        if next(calls) == 4:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("mlx_hf_bridge.sentence_transformers.encoding.corpus_file.os.fsync", full)
    with pytest.raises(RepositoryError, match=r"vectors\.npy\.partial cannot be written .*No space left.* run again"):
        model.encode_to_file(texts(20), tmp_path / "vectors.npy", **OPTIONS)
    monkeypatch.undo()
    whole = model.encode_to_file(texts(20), tmp_path / "whole.npy", **OPTIONS).read_bytes()
    assert model.encode_to_file(texts(20), tmp_path / "vectors.npy", **OPTIONS).read_bytes() == whole


def broken_texts(count: int) -> Iterator[str]:
    """Return texts that end in an error."""
    yield from texts(count)
    raise KeyError("broken off")


def test_another_rounding_continues_the_work(model: MLXSentenceTransformer, tmp_path: Path) -> None:
    """As of another processor or number of threads."""
    broken_off(model, tmp_path / "vectors.npy", 20)
    progress = tmp_path / "vectors.npy.partial" / "progress.json"
    content = json.loads(progress.read_text())
    content["probe"][0][0] += 2e-7
    progress.write_text(json.dumps(content))
    assert len(np.load(model.encode_to_file(texts(40), tmp_path / "vectors.npy", **OPTIONS))) == 40


def test_other_texts_do_not_continue_the_work(model: MLXSentenceTransformer, tmp_path: Path) -> None:
    path = tmp_path / "vectors.npy"
    broken_off(model, path, 20)
    with pytest.raises(InputError, match="of the first 14 texts of an earlier run, but now the texts are different"):
        model.encode_to_file(["x", *texts(39)], path, **OPTIONS)
    with pytest.raises(InputError, match="of the first 14 texts of an earlier run, but now there are 9 texts"):
        model.encode_to_file(texts(9), path, **OPTIONS)
    assert len(np.load(model.encode_to_file(texts(40), path, **OPTIONS))) == 40


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 9, "settings": {}}'])
def test_a_record_that_cannot_be_read_is_a_clear_error(
    content: str, model: MLXSentenceTransformer, tmp_path: Path
) -> None:
    broken_off(model, tmp_path / "vectors.npy", 20)
    (tmp_path / "vectors.npy.partial" / "progress.json").write_text(content)
    with pytest.raises(RepositoryError, match=r"progress.json .*Restart\."):
        model.encode_to_file(texts(40), tmp_path / "vectors.npy", **OPTIONS)


def test_a_restart_forgets_the_record_before_the_first_chunk(model: MLXSentenceTransformer, tmp_path: Path) -> None:
    path, record = tmp_path / "vectors.npy", tmp_path / "vectors.npy.partial" / "progress.json"
    broken_off(model, path, 20)
    seen = []
    others = (seen.append(record.exists()) or text for text in ["x", *texts(39)])
    model.encode_to_file(others, path, restart=True, **OPTIONS)
    assert seen[:7] == [False] * 7


def test_vectors_that_were_lost_are_a_clear_error(model: MLXSentenceTransformer, tmp_path: Path) -> None:
    broken_off(model, tmp_path / "vectors.npy", 20)
    with (tmp_path / "vectors.npy.partial" / "vectors.npy").open("rb+") as file:
        file.truncate(200)
    with pytest.raises(RepositoryError, match=r"vectors.npy is shorter than progress.json next to it says. Restart\."):
        model.encode_to_file(texts(40), tmp_path / "vectors.npy", **OPTIONS)


def test_two_at_once_are_refused(model: MLXSentenceTransformer, tmp_path: Path) -> None:
    def meanwhile() -> Iterator[str]:
        yield from texts(10)
        with pytest.raises(RepositoryError, match="is in use by another process"):
            model.encode_to_file(texts(3), tmp_path / "vectors.npy", **OPTIONS)

    assert len(np.load(model.encode_to_file(meanwhile(), tmp_path / "vectors.npy", **OPTIONS))) == 10


@pytest.mark.parametrize(
    ("path", "error", "told"),
    [
        ("vectors.txt", InputError, "ends in '.txt', expected .npy or .parquet"),
        ("vectors", InputError, "ends in '', expected .npy or .parquet"),
        ("none/vectors.npy", RepositoryError, "is in a folder that does not exist. Give another path"),
        ("folder.npy", RepositoryError, "is a folder. Give another path"),
    ],
)
def test_a_path_that_cannot_be_written_is_refused_at_once(
    path: str, error: type[Exception], told: str, model: MLXSentenceTransformer, tmp_path: Path
) -> None:
    (tmp_path / "folder.npy").mkdir()
    with pytest.raises(error, match=told):
        model.encode_to_file(texts(3), tmp_path / path)
    assert [file.name for file in tmp_path.iterdir()] == ["folder.npy"]


def test_a_bad_text_leaves_the_good_chunks_to_continue_from(model: MLXSentenceTransformer, tmp_path: Path) -> None:
    bad = [*texts(10), 5]
    with pytest.raises(InputError, match="item 3 to encode is a int"):
        model.encode_to_file(bad, tmp_path / "vectors.npy", **OPTIONS)
    with pytest.raises(OverlongTextError):
        model.encode_to_file(
            [*texts(7), "the " * 99], tmp_path / "vectors.npy", overlong="error", restart=True, **OPTIONS
        )
    assert (tmp_path / "vectors.npy.partial").is_dir()
    with pytest.raises(InputError, match="item 0 to encode is a int"):
        model.encode_to_file([5], tmp_path / "other.npy", **OPTIONS)
    assert not (tmp_path / "other.npy.partial").exists(), "nothing was done, and something was left"


KILLED = """
import sys
from mlx_hf_bridge import MLXSentenceTransformer
def slowly():
    for number in range(600):
        if number == 400:
            print("there", flush=True)
            sys.stdin.read()
        yield "the cat " * (number % 11)
MLXSentenceTransformer(sys.argv[1]).encode_to_file(slowly(), sys.argv[2], chunk_size=50)
"""


@pytest.mark.slow
def test_a_killed_process_leaves_what_another_one_finishes(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "vectors.npy"
    command = [sys.executable, "-c", KILLED, str(folder), str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "there\n"
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not path.exists() and (tmp_path / "vectors.npy.partial").is_dir()
    model = MLXSentenceTransformer(str(folder))
    same = ["the cat " * (number % 11) for number in range(600)]
    model.encode_to_file(same, path, chunk_size=50)
    whole = model.encode_to_file(same, tmp_path / "whole.npy", chunk_size=50)
    assert path.read_bytes() == whole.read_bytes()


PEAK = """
import sys, resource
from mlx_hf_bridge import MLXSentenceTransformer
words = "the cat sat on a mat".split()
texts = (" ".join(words[n % 5 :]) for n in range(int(sys.argv[3])))
MLXSentenceTransformer(sys.argv[1]).encode_to_file(texts, sys.argv[2], chunk_size=100)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no getrusage")
def test_memory_does_not_grow_with_the_corpus(folder: Path, tmp_path: Path) -> None:
    few, many = (int(run_python(PEAK, folder, tmp_path / "v.npy", count)) for count in (500, 8_000))
    assert many < 1.1 * few


@pytest.mark.integrations
def test_parquet_has_the_vectors_of_the_npy_file(model: MLXSentenceTransformer, tmp_path: Path) -> None:
    parquet = import_module("pyarrow.parquet")
    path = model.encode_to_file(texts(17), tmp_path / "vectors.parquet", **OPTIONS)
    column = parquet.read_table(path)["embedding"]
    whole = np.concatenate(list(model.encode_stream(texts(17), **OPTIONS)))
    assert np.array_equal(np.stack(column.to_pylist()).astype(np.float32), whole)
    assert [file.name for file in tmp_path.iterdir()] == ["vectors.parquet"]


def test_parquet_without_pyarrow_is_an_error_before_the_work(
    model: MLXSentenceTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(BackendError, match="Parquet files are written by pyarrow, which is not installed"):
        model.encode_to_file(texts(3), tmp_path / "vectors.parquet")
    assert not list(tmp_path.iterdir())


def test_the_command_goes_on_where_it_was_broken_off(
    model: MLXSentenceTransformer, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ["the cat " * (1 + number % 9) + "sat" for number in range(2100)]
    (tmp_path / "texts.txt").write_text("\n".join(lines), encoding="utf-8")
    path = tmp_path / "vectors.npy"
    command = ["encode", str(folder), "--file", str(tmp_path / "texts.txt"), "--output", str(path)]
    broken = (line if number < 2050 else 5 for number, line in enumerate(lines))
    with pytest.raises(InputError, match="item 2 to encode is a int"):
        model.encode_to_file(broken, path, prompt_name=None, batch_size=32)
    assert main([*command, "--normalize"]) == 1
    assert "normalize_embeddings was False and is True. Use the same settings, or restart." in capsys.readouterr().err
    assert main([*command, "--json"]) == 0
    assert f'"texts": {len(lines)}' in capsys.readouterr().out
    assert np.array_equal(np.load(path), np.concatenate(list(model.encode_stream(lines))))
    assert main([*command, "--normalize", "--restart"]) == 0
    assert np.allclose(np.linalg.norm(np.load(path), axis=1), 1)
