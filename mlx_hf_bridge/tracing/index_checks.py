"""Check the indices of all lookups of a graph, since MLX reads other memory for an index past the end of a table.

The integers that index a table are computed separately, before the graph runs: once for each shape where they depend
on sizes only, else on every call. Indices computed from hidden states (argmax, top k) are within bounds by
construction.
"""

from collections.abc import Mapping
from typing import Any

import mlx.core as mx

from mlx_hf_bridge.errors import TokenRangeError
from mlx_hf_bridge.layers.linear import QuantizedModule
from mlx_hf_bridge.tracing.graph import INPUT, TENSOR_OPS, Graph, Node, input_nodes, iterate_nodes
from mlx_hf_bridge.tracing.interpreter import Program, required_nodes

# Operations whose results are hidden states.
_HIDDEN_STATE_OPS = (
    "linear",
    "layer_norm",
    "matmul",
    "scaled_dot_product_attention",
    "embedding",
    "bridge.",
    "softmax.int",
    "bmm",
)
# Shapes whose check is remembered; beyond them all are forgotten, and checked again.
_MAX_SHAPES = 256


class IndexChecks:
    """The lookups of a graph with their indices.

    Args:
        graph: The graph.
        weights: Arrays and packed tables by name.
    """

    def __init__(self, graph: Graph, weights: Mapping[str, Any]) -> None:
        computed = _from_hidden_states(graph)
        found = [
            (table, axis, indices)
            for node in graph.nodes
            for table, axis, indices in _lookups(node)
            # Indices that depend on hidden states cannot be known before the model runs.
            if id(indices) not in computed
        ]
        by_shape = [item for item in found if not _reads_values(graph, item[2])]
        by_value = [item for item in found if item not in by_shape]
        # By shape: checked once for each. By value: on every call.
        self._once = _CheckGroup(graph, by_shape, weights)
        self._always = _CheckGroup(graph, by_value, weights)
        self._seen: dict[tuple[tuple[int, ...], ...], bool] = {}

    def check(self, inputs: Mapping[str, mx.array]) -> None:
        """Check all indices that a call would use.

        Args:
            inputs: The inputs of the call, by name.

        Raises:
            TokenRangeError: If an index is outside its table.
        """
        shapes = tuple(array.shape for array in inputs.values())
        if shapes not in self._seen:
            self._once(inputs)
            if len(self._seen) >= _MAX_SHAPES:
                self._seen.clear()
            self._seen[shapes] = True
        self._always(inputs)


class _CheckGroup:
    """Some lookups: the program that computes their indices, and the sizes of the axes that they index."""

    def __init__(self, graph: Graph, lookups: list[tuple[Node, int, Node]], weights: Mapping[str, Any]) -> None:
        # The size of a computed table is not known here; graphs index those by ranges of the same sizes.
        kept = [item for item in lookups if item[0].op in TENSOR_OPS]
        unique = {(id(indices), _rows(weights[table.args[0]], axis)): indices for table, axis, indices in kept}
        self._sizes = [rows for _, rows in unique]
        # Only the nodes that lead to indices, which is a small part of the graph.
        self._program = Program(graph, list(unique.values()), weights, mx.float32) if unique else None

    def __call__(self, inputs: Mapping[str, mx.array]) -> None:
        if self._program is None:
            return
        indices = self._program(inputs)
        least, most = ([best(array) for array in indices] for best in (mx.min, mx.max))
        # Both before any is read: one evaluation for all lookups.
        mx.eval(least, most)
        for low, high, size in zip(least, most, self._sizes, strict=True):
            first, last = _number(low), _number(high)
            # Negative indices count from the end in torch and MLX alike.
            if first < -size or last >= size:
                raise TokenRangeError(
                    f"the model reads the indices {first} to {last} of a table of {size} rows. Pass ids, token type "
                    "ids and boxes within the model's range, and texts no longer than its maximum length."
                )


def _number(array: mx.array) -> int:
    number: Any = array.item()
    return int(number)


def _rows(table: Any, axis: int) -> int:
    rows: int = (table.scales if isinstance(table, QuantizedModule) else table).shape[axis]
    return rows


def _lookups(node: Node) -> list[tuple[Node, int, Node]]:
    """Return (table, axis, indices) for each axis that a node indexes."""
    if node.op == "embedding":
        return [(node.args[0], 0, node.args[1])]
    if node.op in ("index_select", "gather"):
        return [(node.args[0], node.args[1], node.args[2])]
    if node.op == "index.Tensor":
        return [(node.args[0], axis, indices) for axis, indices in enumerate(node.args[1]) if indices is not None]
    return []


def _from_hidden_states(graph: Graph) -> set[int]:
    """Return the ids of the nodes that depend on hidden states."""
    dependent: set[int] = set()
    for node in graph.nodes:
        if node.op.startswith(_HIDDEN_STATE_OPS) or any(
            id(read) in dependent for read in iterate_nodes((node.args, node.options))
        ):
            dependent.add(id(node))
    return dependent


def _reads_values(graph: Graph, wanted: Node) -> bool:
    """Return whether a node depends on the values of an input, not only on its sizes."""
    value_dependent: set[int] = set()
    for node in required_nodes(graph, [wanted]):
        # A size is the same for all inputs of a shape, whatever their values.
        if node.op == "sym_size.int":
            continue
        if node.op == INPUT or any(id(read) in value_dependent for read in input_nodes(node)):
            value_dependent.add(id(node))
    return id(wanted) in value_dependent
