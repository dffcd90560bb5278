"""Tests of the cache where paths, disks and files do not behave: one clear error, or another conversion."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import transformers
from checkpoints import FAMILIES, make_checkpoint, ragged_inputs
from filelock import FileLock
from weight_files import output_array

import mlx_hf_bridge
from mlx_hf_bridge import MLXAutoModel, MLXSentenceTransformer
from mlx_hf_bridge.conversion.api import convert
from mlx_hf_bridge.conversion.integrity import find_damage, is_complete, write_metadata
from mlx_hf_bridge.errors import CheckpointError, RepositoryError
from mlx_hf_bridge.quantization.resume_store import ResumeStore
from mlx_hf_bridge.runtime import atomic_folder, blas, executor
from mlx_hf_bridge.runtime.atomic_folder import write_atomically

BERT = FAMILIES[0]
INPUTS = ragged_inputs(BERT)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of one checkpoint that all tests here convert."""
    folder = tmp_path_factory.mktemp("source") / "model"
    make_checkpoint(folder)
    return folder


def hidden(model: Any) -> np.ndarray:
    """Return the hidden states of a model for INPUTS."""
    return output_array(model, INPUTS, "last_hidden_state")


NAMES = [
    "with space",
    "ünïcödé 日本",
    "😀" * 40,
    "𠀀" * 60,
    "x" * 200,
    "new\nline",
    "100%s {x} [y]*?",
    "-dash",
    "q'uo\"te",
]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_odd_names_are_names(name: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLX_HF_BRIDGE_CACHE", str(tmp_path / "caches" / name))
    shutil.copytree(source, tmp_path / name)
    model = MLXAutoModel.from_pretrained(tmp_path / name)
    assert model.folder.parent == tmp_path / "caches" / name / "converted"
    assert MLXAutoModel.from_pretrained(tmp_path / name).folder == model.folder


def test_a_relative_cache_and_one_at_the_end_of_a_link_stay_where_they_are(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLX_HF_BRIDGE_CACHE", "link")
    folder = MLXAutoModel.from_pretrained(source).folder
    assert folder.parent == tmp_path / "real" / "converted"
    monkeypatch.setenv("MLX_HF_BRIDGE_CACHE", "real/../real")
    assert MLXAutoModel.from_pretrained(source).folder == folder


PLACES = {
    "a file": "file",
    "below a file": "file/below",
    "a device": "/dev/null",
    "where nothing can be": "/proc/cache",
    "a name too long": "y" * 300,
    "a path too long": "/".join(["d" * 250] * 17),
    "links in a circle": "loop",
    "not UTF-8": os.fsdecode(b"caf\xe9"),
    "no such user": "~no-such-user/cache",
}


@pytest.mark.parametrize("place", PLACES)
def test_a_cache_that_cannot_be_is_one_short_error(
    place: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLX_HF_BRIDGE_CACHE", PLACES[place])
    with pytest.raises(RepositoryError, match=r"Set MLX_HF_BRIDGE_CACHE|Rename the folder") as error:
        MLXAutoModel.from_pretrained(source)
    assert len(str(error.value)) < 1000
    str(error.value).encode()


def test_without_a_home_folder_the_cache_must_be_named(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(path: str) -> str:
        return path

    for name in ("MLX_HF_BRIDGE_CACHE", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    # As for a user id without an entry, in a container.
    monkeypatch.setattr(os.path, "expanduser", unknown)
    with pytest.raises(RepositoryError, match=r"no home folder for that\. Set MLX_HF_BRIDGE_CACHE"):
        MLXAutoModel.from_pretrained(source)
    # Costs speed only: importing the package must not fail.
    assert blas._plain_named_copy(source / "config.json") is None
    monkeypatch.setenv("MLX_HF_BRIDGE_CACHE", str(tmp_path / "cache"))
    MLXAutoModel.from_pretrained(source)


def test_a_model_at_a_path_that_is_not_utf8_is_named_before_anything_is_read(source: Path, tmp_path: Path) -> None:
    place = tmp_path / os.fsdecode(b"caf\xe9")
    shutil.copytree(source, place)
    with pytest.raises(RepositoryError, match=r"caf\\udce9' is not valid UTF-8.* Rename the folder"):
        MLXAutoModel.from_pretrained(place)
    with pytest.raises(RepositoryError, match="is not valid UTF-8"):
        convert(source, tmp_path / os.fsdecode(b"\xff"), show_progress=False)


def test_a_source_that_cannot_be_read_is_not_called_a_folder_that_cannot_be_written(
    source: Path, tmp_path: Path
) -> None:
    def create(folder: Path) -> None:
        raise PermissionError(13, "Permission denied", str(tmp_path / "model" / "model.safetensors"))

    with pytest.raises(PermissionError):
        write_atomically(tmp_path / "result", create)


def test_a_file_that_is_not_of_the_conversion_makes_it_again(source: Path) -> None:
    first = MLXAutoModel.from_pretrained(source)
    expected = hidden(first)
    for name, content in (("tokenizer_config.json", '{"tokenizer_class": "X"}'), ("1_Pooling/config.json", "{}")):
        (first.folder / name).parent.mkdir(exist_ok=True)
        before = (first.folder / name).read_bytes() if (first.folder / name).exists() else None
        (first.folder / name).write_text(content)
        again = MLXAutoModel.from_pretrained(source)
        np.testing.assert_array_equal(hidden(again), expected)
        assert (first.folder / name).exists() == (before is not None)
    # Not read by any model.
    for name in (".DS_Store", "verification.json", "README.md"):
        (first.folder / name).write_text("x")
        assert MLXAutoModel.from_pretrained(source).folder == first.folder
        assert (first.folder / name).exists()


def test_metadata_that_changed_by_a_word_makes_it_again(source: Path) -> None:
    folder = MLXAutoModel.from_pretrained(source).folder
    path = folder / "conversion_metadata.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "left_out": ["pooler.dense.weight"]}))
    assert [str(damage) for damage in find_damage(folder)] == ["conversion_metadata.json has changed"]
    MLXAutoModel.from_pretrained(source)
    assert json.loads(path.read_text()) == content


def test_a_weight_that_changed_between_samples_is_found_by_reading_every_byte(tmp_path: Path) -> None:
    large = tmp_path / "model.safetensors"
    large.write_bytes(bytes(3 * 2**20))
    atomic_folder.write_atomically(tmp_path / "folder", lambda new: shutil.copy(large, new))
    folder = tmp_path / "folder"
    write_metadata(folder, {}, [folder / large.name])
    with (folder / large.name).open("r+b") as file:
        file.seek(2**17)
        file.write(b"x")
    assert is_complete(folder)
    assert [str(damage) for damage in find_damage(folder, every_byte=True)] == [
        "model.safetensors has changed where loading does not look"
    ]


def test_names_in_metadata_stay_in_the_folder_and_name_plain_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "conversion_metadata.json").write_text(json.dumps({"files": {"pipe": 0, "../x": 1, "/dev/zero": 0}}))
    found = [str(damage) for damage in find_damage(tmp_path)]
    assert found[0] == "pipe is missing"
    assert all("outside the folder" in damage for damage in found[1:])
    assert len(found) == 3


def test_a_saved_model_is_complete(source: Path, tmp_path: Path) -> None:
    """Its metadata listed the digests of the folder that it was loaded from."""
    for dtype, options in (("float16", {}), ("float32", {"max_shard_size": "20KB"})):
        model = MLXAutoModel.from_pretrained(source, dtype=dtype)
        model.save_pretrained(tmp_path / dtype, **options)
        assert list(find_damage(tmp_path / dtype, every_byte=True)) == []


def test_a_conversion_killed_between_its_two_renames_is_finished(source: Path, tmp_path: Path) -> None:
    """By the next one next to it."""
    scratch = tmp_path / ".result-x1.scratch"
    for name in ("replaced", "result"):
        (scratch / name).mkdir(parents=True)
        (scratch / name / "which").write_text(name)
    (scratch / "lock").touch()
    write_atomically(tmp_path / "other", lambda new: None)
    assert (tmp_path / "result" / "which").read_text() == "result"
    assert not scratch.exists()


def test_the_steps_of_a_calibration_are_kept_only_if_they_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """They save time after an interruption; a full disk or a damaged file must not stop a conversion."""
    store = ResumeStore(tmp_path / "steps")
    store.save("layer.0", {"weight": mx.arange(4)})
    assert mx.array_equal((store.load("layer.0") or {})["weight"], mx.arange(4))
    file = tmp_path / "steps" / "layer.0.safetensors"
    for place in (-1, 9, 0):
        content = bytearray(file.read_bytes())
        content[place] ^= 1
        file.write_bytes(content)
        assert store.load("layer.0") is None
        store.save("layer.0", {"weight": mx.arange(4)})
    os.truncate(file, 20)
    assert store.load("layer.0") is None
    (tmp_path / "file").touch()
    ResumeStore(tmp_path / "file" / "steps").save("layer.0", {"weight": mx.arange(4)})
    assert "cannot be kept" in caplog.text


@pytest.mark.parametrize("place", ["file", "below a file", "no such user"])
def test_zero_change_mode_without_a_cache_runs_on_torch_with_one_warning(
    place: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLX_HF_BRIDGE_CACHE", PLACES.get(place, place))
    mlx_hf_bridge.install()
    try:
        model = transformers.AutoModel.from_pretrained(source)
    finally:
        mlx_hf_bridge.uninstall()
    assert type(model) is transformers.BertModel
    (warning,) = (record.getMessage() for record in caplog.records if record.name.startswith("mlx_hf_bridge"))
    assert "falls back to torch" in warning
    assert "MLX_HF_BRIDGE_CACHE" in warning


@pytest.mark.parametrize("kind", [MLXAutoModel.from_pretrained, MLXSentenceTransformer])
def test_a_converted_folder_that_is_cut_while_it_is_read_is_an_error(
    kind: Any, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its header was checked before, and MLX reads a tensor when it is computed."""
    convert(source, tmp_path / "model", quantization_config=None, show_progress=False)
    real = mx.load

    def cut(path: str) -> Any:
        arrays = real(path)
        os.truncate(path, 2000)
        return arrays

    monkeypatch.setattr(mx, "load", cut)
    with pytest.raises(CheckpointError, match=r"a file of .*/model was cut while it was read"):
        kind(tmp_path / "model")


def test_errors_of_one_model_do_not_reach_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLX raises one error of several, and keeps the others for later evaluations."""
    pending = [RuntimeError("[read] Unable to read from file.")] * 3

    def wait() -> None:
        if pending:
            raise pending.pop()

    def work() -> None:
        raise RuntimeError("[read] the first")

    monkeypatch.setattr(executor, "synchronize", wait)
    with pytest.raises(RuntimeError, match="the first"):
        executor.run(work)
    assert not pending


WRITES = {
    # MLX's error names no file, and tokenizers raises no other class.
    "weights": (mx, "save_safetensors", RuntimeError("[write] Unable to write 99 bytes to file.")),
    "a copy": (shutil, "copyfile", OSError(28, "No space left on device")),
    "a file": (Path, "write_text", OSError(28, "No space left on device")),
    "a tokenizer": (Path, "write_text", Exception("No space left on device (os error 28)")),
}


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        (MLXAutoModel.from_pretrained, "weights"),
        (MLXAutoModel.from_pretrained, "a file"),
        (MLXSentenceTransformer, "a copy"),
        (MLXSentenceTransformer, "a tokenizer"),
    ],
)
def test_a_save_onto_a_full_disk_names_the_folder_and_changes_nothing(
    kind: Any, what: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def files() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    model = kind(source)
    model.save_pretrained(str(tmp_path / "there"))
    before = files()
    place, name, error = WRITES[what]

    def fail(*arguments: Any, **options: Any) -> None:
        if what == "a copy":
            error.filename, error.filename2 = arguments
        raise error

    monkeypatch.setattr(place, name, fail)
    options = {"max_shard_size": "20KB"} if what == "weights" else {}
    for target in ("there", "new"):
        with pytest.raises(RepositoryError, match=rf"{tmp_path} cannot be written \(.*Give a folder on a disk"):
            model.save_pretrained(str(tmp_path / target), **options)
    assert files() == before
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_what_a_killed_process_left_of_its_blas_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLX_HF_BRIDGE_CACHE", str(tmp_path))
    monkeypatch.setattr(blas, "_patchelf", lambda: "patchelf")
    made: list[Path] = []

    def patchelf(command: list[str], **_: Any) -> None:
        made.append(Path(command[command.index("--output") + 1]))
        made[-1].write_text("renamed")

    monkeypatch.setattr(blas.subprocess, "run", patchelf)
    library, folder = Path(__file__), tmp_path / "blas"
    # Killed before the copy was there, and after.
    for _ in range(2):
        (folder / ".openblas-killed.scratch").mkdir(parents=True)
        (folder / ".openblas-killed.scratch" / "renamed.so").write_text("half a libr")
        copy = blas._plain_named_copy(library)
        assert copy is not None
        assert {path.name for path in folder.iterdir()} == {copy.name, "lock"}
        assert copy.read_text() == "renamed"
    assert len(made) == 1


def test_a_blas_that_another_process_makes_for_too_long_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLX_HF_BRIDGE_CACHE", str(tmp_path))
    monkeypatch.setattr(blas, "_SECONDS_FOR_ANOTHER", 0)
    (tmp_path / "blas").mkdir()
    with FileLock(tmp_path / "blas" / "lock"):
        assert blas._plain_named_copy(Path(__file__)) is None
