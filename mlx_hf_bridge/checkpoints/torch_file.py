"""Read PyTorch's .bin checkpoints without torch and without running anything of theirs.

Two layouts (torch/serialization.py): since torch 1.6 a zip archive with `<name>/data.pkl` and `<name>/data/<key>`
(`_save`); before, pickles one after another, then the storages (`_legacy_save`).
"""

import math
import struct
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import mlx.core as mx
import numpy as np

from mlx_hf_bridge.checkpoints.damaged import refuse_pointer
from mlx_hf_bridge.checkpoints.safetensors_file import MB, TensorInfo, byte_size
from mlx_hf_bridge.checkpoints.tensor_pickle import (
    STORAGE_DTYPES,
    Storage,
    StoredTensor,
    TensorPickleError,
    read_pickle,
    short,
    tensors_by_name,
)
from mlx_hf_bridge.errors import CheckpointError

_ZIP, _TAR = b"PK\x03\x04", b"ustar"
_TAR_OFFSET = 257
_LEGACY_MAGIC, _LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
# Tied tensors are views of one storage, and expanded ones have more elements than it, but no checkpoint is many times
# larger than its file.
_MAX_EXPANSION, _MIN_LIMIT = 8, MB
_SAVE_AGAIN = "Save it again as safetensors: model.save_pretrained(folder)."
# What zipfile raises for damaged archives, besides BadZipFile: seeks before the start, encrypted entries, wrong sizes.
_UNREADABLE = (zipfile.BadZipFile, OSError, EOFError, LookupError, ValueError, RuntimeError, NotImplementedError)


class _Layout(ABC):
    """Where the tensors' descriptions and the storages' bytes are in a file."""

    tensors: dict[str, StoredTensor]

    @abstractmethod
    def read(self, storage: Storage) -> bytes:
        """Return the bytes of a storage; they may be fewer than it should have."""


class _Zip(_Layout):
    """The layout since torch 1.6."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            # The folder inside the archive has the name that the file was saved under.
            root = next((name for name in names if name.endswith("/data.pkl")), None)
            if root is None:
                raise TensorPickleError("the archive has no data.pkl")
            self._root = root.removesuffix("data.pkl")
            order = f"{self._root}byteorder"
            if order in names and archive.read(self._plain(archive, order)) != b"little":
                raise TensorPickleError("its numbers are big-endian")
            with archive.open(self._plain(archive, root)) as file:
                self.tensors = tensors_by_name(read_pickle(file)[0])  # type: ignore[arg-type]

    def _plain(self, archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
        """Return an entry that is stored as it is; a compressed one can be of any size when it is read."""
        info = archive.getinfo(name)
        # As much memory is taken as the entry says that it has.
        if max(info.file_size, info.compress_size) > (size := self._path.stat().st_size):
            raise zipfile.BadZipFile(f"an entry has {info.file_size} bytes, and the file {size}")
        if info.compress_type != zipfile.ZIP_STORED:
            raise TensorPickleError(f"the entry {short(name)} is compressed, which torch does not do")
        return info

    def read(self, storage: Storage) -> bytes:
        """Return the bytes of a storage."""
        with zipfile.ZipFile(self._path) as archive:
            return archive.read(self._plain(archive, f"{self._root}data/{storage.key}"))


class _Legacy(_Layout):
    """The layout before torch 1.6: magic number, protocol, system, tensors, keys of storages, storages."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._places: dict[str, tuple[int, int]] = {}
        with path.open("rb") as file:
            if read_pickle(file)[0] != _LEGACY_MAGIC:
                raise TensorPickleError("it begins with no magic number of torch")
            protocol, _ = read_pickle(file)
            if protocol != _LEGACY_PROTOCOL:
                raise TensorPickleError(f"it has protocol {short(protocol)}, expected {_LEGACY_PROTOCOL}")
            system, _ = read_pickle(file)
            if isinstance(system, dict) and system.get("little_endian") is False:
                raise TensorPickleError("its numbers are big-endian")
            found, storages = read_pickle(file)
            self.tensors = tensors_by_name(found)
            keys, _ = read_pickle(file)
            if not isinstance(keys, list) or not all(isinstance(key, str) and key in storages for key in keys):
                raise TensorPickleError("it has no list of its storages")
            self._find(file, [storages[key] for key in keys])

    def _find(self, file: BinaryIO, storages: list[Storage]) -> None:
        """Note where each storage is: its number of elements as 8 bytes, then the elements."""
        place, size = file.tell(), self._path.stat().st_size
        for storage in storages:
            file.seek(place)
            count = struct.unpack("<q", file.read(8).ljust(8, b"\xff"))[0]
            length = storage.size * np.dtype(STORAGE_DTYPES[storage.kind][1]).itemsize
            if count != storage.size or place + 8 + length > size:
                raise CheckpointError(
                    f"{self._path} is truncated or damaged at byte {place} of {size}. Download it again."
                )
            self._places[storage.key] = (place + 8, length)
            place += 8 + length

    def read(self, storage: Storage) -> bytes:
        """Return the bytes of a storage."""
        place, length = self._places[storage.key]
        with self._path.open("rb") as file:
            file.seek(place)
            return file.read(length)


