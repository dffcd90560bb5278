"""Products that read the same input become one, their weights joined at load: packed rows join as float rows do."""

from typing import Any

import mlx.core as mx

from mlx_hf_bridge.layers.linear import QuantizedEmbedding
from mlx_hf_bridge.tracing.graph import WEIGHT, Graph, Node, input_nodes


def fuse_linear_layers(graph: Graph, table: dict[str, Any]) -> Graph:
    """The graph with one weight for each "bridge.linears", and `table` with those in the place of their parts."""
    nodes: list[Node] = []
    for node in graph.nodes:
        if node.op == "bridge.linears" and isinstance(node.args[1], list):
            x, weights, biases = node.args[:3]
            sizes = [_rows(table[weight.args[0]]) for weight in weights]
            joined = [_join(part, table) for part in (weights, biases)]
            nodes += [part for part in joined if part is not None]
            node.replace("bridge.linears", x, joined[0], joined[1], sizes)
        nodes.append(node)
    read = {id(part) for node in nodes for part in input_nodes(node)} | {id(node) for node in graph.outputs.values()}
    kept = tuple(node for node in nodes if node.op != WEIGHT or id(node) in read)
    names = {node.args[0] for node in kept if node.op == WEIGHT}
    unread = {node.args[0] for node in nodes if node.op == WEIGHT} - names
    for name in unread:
        table.pop(name, None)
    return Graph(graph.facts, kept, graph.inputs, graph.outputs, graph.axes, graph.guards)


def _rows(weight: Any) -> int:
    return int(weight.scales.shape[0] if isinstance(weight, QuantizedEmbedding) else weight.shape[0])


def _join(parts: list[Node] | None, table: dict[str, Any]) -> Node | None:
    """Parts (O, I) or (O,) one below the other, as a weight of its own; None for no biases."""
    if not parts:
        return None
    name = "+".join(part.args[0] for part in parts)
    if name not in table:
        table[name] = _below([table[part.args[0]] for part in parts])
    return Node(WEIGHT, (name,))


def _below(parts: list[Any]) -> Any:
    if not isinstance(parts[0], QuantizedEmbedding):
        return mx.concatenate(parts, axis=0)
    first = parts[0]
    whole = QuantizedEmbedding(mx.zeros((1, first.group_size)), first.group_size, first.bits, first.mode)
    whole.dtype = first.dtype
    for leaf in ("weight", "scales", *(("biases",) if "biases" in first else ())):
        whole[leaf] = mx.concatenate([part[leaf] for part in parts], axis=0)
    return whole
