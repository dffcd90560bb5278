"""Common subexpression elimination: what is computed twice is computed once."""

from typing import Any

import mlx.core as mx

from mlx_hf_bridge.tracing.graph import Graph, Node
from mlx_hf_bridge.tracing.passes.rewriting import redirect_reads


def merge_common_subexpressions(graph: Graph, tensors: dict[str, mx.array]) -> Graph:
    """Replace nodes with the same operation and arguments by the first of them."""
    instead: dict[int, Node] = {}
    known: dict[Any, Node] = {}
    for node in graph.nodes:
        key = (node.op, _key(node.args, instead), _key(node.options, instead))
        first = known.setdefault(key, node)
        if first is not node:
            instead[id(node)] = first
    return redirect_reads(graph, instead)


def _key(value: Any, instead: dict[int, Node]) -> Any:
    if isinstance(value, Node):
        return "node", id(instead.get(id(value), value))
    if isinstance(value, (list, tuple)):
        return tuple(_key(item, instead) for item in value)
    if isinstance(value, dict):
        return tuple((name, _key(item, instead)) for name, item in sorted(value.items()))
    # With the type, because 1, 1.0 and True are equal in Python and differ in a graph; repr also tells 0.0 from -0.0.
    return type(value).__name__, repr(value)
