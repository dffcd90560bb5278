"""Products of one input become one: queries, keys and values, or a gate with what it gates."""

from collections import defaultdict

import mlx.core as mx

from mlx_hf_bridge.tracing.graph import WEIGHT, Graph, Node
from mlx_hf_bridge.tracing.passes.rewriting import find_readers, is_call, redirect_reads


def group_linear_layers(graph: Graph, tensors: dict[str, mx.array]) -> Graph:
    """linear(x, ...) of one x -> parts of one "bridge.linears" (x, weights, biases or None)."""
    read_from = find_readers(graph)
    groups: dict[tuple[int, bool], list[Node]] = defaultdict(list)
    for node in graph.nodes:
        if node.op == "linear" and _is_own(node, read_from, tensors):
            groups[id(node.args[0]), len(node.args) > 2 and node.args[2] is not None].append(node)
    before: dict[int, list[Node]] = {}
    for (_, has_bias), group in groups.items():
        if len(group) < 2:
            continue
        weights, biases = ([node.args[place] for node in group] if place < 2 or has_bias else None for place in (1, 2))
        joined = Node("bridge.linears", (group[0].args[0], weights, biases))
        before[id(group[0])] = [joined]
        for place, node in enumerate(group):
            node.replace("sym.getitem", joined, place)
    return redirect_reads(_weights_first(graph), {}, before)


def _is_own(node: Node, read_from: dict[int, list[Node]], tensors: dict[str, mx.array]) -> bool:
    """Whether weight and bias are parameters that only this product reads."""
    held = [arg for arg in node.args[1:3] if arg is not None]
    return all(
        isinstance(arg, Node)
        and is_call(arg, WEIGHT)
        and len(read_from[id(arg)]) == 1
        and tensors[arg.args[0]].ndim < 3
        for arg in held
    ) and not any("pooler" in arg.args[0].split(".") for arg in held)


def _weights_first(graph: Graph) -> Graph:
    """Every weight in front, so that a joined product stands behind all of its own."""
    held = [node for node in graph.nodes if node.op == WEIGHT]
    others = [node for node in graph.nodes if node.op != WEIGHT]
    return Graph(graph.facts, (*held, *others), graph.inputs, graph.outputs, graph.axes, graph.guards)
