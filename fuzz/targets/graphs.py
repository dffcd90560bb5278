"""Targets: graph.json of traced models, read, and read and run."""

import ctypes
import json
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from fuzz.mutators import JsonMutator
from fuzz.targets.base import Run, Target, as_json, table
from mlx_hf_bridge.conversion.traced import read_graph
from mlx_hf_bridge.layers.token_batch import TokenBatch
from mlx_hf_bridge.tracing.family import TracedConfig, family_of
from mlx_hf_bridge.tracing.fused_linear import fuse_linear_layers
from mlx_hf_bridge.tracing.graph import Graph
from mlx_hf_bridge.tracing.model import TracedModel
from mlx_hf_bridge.tracing.ops import OPERATIONS
from mlx_hf_bridge.tracing.serial import from_json, to_json

_WEIGHTS = {"words": table(20), "square": table(4), "bias": table(1)[0], "places": np.arange(6)}
# mallopt's option that fills memory which is allocated or freed.
_M_PERTURB = -6


def _read(folder: Path) -> Run:
    def run(data: bytes) -> None:
        (folder / "graph.json").write_bytes(data)
        graph = read_graph(folder)
        from_json(json.loads(json.dumps(to_json(graph))))
        TracedConfig.of(graph, {})
        family_of(graph)

    return run


def _run(folder: Path) -> Run:
    weights = {name: mx.array(array) for name, array in _WEIGHTS.items()}
    mx.eval(list(weights.values()))
    batch = TokenBatch(mx.array([[2, 5, 6, 3, 0], [2, 11, 12, 7, 3]]), mx.array([[1, 1, 1, 1, 0], [1] * 5]) > 0)
    # MLX keeps freed arrays for the next ones; without that a read of foreign memory shows.
    mx.set_cache_limit(0)

    def run(data: bytes) -> None:
        (folder / "graph.json").write_bytes(data)
        graph = read_graph(folder)
        held = {name: weights[name] for name in graph.weights() if name in weights}
        if len(held) < len(set(graph.weights())):
            return
        first = _outputs(graph, held, batch, 0x11)
        assert _same(first, _outputs(graph, held, batch, 0x5A)), "memory that the graph does not own is read"

    return run


def _outputs(graph: Graph, weights: dict[str, mx.array], batch: TokenBatch, filler: int) -> dict[str, np.ndarray]:
    if sys.platform == "linux":
        ctypes.CDLL(None).mallopt(_M_PERTURB, filler)
    table = dict(weights)
    model = TracedModel(fuse_linear_layers(graph, table), table, mx.float32, compiled=False)
    output = model(batch)
    arrays = {"hidden": output.hidden, **output.outputs}
    return {name: np.array(array) for name, array in arrays.items()}


def _same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return all(np.array_equal(one[name], other[name], equal_nan=one[name].dtype.kind == "f") for name in one)


def _node(number: int) -> dict[str, int]:
    return {"n": number}


def _graph(*nodes: Any, axes: list[Any], **changed: Any) -> dict[str, Any]:
    facts = {
        "model_class": "OwnModel", "model_type": "own", "task": "feature-extraction", "base_prefix": "",
        "vocab_size": 20, "hidden_size": 4, "layers": 1, "heads": 1, "segments": 0, "max_length": 100,
        "pad_token_id": 0, "padding_shows": False,
    }  # fmt: skip
    listed = [["input", ["input_ids"]], ["input", ["attention_mask"]], *nodes]
    ids = {"axes": ["B", "L"], "dtype": "int64", "optional": False}
    return {
        "format": 1, "facts": facts, "inputs": {"input_ids": ids, "attention_mask": {**ids, "optional": True}},
        "outputs": {"last_hidden_state": len(listed) - 1}, "axes": {"last_hidden_state": axes},
        "guards": ["L <= 100", "B % 1 == 0", "not L > max(200, B) and L + 1 >= 2"], "nodes": listed, **changed,
    }  # fmt: skip


# Node 2 is the table of words, 3 the embeddings.
_LOOK_UP = (["weight", ["words"]], ["embedding", [_node(2), _node(0)]])
_ANY = ["?", "?", "?"]


def _of(operation: str, *arguments: Any, axes: list[Any] = _ANY, **options: Any) -> dict[str, Any]:
    """Return a graph of one operation on embeddings (B, L, 4)."""
    return _graph(*_LOOK_UP, [operation, [_node(3), *arguments], *([options] if options else [])], axes=axes)


_GRAPHS = as_json(
    _graph(
        *_LOOK_UP,
        ["weight", ["square"]], ["weight", ["bias"]], ["linear", [_node(3), _node(4), _node(5)]],
        ["layer_norm", [_node(6), [4], _node(5), _node(5), 1e-5]], ["gelu", [_node(7)]],
        ["add.Tensor", [_node(8), _node(3)]], ["softmax.int", [_node(9), -1]],
        axes=["B", "L", 4],
    ),
    _graph(
        *_LOOK_UP, ["sym_size.int", [_node(0), 1]], ["arange", [_node(4)]], ["unsqueeze", [_node(5), 0]],
        ["index_select", [_node(2), 0, _node(5)]], ["expand", [_node(7), [2, -1, -1]]],
        ["cat", [[_node(3), _node(8)], 1]], ["slice.Tensor", [_node(9), 1, 0, _node(4)]],
        ["transpose.int", [_node(10), 1, 2]], ["matmul", [_node(3), _node(11)]],
        ["masked_fill.Scalar", [_node(12), _node(12), -1.0]],
        axes=_ANY,
    ),
    _graph(
        *_LOOK_UP, ["constant", ["places"]], ["scatter.value", [_node(2), 0, _node(0), 1.0]],
        ["index_put", [_node(2), [_node(0)], _node(3)]], ["gather", [_node(2), 0, _node(0)]],
        ["index.Tensor", [_node(2), [_node(0)]]],
        axes=_ANY,
    ),
    _of("view", [2, 5, 2, 2], axes=["?"] * 4), _of("permute", [2, 0, 1]), _of("sum.dim_IntList", [-1], True),
    _of("roll", [1], [1]), _of("repeat", [1, 2, 1]), _of("constant_pad_nd", [1, 1, 0, 0], 0.5), _of("flip", [1]),
    _of("scaled_dot_product_attention", _node(3), _node(3)), _of("pow.Tensor_Scalar", 2.0), _of("group_norm", 2),
    _of("slice_scatter", _node(3), 1, 0, 3), _of("select.int", 1, 0, axes=["?", "?"]), _of("one_hot", 4),
    _of("new_zeros", [2, 5, 4]), _of("split.sizes", [1, 3], -1), _of("unbind.int", 1), _of("topk", 2, -1),
    *(_of(operation) for operation in OPERATIONS), *(_of(operation, 1, _node(0)) for operation in OPERATIONS),
)  # fmt: skip
_WORDS = ("B", "L", "float32", "int64", "bool", "float16", *OPERATIONS, *_WEIGHTS)

TARGETS = (
    Target("graph", "graph.json", _read, _GRAPHS, JsonMutator(_GRAPHS, _WORDS)),
    Target("graph-run", "graph.json, and a call", _run, _GRAPHS, JsonMutator(_GRAPHS, _WORDS)),
)
