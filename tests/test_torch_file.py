"""torch's .bin files: both layouts are read as torch reads them, and damaged or hostile ones end in one short error."""

import io
import pickle
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import torch

from mlx_hf_bridge.checkpoints.torch_file import TorchFile
from mlx_hf_bridge.errors import CheckpointError

BASE = torch.arange(24.0).reshape(4, 6)
TENSORS = {
    "transposed": BASE.T,
    "slice": BASE[1:3, 2:5],
    "parameter": torch.nn.Parameter(BASE * 2),
    "scalar": torch.tensor(3.5),
    "empty": torch.zeros(0, 4),
    "brain": BASE.bfloat16(),
    "short": torch.arange(5, dtype=torch.int16),
}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("is_zip", [True, False])
def test_tensors_are_those_of_torch(is_zip: bool, protocol: int, tmp_path: Path) -> None:
    """A training state has storages of its own between the weights' and after them."""
    state = {"step": 3, "optimizer": {"exp_avg": torch.ones(7).double()}, **TENSORS, "size": BASE.shape}
    path = tmp_path / "x.bin"
    torch.save(state, path, _use_new_zipfile_serialization=is_zip, pickle_protocol=protocol)
    found = dict(TorchFile(path).arrays())
    assert sorted(found) == sorted(TENSORS)
    for name, array in found.items():
        expected = TENSORS[name].detach().float().numpy()
        np.testing.assert_array_equal(np.array(array.astype(mx.float32)), expected, err_msg=name)


def saved(path: Path, is_zip: bool = True, **tensors: Any) -> bytes:
    torch.save(tensors or {"weight": BASE}, path, _use_new_zipfile_serialization=is_zip)
    return path.read_bytes()


def load(path: Path) -> dict[str, mx.array]:
    return dict(TorchFile(path).arrays())


@pytest.mark.parametrize("is_zip", [True, False])
def test_every_way_to_cut_a_file_short_is_an_error(is_zip: bool, tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    content = saved(path, is_zip)
    for length in [*range(0, len(content), 13), len(content) - 1]:
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match=r"x\.bin (is|has).*(Download it again|Save it again)"):
            load(path)


@pytest.mark.parametrize("is_zip", [True, False])
def test_bytes_that_changed_are_an_error_or_other_values_of_the_same_shape(is_zip: bool, tmp_path: Path) -> None:
    path, random = tmp_path / "x.bin", np.random.default_rng(0)
    content = saved(path, is_zip)
    failed = 0
    for _ in range(300):
        changed = bytearray(content)
        for place in random.integers(0, len(content), 3):
            changed[place] = random.integers(0, 256)
        path.write_bytes(bytes(changed))
        try:
            load(path)
        except CheckpointError as error:
            failed += 1
            assert len(str(error)) < 600 + len(str(path))
    assert failed > 50


def test_a_git_lfs_pointer_and_a_wrapped_state_are_named(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(CheckpointError, match=r"is a pointer of git-lfs.*git lfs pull"):
        load(path)
    saved(path, state_dict={"weight": BASE}, epoch=3)
    with pytest.raises(CheckpointError, match="its tensors are inside the entry 'state_dict'"):
        load(path)


def instructions(content: bytes) -> Iterator[bytes]:
    yield b"\x80\x02"
    yield content
    yield b"."


STORAGE = b"(U\x07storagectorch\nFloatStorage\nU\x010U\x03cpuK\x04tQ"
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"
DEEP = b"K\x01" + b"2\x86" * 40
HOSTILE = {
    "changed after it was checked": b"}U\x01w" + REBUILD + b"(" + STORAGE + b"K\x00K\x02K\x02\x86K\x02K\x01\x86tR"
    b"}U\x06strideM\x00\x10K\x01\x86sbs",
    "a shape of nested tuples": b"}U\x01w" + REBUILD + b"(" + STORAGE + b"K\x00" + DEEP + b")tRs",
    "a storage of nested tuples": b"}U\x01w(U\x07storage" + DEEP + b"U\x010U\x03cpuK\x04tQs",
    "tuples in tuples": b"K\x01" + b"\x85" * 100_000,
    "a dict by nested tuples": b"}K\x01" + b"\x85" * 100_000 + b"K\x01s",
    "a memo of 2 to the 31": b"}r\xff\xff\xff\x7fK\x01",
    "a bytearray of 2 to the 40": b"\x96" + struct.pack("<Q", 2**40),
    "a string of 2 to the 31": b"X\xff\xff\xff\x7f",
    "a number of many digits": b"}I" + b"9" * 5000 + b"\nK\x01s",
    "tensors of terabytes": b"}U\x01w" + REBUILD + b"(" + STORAGE + b"K\x00\x8a\x06" + (2**41).to_bytes(6, "little")
    + b"\x85K\x00\x85tRs",
    "a storage without elements": b"}U\x01w" + REBUILD + b"(" + STORAGE + b"K\x05K\x02\x85K\x01\x85tRs",
    "a call of a string": b"U\x01x)R",
    "an object of a class": b"(ccollections\nOrderedDict\no",
    "no mark": b"t",
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_pickle_ends_in_a_short_error(name: str, tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"".join(instructions(HOSTILE[name])))
        archive.writestr("a/data/0", BASE.numpy().tobytes()[:16])
    with pytest.raises(CheckpointError) as raised:
        load(path)
    assert len(str(raised.value)) < 600 + len(str(path))


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_compressed_entry_is_refused_unread(method: int, tmp_path: Path) -> None:
    """An archive of kilobytes can hold gigabytes."""
    path = tmp_path / "x.bin"
    saved(tmp_path / "plain.bin")
    with zipfile.ZipFile(tmp_path / "plain.bin") as plain, zipfile.ZipFile(path, "w", method) as archive:
        for entry in plain.namelist():
            archive.writestr(entry, plain.read(entry))
    with pytest.raises(CheckpointError, match="is compressed, which torch does not do"):
        load(path)


def test_two_storages_of_one_key_are_refused(tmp_path: Path) -> None:
    """The first would bound the second."""
    other = STORAGE.replace(b"K\x04tQ", b"M\xff\xfftQ")
    path = tmp_path / "x.bin"
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02" + STORAGE + other + b".")
    path.write_bytes(content.getvalue())
    with pytest.raises(CheckpointError, match="two storages of the key '0'"):
        load(path)


def test_a_pickle_is_not_unpickled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("load", "loads", "Unpickler", "_Unpickler"):
        monkeypatch.setattr(pickle, name, None)
    content = saved(tmp_path / "x.bin")
    assert content and load(tmp_path / "x.bin")["weight"].shape == (4, 6)
