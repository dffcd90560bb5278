"""What passes share: who reads a node, and nodes put in the place of others."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mlx_hf_bridge.tracing.graph import Graph, Node, input_nodes, map_nodes


def find_readers(graph: Graph) -> dict[int, list[Node]]:
    """A node's id -> the nodes that read it; an output is read by a node of its own."""
    found: dict[int, list[Node]] = defaultdict(list)
    for node in graph.nodes:
        for read in input_nodes(node):
            found[id(read)].append(node)
    for node in graph.outputs.values():
        found[id(node)].append(Node("output", (node,)))
    return found


def redirect_reads(graph: Graph, instead: Mapping[int, Node], before: Mapping[int, list[Node]] | None = None) -> Graph:
    """Every node that reads one of `instead` (by id) reads the other; `before`: new nodes in front of a node (by "
    "id)."""

    def final(node: Node) -> Node:
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
    """Whether an argument is a node of one of these operations (overloads left off: "mul" is "mul.Tensor" too)."""
    return isinstance(value, Node) and (value.op in names or value.op.partition(".")[0] in names)


def both_orders(node: Node) -> list[tuple[Any, Any]]:
    """The two orders of the first two arguments."""
    first, second = node.args[0], node.args[1]
    return [(first, second), (second, first)]