def _open(path: Path) -> _Layout:
    """Return the layout of a file by its first bytes."""
    refuse_pointer(path)
    with path.open("rb") as file:
        head = file.read(_TAR_OFFSET + len(_TAR))
    if head[_TAR_OFFSET:] == _TAR:
        raise TensorPickleError("it is a tar archive, as torch before 0.2 wrote them")
    if not head.startswith(_ZIP):
        return _Legacy(path)
    try:
        return _Zip(path)
    except _UNREADABLE as error:
        raise CheckpointError(f"{path} is truncated or damaged ({short(str(error))}). Download it again.") from error


class TorchFile:
    """One .bin file of torch.

    Args:
        path: The file.

    Raises:
        CheckpointError: If it is no file of plain tensors, or is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._layout = _open(path)
        except (TensorPickleError, struct.error) as error:
            raise CheckpointError(
                f"{path} is not a torch checkpoint of plain tensors ({error}). {_SAVE_AGAIN}"
            ) from error
        self._tensors = self._layout.tensors
        self.tensor_infos = {
            name: TensorInfo(STORAGE_DTYPES[tensor.storage.kind][0], tensor.shape)
            for name, tensor in self._tensors.items()
        }
        total, size = sum(byte_size(info) for info in self.tensor_infos.values()), path.stat().st_size
        if total > _MAX_EXPANSION * size + _MIN_LIMIT:
            raise CheckpointError(
                f"{path} has {size} bytes and describes tensors of {total} bytes, expected about as many. {_SAVE_AGAIN}"
            )

    def arrays(self) -> Iterator[tuple[str, mx.array]]:
        """Yield each tensor by name; no reference is kept, so that memory holds one at a time."""
        for name in sorted(self._tensors):
            yield name, self._read(name)

    def _read(self, name: str) -> mx.array:
        tensor = self._tensors[name]
        kind, dtype = STORAGE_DTYPES[tensor.storage.kind]
        try:
            storage: np.ndarray[Any, Any] = np.frombuffer(self._layout.read(tensor.storage), dtype)
        except (*_UNREADABLE, TensorPickleError) as error:
            raise CheckpointError(f"{self.path} is broken at {short(name)} ({error}). Download it again.") from error
        # as_strided checks no bounds: an element past the storage would be read from other memory.
        last = tensor.offset + sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride, strict=True))
        if math.prod(tensor.shape) and last >= storage.size:
            raise CheckpointError(
                f"{self.path} is truncated: {short(name)} reaches past its storage. Download it again."
            )
        if not math.prod(tensor.shape):
            view = np.zeros(tensor.shape, dtype)
        else:
            strides = [step * storage.itemsize for step in tensor.stride]
            view = np.lib.stride_tricks.as_strided(storage[tensor.offset :], tensor.shape, strides, writeable=False)
        # A copy: the view may have any strides, and must not keep the whole storage in memory.
        array = mx.array(np.array(view, order="C"))
        return array.view(mx.bfloat16) if kind == "BF16" else array
