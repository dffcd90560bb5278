"""Compute all rows where a mask picks some, changes them and puts them back, and then keep those where it is True.

The size of picked rows depends on values, which the shape of an MLX array cannot; what is computed for a row does not.
"""

import mlx.core as mx

from mlx_hf_bridge.tracing.graph import Graph, Node
from mlx_hf_bridge.tracing.passes.rewriting import find_readers, is_call

# Operations that compute each row independently of the others.
_BY_ROW = (
    "linear",
    "layer_norm",
    "add",
    "mul",
    "sub",
    "div",
    "gelu",
    "relu",
    "silu",
    "tanh",
    "sigmoid",
    "erf",
    "rms_norm",
)


def compute_all_rows(graph: Graph, tensors: dict[str, mx.array]) -> Graph:
    """Replace index(x, [mask]), if it ends in index_put(..., [mask], ...), by all rows."""
    read_from = find_readers(graph)
    for node in graph.nodes:
        if node.op == "index.Tensor" and len(node.args[1]) == 1 and is_boolean(node.args[1][0]):
            mask = node.args[1][0]
            if _ends_in_put(node, mask, read_from):
                node.replace("bridge.all_rows", node.args[0], mask)
    return graph


def is_boolean(value: Node | None) -> bool:
    """Return whether a value is a boolean node."""
    return isinstance(value, Node) and value.dtype == "bool"


def _ends_in_put(node: Node, mask: Node, read_from: dict[int, list[Node]]) -> bool:
    """Return whether all that follows works row by row, until the rows are put back where the mask is True."""
    found = read_from.get(id(node), [])
    return bool(found) and all(_is_put(one, node, mask) or _goes_on(one, mask, read_from) for one in found)


def _is_put(node: Node, value: Node, mask: Node) -> bool:
    return node.op == "index_put" and len(node.args[1]) == 1 and node.args[1][0] is mask and node.args[2] is value


def _goes_on(node: Node, mask: Node, read_from: dict[int, list[Node]]) -> bool:
    # Rows outside the mask may hold anything meanwhile, since index_put drops them.
    return is_call(node, *_BY_ROW) and _ends_in_put(node, mask, read_from)
