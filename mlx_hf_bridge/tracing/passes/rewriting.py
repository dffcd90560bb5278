"""What passes share: finding the readers of nodes, and replacing nodes by others."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mlx_hf_bridge.tracing.graph import Graph, Node, input_nodes, map_nodes


def find_readers(graph: Graph) -> dict[int, list[Node]]:
    """Return the nodes that read each node, by its id; an output counts as a reader."""
    found: dict[int, list[Node]] = defaultdict(list)
    for node in graph.nodes:
        for read in input_nodes(node):
            found[id(read)].append(node)
    for node in graph.outputs.values():
        # So that a pass does not fuse away what a caller reads.
        found[id(node)].append(Node("output", (node,)))
    return found


def redirect_reads(graph: Graph, instead: Mapping[int, Node], before: Mapping[int, list[Node]] | None = None) -> Graph:
    """Make every node that reads a replaced node read its replacement.

    Args:
        graph: The graph.
        instead: Replacements by the id of the replaced node.
        before: New nodes to insert before a node, by its id.

    Returns:
        The graph with the new nodes.
    """

    def final(node: Node) -> Node:
        # A replacement may have been replaced in turn.
        while id(node) in instead:
            node = instead[id(node)]
        return node

    nodes: list[Node] = []
    for node in graph.nodes:
        for fresh in (before or {}).get(id(node), []):
            _change(fresh, final)
            nodes.append(fresh)
        _change(node, final)
        nodes.append(node)
    outputs = {name: final(node) for name, node in graph.outputs.items()}
    return replace(graph, nodes=tuple(nodes), outputs=outputs)


def _change(node: Node, final: Any) -> None:
    node.args, node.options = map_nodes(node.args, final), map_nodes(node.options, final)


def is_call(value: Any, *names: str) -> bool:
    """Return whether an argument is a node of one of these operations; "mul" matches "mul.Tensor" too."""
    return isinstance(value, Node) and (value.op in names or value.op.partition(".")[0] in names)


def both_orders(node: Node) -> list[tuple[Any, Any]]:
    """Return the two orders of a node's first two arguments."""
    first, second = node.args[0], node.args[1]
    return [(first, second), (second, first)]
