"""Constant folding: what depends on buffers and numbers only is computed once, at conversion."""

import mlx.core as mx

from mlx_hf_bridge.tracing.graph import CONSTANT, INPUT, TENSOR_OPS, Graph, Node, input_nodes
from mlx_hf_bridge.tracing.interpreter import Program
from mlx_hf_bridge.tracing.passes.rewriting import find_readers

# Constants are stored with the weights: larger ones (over 4 MB in float32) are computed on every call instead.
_MAX_ELEMENTS = 2**20
_FOLDED = "folded"


def fold_constants(graph: Graph, tensors: dict[str, mx.array]) -> Graph:
    """Replace nodes that depend on constants only by constants, if they are small."""
    fixed: set[int] = set()
    for node in graph.nodes:
        if node.op == CONSTANT or (
            node.op not in (INPUT, *TENSOR_OPS) and all(id(read) in fixed for read in input_nodes(node))
        ):
            fixed.add(id(node))
    read_from = find_readers(graph)
    wanted = [node for node in graph.nodes if id(node) in fixed and _is_folded(node, fixed, read_from)]
    if not wanted:
        return graph
    values = Program(graph, wanted, tensors, mx.float32)({})
    for node, value in zip(wanted, values, strict=True):
        if isinstance(value, mx.array) and value.size <= _MAX_ELEMENTS:
            name = f"{_FOLDED}.{sum(key.startswith(_FOLDED) for key in tensors)}"
            # Now, so that the folded graph does not hang on to the arrays it was computed from.
            mx.eval(value)
            tensors[name] = value
            node.replace(CONSTANT, name)
    return graph


def _is_folded(node: Node, fixed: set[int], read_from: dict[int, list[Node]]) -> bool:
    """Return whether a node computed from constants is read by one that is not."""
    # Nodes in between need not be stored.
    return node.op != CONSTANT and any(id(reader) not in fixed for reader in read_from.get(id(node), []))
