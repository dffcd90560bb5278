"""Group linear layers that read the same input: queries, keys and values, or a gate with what it gates."""

from collections import defaultdict

import mlx.core as mx

from mlx_hf_bridge.tracing.graph import WEIGHT, Graph, Node
from mlx_hf_bridge.tracing.passes.rewriting import find_readers, is_call, redirect_reads


def group_linear_layers(graph: Graph, tensors: dict[str, mx.array]) -> Graph:
    """Replace linear layers that read one x by slices of one "bridge.linears" (x, weights, biases or None).

    Their weights are concatenated when the model is loaded (fused_linear.py).
    """
    read_from = find_readers(graph)
    groups: dict[tuple[int, bool], list[Node]] = defaultdict(list)
    for node in graph.nodes:
        if node.op == "linear" and _has_own_parameters(node, read_from, tensors):
            # Layers with and without a bias cannot share one matmul with a bias.
            groups[id(node.args[0]), len(node.args) > 2 and node.args[2] is not None].append(node)
    before: dict[int, list[Node]] = {}
    for (_, has_bias), group in groups.items():
        if len(group) < 2:
            continue
        weights, biases = ([node.args[index] for node in group] if index < 2 or has_bias else None for index in (1, 2))
        fused = Node("bridge.linears", (group[0].args[0], weights, biases))
        before[id(group[0])] = [fused]
        for index, node in enumerate(group):
            node.replace("sym.getitem", fused, index)
    return redirect_reads(_weights_first(graph), {}, before)


def _has_own_parameters(node: Node, read_from: dict[int, list[Node]], tensors: dict[str, mx.array]) -> bool:
    """Return whether weight and bias are parameters that only this layer reads."""
    parameters = [arg for arg in node.args[1:3] if arg is not None]
    return all(
        isinstance(arg, Node)
        and is_call(arg, WEIGHT)
        # A weight that is read twice, such as a tied one, must stay by itself.
        and len(read_from[id(arg)]) == 1
        and tensors[arg.args[0]].ndim < 3
        for arg in parameters
    ) and not any("pooler" in arg.args[0].split(".") for arg in parameters)


def _weights_first(graph: Graph) -> Graph:
    """Return the graph with all weights in front, so that a group comes after all of its own."""
    weights = [node for node in graph.nodes if node.op == WEIGHT]
    others = [node for node in graph.nodes if node.op != WEIGHT]
    return Graph(graph.facts, (*weights, *others), graph.inputs, graph.outputs, graph.axes, graph.guards)
