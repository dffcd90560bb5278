"""Concatenate the weights of linear layers that read the same input, when a model is loaded; packed rows as well."""

from typing import Any

import mlx.core as mx

from mlx_hf_bridge.errors import UnsupportedModelError
from mlx_hf_bridge.layers.linear import QuantizedEmbedding
from mlx_hf_bridge.tracing.graph import WEIGHT, Graph, Node, input_nodes


def fuse_linear_layers(graph: Graph, table: dict[str, Any]) -> Graph:
    """Replace each group of linear layers ("bridge.linears") by one with the concatenated weight.

    Args:
        graph: The graph, whose groups still list the weights of their layers.
        table: Arrays and packed tables by name; fused ones are added, and those that nothing reads any more removed.

    Returns:
        The graph that reads the fused weights.

    Raises:
        UnsupportedModelError: If a group is none that a conversion writes.
    """
    nodes: list[Node] = []
    for node in graph.nodes:
        # A list of weights is the form in files; after fusion it is one node.
        if node.op == "bridge.linears" and (len(node.args) < 2 or isinstance(node.args[1], list)):
            x, weights, biases = _parts(node)
            sizes = [_rows(table[weight.args[0]]) for weight in weights]
            try:
                fused = [_concatenate(part, table) for part in (weights, biases)]
            # MLX's for shapes that do not fit; the others for packed tables next to float ones.
            except (ValueError, TypeError, AttributeError, KeyError) as error:
                raise UnsupportedModelError(
                    f"graph.json joins linear layers whose weights do not fit each other ({error}). Convert the model "
                    "again."
                ) from error
            nodes += [part for part in fused if part is not None]
            node.replace("bridge.linears", x, fused[0], fused[1], sizes)
        nodes.append(node)
    read = {id(part) for node in nodes for part in input_nodes(node)} | {id(node) for node in graph.outputs.values()}
    kept = tuple(node for node in nodes if node.op != WEIGHT or id(node) in read)
    names = {node.args[0] for node in kept if node.op == WEIGHT}
    unread = {node.args[0] for node in nodes if node.op == WEIGHT} - names
    for name in unread:
        # Frees the separate weights, which would double the memory.
        table.pop(name, None)
    return Graph(graph.facts, kept, graph.inputs, graph.outputs, graph.axes, graph.guards)


def _parts(node: Node) -> tuple[Any, list[Node], list[Node] | None]:
    """Return the input of a group, its weights, and its biases or None."""
    x, weights, biases = node.args if len(node.args) == 3 else (None, [], None)
    lists = [weights] if biases is None else [weights, biases]
    if not weights or not all(
        isinstance(part, list)
        and len(part) == len(weights)
        and all(isinstance(item, Node) and item.op == WEIGHT for item in part)
        for part in lists
    ):
        raise UnsupportedModelError(
            f"graph.json has {str(node.args)[:80]} for {node.op}, expected an input, weights, and as many biases or "
            "none. Convert the model again."
        )
    return x, weights, biases


def _rows(weight: Any) -> int:
    return int(weight.scales.shape[0] if isinstance(weight, QuantizedEmbedding) else weight.shape[0])


def _concatenate(parts: list[Node] | None, table: dict[str, Any]) -> Node | None:
    """Add the stacked parts (O, I) or (O,) to the table and return their node; None for no biases."""
    if not parts:
        return None
    # The joined names are the key, so two groups of the same weights share one array.
    name = "+".join(part.args[0] for part in parts)
    if name not in table:
        table[name] = _stack([table[part.args[0]] for part in parts])
    return Node(WEIGHT, (name,))


def _stack(parts: list[Any]) -> Any:
    """Return arrays or packed tables stacked along the first axis."""
    if not isinstance(parts[0], QuantizedEmbedding):
        return mx.concatenate(parts, axis=0)
    first = parts[0]
    # The smallest table that can be quantized; its arrays are replaced below.
    stacked = QuantizedEmbedding(mx.zeros((1, first.group_size)), first.group_size, first.bits, first.mode)
    stacked.dtype = first.dtype
    for leaf in ("weight", "scales", *(("biases",) if "biases" in first else ())):
        stacked[leaf] = mx.concatenate([part[leaf] for part in parts], axis=0)
    return stacked
