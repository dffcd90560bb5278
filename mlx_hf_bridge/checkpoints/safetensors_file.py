"""Read weight files as named tensors: headers first, data one tensor at a time.

The safetensors header is checked here before MLX reads the data: MLX would read past the end of a truncated file
(format: github.com/huggingface/safetensors, "8 bytes length, JSON header, data").
"""

import json
import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import mlx.core as mx
import numpy as np
import safetensors

from mlx_hf_bridge.checkpoints.damaged import refuse_pointer
from mlx_hf_bridge.checkpoints.paths import relative_path
from mlx_hf_bridge.errors import CheckpointError, ConfigError

# A megabyte, in every size that is shown or given (`target_size_mb`).
MB = 2**20
SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
_ITEM_SIZES = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2}
_ITEM_SIZES |= {"I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1}
_MLX_DTYPES = {"F32": mx.float32, "F16": mx.float16, "BF16": mx.bfloat16, "U32": mx.uint32, "U8": mx.uint8}
_MLX_DTYPES |= {"F64": mx.float64, "I64": mx.int64, "I32": mx.int32}

_MOST_AXES = 64
_NOT_READ_BY_MLX = ("F64", "F8_E5M2")
# MLX has no 8-bit floats either, and reads their bytes.
_NUMPY_DTYPES: dict[str, type[np.generic]] = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16, "I64": np.int64, "I32": np.int32,
    "I16": np.int16, "I8": np.int8, "U64": np.uint64, "U32": np.uint32, "U16": np.uint16, "BOOL": np.bool_,
}  # fmt: skip


@dataclass(frozen=True)
class TensorInfo:
    """What a file's header says about a tensor.

    Attributes:
        dtype: The dtype as safetensors spells it ("F32").
        shape: The shape.
    """

    dtype: str
    shape: tuple[int, ...]

    @property
    def mlx_dtype(self) -> mx.Dtype | None:
        """The dtype of MLX, or None if MLX has none."""
        return _MLX_DTYPES.get(self.dtype)

    @property
    def is_float(self) -> bool:
        """Whether the dtype is one of float32, float16, bfloat16 and float64."""
        return self.dtype in ("F32", "F16", "BF16", "F64")


class WeightFile(Protocol):
    """A file of named tensors, with the headers in `tensor_infos`."""

    path: Path
    tensor_infos: dict[str, TensorInfo]

    def arrays(self) -> Iterator[tuple[str, mx.array]]:
        """Yield each tensor by name, lazily; no reference is kept, so that memory holds one at a time."""
        ...


class SafetensorsFile:
    """One .safetensors file; CheckpointError if its header and its size disagree."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tensor_infos, self._starts = _read_header(path)

    def arrays(self) -> Iterator[tuple[str, mx.array]]:
        """Yield each tensor by name, lazily and F64 as float32; no reference is kept, so that one is in memory."""
        if any(info.dtype in _NOT_READ_BY_MLX for info in self.tensor_infos.values()):
            # mx.load refuses a whole file because of one such tensor.
            yield from self._arrays_of_numpy()
            return
        try:
            loaded = mx.load(str(self.path))
        except RuntimeError as error:
            raise _broken(self.path, f"cannot be read by MLX ({error!s:.200})") from error
        assert isinstance(loaded, dict)
        for name in sorted(loaded):
            # mx.load is lazy: a tensor is read when it is computed, and freed with its last reference.
            yield name, loaded.pop(name)

    def _arrays_of_numpy(self) -> Iterator[tuple[str, mx.array]]:
        for name in sorted(self.tensor_infos):
            info = self.tensor_infos[name]
            # Read and not mapped: a file that is cut while it is mapped ends the process.
            part = np.fromfile(self.path, np.uint8, byte_size(info), offset=self._starts[name])
            if part.size != byte_size(info):
                raise _broken(self.path, "was cut while it was read")
            view = part.view(_NUMPY_DTYPES.get(info.dtype, np.uint8)).reshape(info.shape)
            # Values that float32 cannot hold become infinite, as torch casts them.
            with np.errstate(over="ignore"):
                array = mx.array(view.astype(np.float32) if info.dtype == "F64" else view)
            yield name, array.view(mx.bfloat16) if info.dtype == "BF16" else array


def _broken(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{path} {what}. Delete it and download or copy it again.")


def _read_header(path: Path) -> tuple[dict[str, TensorInfo], dict[str, int]]:
    """Return what the header says of each tensor, and the position of its first byte."""
    refuse_pointer(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else size
        # Checked before reading, since a broken length could ask for any amount of memory.
        if length > size - 8:
            raise _broken(path, f"has {size} bytes, too few for a safetensors header")
        try:
            header = json.loads(file.read(length))
            entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
            infos = {name: _tensor_info(path, name, entry, 8 + length, size) for name, entry in entries.items()}
            starts = {name: 8 + length + entry["data_offsets"][0] for name, entry in entries.items()}
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            raise _broken(path, f"has no readable safetensors header ({error!s:.200})") from error
    _check_with_safetensors(path)
    return infos, starts


def _check_with_safetensors(path: Path) -> None:
    """Refuse what the safetensors library refuses, such as tensors that overlap, gaps, or a header that is no UTF-8."""
    try:
        with safetensors.safe_open(str(path), framework="np"):
            pass
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise _broken(path, f"is refused by the safetensors library ({error!s:.200})") from error


def _tensor_info(path: Path, name: str, entry: Any, data_start: int, size: int) -> TensorInfo:
    """Return one entry of the header, checked to lie within the file of `size` bytes."""
    info, (start, end) = TensorInfo(entry["dtype"], tuple(entry["shape"])), entry["data_offsets"]
    if info.dtype not in _ITEM_SIZES:
        raise _broken(path, f"has {name:.80} with the unknown dtype {info.dtype!r:.80}")
    # A shape that does not match its bytes could make MLX read past the tensor.
    if start < 0 or not is_shape(info.shape) or end - start != byte_size(info):
        raise ValueError(f"{name:.80} of shape {info.shape!s:.80} has bytes {start} to {end}")
    if data_start + end > size:
        raise _broken(path, f"is truncated: {name:.80} ends at byte {data_start + end} of {size}")
    return info


def is_shape(sizes: Sequence[Any]) -> bool:
    """Return whether an array of MLX can have a shape: its sizes have 32 bits, and NumPy has 64 axes."""
    return len(sizes) <= _MOST_AXES and all(type(size) is int and 0 <= size < 2**31 for size in sizes)


def tensor_info(array: mx.array) -> TensorInfo:
    """Return the dtype and shape of an array, as a header would state them."""
    return TensorInfo(next(name for name, dtype in _MLX_DTYPES.items() if dtype == array.dtype), tuple(array.shape))


def dtype_name(dtype: mx.Dtype) -> str:
    """Return a dtype's name as config.json spells it ("float16")."""
    return str(dtype).removeprefix("mlx.core.")


def byte_size(info: TensorInfo) -> int:
    """Return the size of a tensor's data in bytes."""
    return math.prod(info.shape) * _ITEM_SIZES[info.dtype]


def shards(index: Path) -> list[Path]:
    """Return the paths of the files that an index names; CheckpointError if the index is not valid.

    ConfigError is raised for a path that leads outside the folder.
    """
    refuse_pointer(index)
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        if not all(isinstance(name, str) for name in names):
            raise TypeError("a name is no text")
        return [index.parent / relative_path(name, index) for name in names]
    except ConfigError:
        raise
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise _broken(index, "is not a weight index with a weight_map") from error
