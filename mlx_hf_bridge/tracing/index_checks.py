"""Every look-up of a graph stays inside its table: MLX itself would read foreign memory past the end.

The whole numbers that a look-up goes by are computed apart, before the graph runs: once a shape where they follow from
sizes alone, else on every call. Numbers that are computed from hidden states (argmax, top k) are within by themselves.
"""

from collections.abc import Mapping
from typing import Any

import mlx.core as mx

from mlx_hf_bridge.errors import TokenRangeError
from mlx_hf_bridge.layers.linear import QuantizedModule
from mlx_hf_bridge.tracing.graph import INPUT, TENSOR_OPS, Graph, Node, input_nodes, iterate_nodes
from mlx_hf_bridge.tracing.interpreter import Program, required_nodes

# Operations whose results are hidden states.
_DEEP = ("linear", "layer_norm", "matmul", "scaled_dot_product_attention", "embedding", "bridge.", "softmax.int", "bmm")
_MOST_SHAPES = 256


class IndexChecks:
    """The look-ups of a graph and the places that they go by."""

    def __init__(self, graph: Graph, weights: Mapping[str, Any]) -> None:
        deep = _deep(graph)
        found = [
            (table, axis, places)
            for node in graph.nodes
            for table, axis, places in _look_ups(node)
            if id(places) not in deep
        ]
        by_shape = [item for item in found if not _reads_values(graph, item[2])]
        by_value = [item for item in found if item not in by_shape]
        self._once = _CheckGroup(graph, by_shape, weights)
        self._always = _CheckGroup(graph, by_value, weights)
        self._seen: dict[tuple[tuple[int, ...], ...], bool] = {}

    def check(self, inputs: Mapping[str, mx.array]) -> None:
        """TokenRangeError for a place outside its table."""
        shapes = tuple(array.shape for array in inputs.values())
        if shapes not in self._seen:
            self._once(inputs)
            if len(self._seen) >= _MOST_SHAPES:
                self._seen.clear()
            self._seen[shapes] = True
        self._always(inputs)


class _CheckGroup:
    """Some look-ups: the program of their places, and the sizes of the axes that they go along."""

    def __init__(self, graph: Graph, look_ups: list[tuple[Node, int, Node]], weights: Mapping[str, Any]) -> None:
        # A computed table's size is not known here; a graph looks such up along axes of its own sizes.
        kept = [item for item in look_ups if item[0].op in TENSOR_OPS]
        unique = {(id(places), _rows(weights[table.args[0]], axis)): places for table, axis, places in kept}
        self._sizes = [rows for _, rows in unique]
        self._program = Program(graph, list(unique.values()), weights, mx.float32) if unique else None

    def __call__(self, inputs: Mapping[str, mx.array]) -> None:
        if self._program is None:
            return
        places = self._program(inputs)
        least, most = ([best(array) for array in places] for best in (mx.min, mx.max))
        mx.eval(least, most)
        for low, high, size in zip(least, most, self._sizes, strict=True):
            first, last = _number(low), _number(high)
            if first < -size or last >= size:
                raise TokenRangeError(
                    f"the model looks up the places {first} to {last} in a table of {size} rows. Give ids, segments "
                    "and boxes that the model knows, and texts that are no longer than it takes."
                )


def _number(array: mx.array) -> int:
    number: Any = array.item()
    return int(number)


def _rows(table: Any, axis: int) -> int:
    rows: int = (table.scales if isinstance(table, QuantizedModule) else table).shape[axis]
    return rows


def _look_ups(node: Node) -> list[tuple[Node, int, Node]]:
    """(table, axis, places) of each axis that a node looks up."""
    if node.op == "embedding":
        return [(node.args[0], 0, node.args[1])]
    if node.op in ("index_select", "gather"):
        return [(node.args[0], node.args[1], node.args[2])]
    if node.op == "index.Tensor":
        return [(node.args[0], axis, places) for axis, places in enumerate(node.args[1]) if places is not None]
    return []


def _deep(graph: Graph) -> set[int]:
    """The nodes that follow from hidden states."""
    deep: set[int] = set()
    for node in graph.nodes:
        if node.op.startswith(_DEEP) or any(id(read) in deep for read in iterate_nodes((node.args, node.options))):
            deep.add(id(node))
    return deep


def _reads_values(graph: Graph, wanted: Node) -> bool:
    """Whether a node follows from an input's values, not from its sizes alone."""
    valued: set[int] = set()
    for node in required_nodes(graph, [wanted]):
        if node.op == "sym_size.int":
            continue
        if node.op == INPUT or any(id(read) in valued for read in input_nodes(node)):
            valued.add(id(node))
    return id(wanted) in valued
