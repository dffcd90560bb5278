"""A disk or folder that cannot be written, and a Hub that cannot be reached: one clear error, nothing half-written."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import mlx.core as mx
import pytest
from checkpoints import make_checkpoint

import mlx_hf_bridge
from mlx_hf_bridge import MLXAutoModel, MLXSentenceTransformer
from mlx_hf_bridge.errors import BridgeError, RepositoryError

FAULTS = [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.ENOTDIR]
# What a result goes through on its way to the disk: the object and name of each function.
WRITERS: dict[str, tuple[Any, str]] = {
    "mkdir": (os, "mkdir"),
    "replace": (os, "replace"),
    "copyfile": (shutil, "copyfile"),
    "write_text": (Path, "write_text"),
    "save_safetensors": (mx, "save_safetensors"),
}


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a tiny BERT."""
    folder = tmp_path_factory.mktemp("disk") / "repo"
    make_checkpoint(folder)
    return folder


CALLS: dict[str, Callable[[Path, Path], Any]] = {
    "from_pretrained": lambda repo, _: MLXAutoModel.from_pretrained(repo),
    "convert": mlx_hf_bridge.convert,
    "save_pretrained": lambda repo, out: MLXAutoModel.from_pretrained(repo).save_pretrained(out),
    "save": lambda repo, out: MLXSentenceTransformer(repo).save(out),
    "encode_to_file": lambda repo, out: MLXSentenceTransformer(repo).encode_to_file(["the cat"], out.parent / "v.npy"),
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("call", CALLS)
def test_what_cannot_be_written_is_one_error(
    call: str, writer: str, repo: Path, tmp_path: Path, bridge_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = FAULTS[(list(CALLS).index(call) + list(WRITERS).index(writer)) % len(FAULTS)]
    if call in ("save_pretrained", "save", "encode_to_file"):
        MLXAutoModel.from_pretrained(repo)  # into the cache, which then needs no writing
    owner, name = WRITERS[writer]
    calls: list[Any] = []

    def fail(*args: Any, **_: Any) -> Any:
        calls.append(args)
        if writer == "save_safetensors":
            raise RuntimeError("[write] Unable to write 34124861 bytes to file.")
        # As Python names them: of a copy the source first.
        second = (None, str(args[1])) if writer in ("replace", "copyfile") else ()
        raise OSError(code, os.strerror(code), str(args[0]), *second)

    monkeypatch.setattr(owner, name, fail)
    out = tmp_path / "out"
    try:
        CALLS[call](repo, out)
    except BridgeError as error:
        assert isinstance(error, RepositoryError), error
        assert (os.strerror(code) in str(error)) or "Unable to write" in str(error)
        assert len(str(error)) < 2000
    else:
        assert not calls, f"{calls[0]} failed without an error"
    monkeypatch.undo()
    left = [path for path in (*tmp_path.rglob("*"), *bridge_cache.rglob("*")) if path.is_file()]
    if calls:
        assert [path.name for path in left if path.suffix in (".safetensors", ".json") and "out" in path.parts] == []


def of_library(module: str, name: str) -> Exception:
    """Return an error as an HTTP library raises it, of which huggingface_hub has had several."""
    kind: type[Exception] = type(name, (Exception,), {"__module__": module})
    return kind("peer closed connection without sending complete message body")


@pytest.mark.parametrize(
    "error",
    [
        of_library("httpx", "ConnectError"),
        of_library("httpx2", "ReadTimeout"),
        of_library("requests.exceptions", "ChunkedEncodingError"),
        ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
        OSError("Consistency check failed: file should be of size 100 but has size 50"),
        huggingface_hub.errors.OfflineModeIsEnabled("offline"),
        OSError(errno.ENOSPC, "No space left on device"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_download_that_fails_is_one_error(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    for load in (MLXAutoModel.from_pretrained, MLXSentenceTransformer):
        with pytest.raises(RepositoryError, match=r"org/name") as raised:
            load("org/name")
        assert len(str(raised.value)) < 600


def _save_tokenizer_of_pipeline(repo: Path, out: Path) -> None:
    mlx_hf_bridge.pipeline("feature-extraction", str(repo)).tokenizer.save_pretrained(out)


SAVERS: dict[str, Callable[[Path, Path], Any]] = {
    "config": lambda repo, out: MLXAutoModel.from_pretrained(repo).config.save_pretrained(out),
    "config file": lambda repo, out: MLXAutoModel.from_pretrained(repo).config.to_json_file(out / "config.json"),
    "tokenizer": lambda repo, out: MLXSentenceTransformer(repo).tokenizer.save_pretrained(out),
    "tokenizer of a pipeline": _save_tokenizer_of_pipeline,
}


@pytest.mark.parametrize("what", SAVERS)
def test_a_config_or_tokenizer_is_saved_completely_or_not_at_all(
    what: str, repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full, out = (lambda path: {one.name: one.read_bytes() for one in path.iterdir()}), tmp_path / "out"
    SAVERS[what](repo, out)
    before = full(out)
    assert "config.json" in before or "tokenizer.json" in before
    real = os.replace

    def fail(source: Any, target: Any) -> None:
        if tmp_path in Path(target).parents:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(source), None, str(target))
        real(source, target)

    monkeypatch.setattr(os, "replace", fail)
    for target in (out, tmp_path / "new"):
        with pytest.raises(RepositoryError, match=rf"{tmp_path} cannot be written \(.*No space left"):
            SAVERS[what](repo, target)
    assert full(out) == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
