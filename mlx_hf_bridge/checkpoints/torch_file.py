"""Read PyTorch's .bin checkpoints without torch: a zip of raw storages and a pickle that may only describe tensors.

Layout: torch/serialization.py (`_save`): `<name>/data.pkl` and `<name>/data/<key>`. The unpickler allows OrderedDict,
torch's tensor rebuilding and storage type names, and nothing else, so no code can run.
"""

import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_hf_bridge.checkpoints.safetensors_file import TensorInfo
from mlx_hf_bridge.errors import CheckpointError

_STORAGES = {
    "FloatStorage": ("F32", np.float32),
    "HalfStorage": ("F16", np.float16),
    # numpy has no bfloat16; the bits are read as integers and reinterpreted by MLX.
    "BFloat16Storage": ("BF16", np.uint16),
    "DoubleStorage": ("F64", np.float64),
    "LongStorage": ("I64", np.int64),
    "IntStorage": ("I32", np.int32),
    "ByteStorage": ("U8", np.uint8),
    "BoolStorage": ("BOOL", np.bool_),
}
# What unpickling untrusted bytes may raise (docs.python.org/3/library/pickle.html#pickle.UnpicklingError), and zipfile.
_UNREADABLE = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    StopIteration,
    EOFError,
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    ArithmeticError,
    MemoryError,
    NotImplementedError,
)


@dataclass(frozen=True)
class _Storage:
    kind: str
    key: str


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def _rebuild_tensor(storage: Any, offset: int, shape: Any, stride: Any, *_: Any) -> _Tensor:
    numbers = (offset, *shape, *stride)
    valid = all(isinstance(number, int) and number >= 0 for number in numbers)
    if not valid or len(shape) != len(stride) or not isinstance(storage, _Storage):
        raise pickle.UnpicklingError(f"a tensor has offset {offset}, shape {shape} and strides {stride}")
    return _Tensor(storage, offset, tuple(shape), tuple(stride))


def _rebuild_parameter(tensor: _Tensor, *_: Any) -> _Tensor:
    return tensor


_ALLOWED = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    **{("torch", name): name for name in _STORAGES},
}


class _TensorUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"the pickle asks for {module}.{name}, which describes no tensor")
        return _ALLOWED[module, name]

    def persistent_load(self, reference: Any) -> _Storage:
        _, kind, key, *_ = reference
        if kind not in _STORAGES:
            raise pickle.UnpicklingError(f"a storage is of kind {kind!r}")
        return _Storage(kind, key)


def _named_tensors(found: Any) -> dict[str, _Tensor]:
    if not isinstance(found, dict):
        raise pickle.UnpicklingError(f"it holds a {type(found).__name__}, not tensors by name")
    # Other entries, such as a training state's numbers, are no weights.
    return {name: value for name, value in found.items() if isinstance(name, str) and isinstance(value, _Tensor)}


class TorchFile:
    """One .bin file in torch's zip format; CheckpointError for anything else."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with zipfile.ZipFile(path) as archive:
                # The folder inside the archive has the name that the file was saved under.
                self._root = next(name for name in archive.namelist() if name.endswith("/data.pkl"))[: -len("data.pkl")]
                with archive.open(f"{self._root}data.pkl") as file:
                    self._tensors = _named_tensors(_TensorUnpickler(file).load())
        except _UNREADABLE as error:
            raise CheckpointError(
                f"{path} is not a torch checkpoint of plain tensors ({error}). Save it again as safetensors: "
                "model.save_pretrained(folder)."
            ) from error
        self.tensor_infos = {
            name: TensorInfo(_STORAGES[tensor.storage.kind][0], tensor.shape) for name, tensor in self._tensors.items()
        }

    def arrays(self) -> Iterator[tuple[str, mx.array]]:
        """Yield each tensor by name; no reference is kept, so that memory holds one at a time."""
        with zipfile.ZipFile(self.path) as archive:
            for name in sorted(self._tensors):
                yield name, self._read(archive, name)

    def _read(self, archive: zipfile.ZipFile, name: str) -> mx.array:
        tensor = self._tensors[name]
        kind, dtype = _STORAGES[tensor.storage.kind]
        try:
            storage: np.ndarray = np.frombuffer(archive.read(f"{self._root}data/{tensor.storage.key}"), dtype)
        except _UNREADABLE as error:
            raise CheckpointError(f"{self.path} is broken at {name} ({error}). Download it again.") from error
        # as_strided checks no bounds: an element past the storage would be read from other memory.
        last = tensor.offset + sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride, strict=True))
        if math.prod(tensor.shape) and last >= storage.size:
            raise CheckpointError(f"{self.path} is truncated: {name} reaches past its storage. Download it again.")
        strides = [step * storage.itemsize for step in tensor.stride]
        view = np.lib.stride_tricks.as_strided(storage[tensor.offset :], tensor.shape, strides, writeable=False)
        # A copy: the view may have any strides, and must not keep the whole storage in memory.
        array = mx.array(np.array(view, order="C"))
        return array.view(mx.bfloat16) if kind == "BF16" else array
