"""Constants: what follows from buffers and numbers alone is computed once, at conversion."""

import mlx.core as mx

from mlx_hf_bridge.tracing.graph import CONSTANT, INPUT, TENSOR_OPS, Graph, Node, input_nodes
from mlx_hf_bridge.tracing.interpreter import Program
from mlx_hf_bridge.tracing.passes.rewriting import find_readers

_MOST_ELEMENTS = 2**20
_FOLDED = "folded"


def fold_constants(graph: Graph, tensors: dict[str, mx.array]) -> Graph:
    """Nodes of constants become constants, where they are small."""
    fixed: set[int] = set()
    for node in graph.nodes:
        if node.op == CONSTANT or (
            node.op not in (INPUT, *TENSOR_OPS) and all(id(read) in fixed for read in input_nodes(node))
        ):
            fixed.add(id(node))
    read_from = find_readers(graph)
    wanted = [node for node in graph.nodes if id(node) in fixed and _leaves(node, fixed, read_from)]
    if not wanted:
        return graph
    values = Program(graph, wanted, tensors, mx.float32)({})
    for node, value in zip(wanted, values, strict=True):
        if isinstance(value, mx.array) and value.size <= _MOST_ELEMENTS:
            name = f"{_FOLDED}.{sum(key.startswith(_FOLDED) for key in tensors)}"
            mx.eval(value)
            tensors[name] = value
            node.replace(CONSTANT, name)
    return graph


def _leaves(node: Node, fixed: set[int], read_from: dict[int, list[Node]]) -> bool:
    """Whether something that is not fixed reads a node that is computed of constants."""
    return node.op != CONSTANT and any(id(reader) not in fixed for reader in read_from.get(id(node), []))
