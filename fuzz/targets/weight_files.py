"""Targets: safetensors files, the index of their shards, `.bin` files of torch, and static embeddings."""

import io
import pickle
import struct
import zipfile
from pathlib import Path

import mlx.core as mx
import numpy as np

from fuzz.mutators import JsonMutator, PickleMutator, SafetensorsMutator
from fuzz.targets.base import Run, Target, as_json, safetensors, table, wordpiece
from mlx_hf_bridge.checkpoints.safetensors_file import SafetensorsFile, shards
from mlx_hf_bridge.checkpoints.torch_file import TorchFile
from mlx_hf_bridge.sentence_transformers.modules.input import EncodeOptions
from mlx_hf_bridge.sentence_transformers.modules.static import StaticEmbedding


def _read_all(file: SafetensorsFile | TorchFile) -> None:
    arrays = dict(file.arrays())
    mx.eval(list(arrays.values()))
    assert {name: array.shape for name, array in arrays.items()} == {
        name: info.shape for name, info in file.tensor_infos.items()
    }


def _safetensors(folder: Path) -> Run:
    path = folder / "model.safetensors"

    def run(data: bytes) -> None:
        path.write_bytes(data)
        _read_all(SafetensorsFile(path))

    return run


def _index(folder: Path) -> Run:
    path = folder / "model.safetensors.index.json"

    def run(data: bytes) -> None:
        path.write_bytes(data)
        for shard in shards(path):
            assert shard.is_relative_to(folder), shard

    return run


def _torch_file(folder: Path) -> Run:
    path = folder / "pytorch_model.bin"

    def run(data: bytes) -> None:
        path.write_bytes(data)
        _read_all(TorchFile(path))

    return run


def _torch_pickle(folder: Path) -> Run:
    run_file = _torch_file(folder)
    return lambda data: run_file(_archive(data))


def _archive(pickled: bytes) -> bytes:
    """Return a file of torch.save with this pickle and two storages."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/data/0", _STORAGE)
        archive.writestr("archive/data/1", _STORAGE[:24])
    return content.getvalue()


_STORAGE = np.arange(16, dtype=np.float32).tobytes()


def _global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _literal(value: object) -> bytes:
    # Without the header and the end.
    return pickle.dumps(value, 2)[2:-1]


def _tensor(kind: str, key: str, size: int, shape: tuple[int, ...], stride: tuple[int, ...], offset: int = 0) -> bytes:
    """Return the instructions that torch.save writes for one tensor."""
    storage = b"(" + _literal("storage") + _global("torch", kind) + _literal(key) + _literal("cpu") + _literal(size)
    view = _literal(offset) + _literal(shape) + _literal(stride) + _literal(False)
    return _global("torch._utils", "_rebuild_tensor_v2") + (
        b"(" + storage + b"tQ" + view + _global("collections", "OrderedDict") + b")RtR"
    )


def _state(*tensors: bytes) -> bytes:
    entries = b"".join(_literal(f"weight.{number}") + tensor + b"s" for number, tensor in enumerate(tensors))
    return b"\x80\x02" + _global("collections", "OrderedDict") + b")R" + entries + b"."


_PICKLES = [
    _state(_tensor("FloatStorage", "0", 16, (4, 4), (4, 1)), _tensor("FloatStorage", "0", 16, (4, 2), (1, 4), 1)),
    _state(_tensor("LongStorage", "1", 3, (3,), (1,)), _tensor("FloatStorage", "0", 16, (), ())),
    _state(_tensor("BFloat16Storage", "1", 12, (2, 0, 6), (6, 6, 1)), _tensor("HalfStorage", "0", 32, (32,), (1,))),
    pickle.dumps({"state": [1, 2.5, None, ("a", True)], "more": {"b": b"bytes"}}, 4),
]


def _legacy(pickled: bytes) -> bytes:
    """Return a file of torch before 1.6 with one storage of 16 numbers."""
    head = [pickle.dumps(0x1950A86A20F9469CFC6C, 2), pickle.dumps(1001, 2), pickle.dumps({"little_endian": True}, 2)]
    return b"".join([*head, pickled, pickle.dumps(["0"], 2), struct.pack("<q", 16), _STORAGE])


_FILES = [
    _archive(_PICKLES[0]),
    _archive(_PICKLES[1]),
    _legacy(_state(_tensor("FloatStorage", "0", 16, (4, 4), (4, 1)))),
]


def _static(folder: Path) -> Run:
    (folder / "tokenizer.json").write_bytes(as_json(wordpiece())[0])
    path, options = folder / "model.safetensors", EncodeOptions()

    def run(data: bytes) -> None:
        path.write_bytes(data)
        module = StaticEmbedding.read(folder)
        features = module(module.features(module.tokens(["the cat sat", ""], options), options))
        found = np.array(features["sentence_embedding"])
        assert found.shape == (2, module.get_embedding_dimension()), found.shape

    return run


_MIXED = {"a": np.ones((2, 3), np.float16), "b": np.arange(5), "c": np.float32(1.5), "d": np.zeros((0, 3), np.float32)}
_SAFETENSORS = [
    safetensors({"embeddings.word_embeddings.weight": table(), "norm.weight": np.ones(4, np.float32)}),
    safetensors({name: np.asarray(array) for name, array in _MIXED.items()}, {"format": "pt"}),
    safetensors({"double": np.ones(3), "half": np.ones(3, np.float16)}),
]
_STATIC = [
    safetensors({"embedding.weight": table()}),
    safetensors({"embeddings": table(5), "mapping": np.arange(14) % 5, "weights": np.ones(14, np.float32)}),
]
_INDEX = as_json(
    {
        "metadata": {"total_size": 8},
        "weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"},
    }
)

TARGETS = (
    Target("safetensors", "weight files", _safetensors, _SAFETENSORS, SafetensorsMutator(_SAFETENSORS)),
    Target("shard-index", "indexes of shards", _index, _INDEX, JsonMutator(_INDEX)),
    Target("torch-pickle", "pickles of `.bin` files", _torch_pickle, _PICKLES, PickleMutator(_PICKLES)),
    Target("torch-file", "`.bin` files, both layouts", _torch_file, _FILES, lambda data, random: None),
    Target("static-embedding", "tables of model2vec, and a call", _static, _STATIC, SafetensorsMutator(_STATIC)),
)
