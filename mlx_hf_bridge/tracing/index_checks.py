"""Check the indices of a graph before it runs, since an index past the end of a table is an error, as in torch.

The integers that index a table are computed separately: once for each shape where they depend on sizes only, else on
every call. Those computed from hidden states cannot be known before the model runs; the operations clip them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from mlx_hf_bridge.errors import TokenRangeError, UnsupportedModelError
from mlx_hf_bridge.layers.linear import QuantizedModule
from mlx_hf_bridge.runtime.device import check_stream
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


@dataclass(frozen=True, eq=False)
class _Lookup:
    """One axis of a table that a node reads or writes at indices; `wraps` if negative ones count from the end."""

    table: Node
    axis: int | None
    indices: Node
    wraps: bool = False


class IndexChecks:
    """The lookups of a graph with their indices.

    Args:
        graph: The graph.
        weights: Arrays and packed tables by name.
    """

    def __init__(self, graph: Graph, weights: Mapping[str, Any]) -> None:
        hidden = _from_hidden_states(graph)
        found = [item for node in graph.nodes for item in _lookups(node) if id(item.indices) not in hidden]
        by_value = [item for item in found if _reads_values(graph, item.indices)]
        # Hidden states are indexed by ranges of their own sizes, for which their size need not be found out.
        by_shape = [item for item in found if item not in by_value and id(item.table) not in hidden]
        # By shape: checked once for each. By value: on every call.
        self._once = _CheckGroup(graph, by_shape, weights)
        self._always = _CheckGroup(graph, by_value, weights)
        # The sizes of the axes that are checked on every call, by the shapes of the inputs.
        self._sizes: dict[tuple[tuple[int, ...], ...], list[int]] = {}

    def check(self, inputs: Mapping[str, mx.array]) -> None:
        """Check all indices that a call would use.

        Args:
            inputs: The inputs of the call, by name.

        Raises:
            TokenRangeError: If an index is outside its table.
        """
        shapes = tuple(array.shape for array in inputs.values())
        if shapes not in self._sizes:
            self._once.check(inputs, self._once.sizes(inputs))
            if len(self._sizes) >= _MAX_SHAPES:
                self._sizes.clear()
            self._sizes[shapes] = self._always.sizes(inputs)
        self._always.check(inputs, self._sizes[shapes])


class _CheckGroup:
    """Some lookups, and the programs that compute their indices and the tables whose sizes are not known yet."""

    def __init__(self, graph: Graph, lookups: list[_Lookup], weights: Mapping[str, Any]) -> None:
        unique = {(id(item.indices), _table_key(item), item.axis, item.wraps): item for item in lookups}
        self._lookups = list(unique.values())
        # Only the nodes that lead to indices, which is a small part of the graph.
        self._indices = _program(graph, [item.indices for item in self._lookups], weights)
        self._held = {item.table: weights[item.table.args[0]] for item in lookups if item.table.op in TENSOR_OPS}
        self._computed = list(dict.fromkeys(item.table for item in self._lookups if item.table not in self._held))
        self._tables = _program(graph, self._computed, weights)

    def sizes(self, inputs: Mapping[str, mx.array]) -> list[int]:
        """Return the sizes of the axes that are indexed; nothing is evaluated, since MLX knows shapes before."""
        tables = {**self._held, **dict(zip(self._computed, self._tables(inputs), strict=True))}
        return [_size(tables[item.table], item.axis) for item in self._lookups]

    def check(self, inputs: Mapping[str, mx.array], sizes: list[int]) -> None:
        """Compute the indices, and check them against the sizes."""
        # In a stream of its own, so that nothing waits for the batches that a GPU computes.
        with mx.stream(check_stream()):
            found = zip(self._lookups, self._indices(inputs), sizes, strict=True)
            # A mask picks elements and has no indices.
            kept = [
                (item, array, size)
                for item, array, size in found
                if isinstance(array, mx.array) and array.size and mx.issubdtype(array.dtype, mx.integer)
            ]
            bounds = [mx.stack([mx.min(array), mx.max(array)]).astype(mx.int64) for _, array, _ in kept]
            # All in one array, which is evaluated once when it is read.
            read: Any = mx.stack(bounds).tolist() if bounds else []
        for (item, _, size), (first, last) in zip(kept, read, strict=True):
            if first < (-size if item.wraps else 0) or last >= size:
                raise TokenRangeError(
                    f"the model reads the indices {first} to {last} of a table of {size} rows. Pass ids, token type "
                    "ids and boxes within the model's range, and texts no longer than its maximum length."
                )


def _program(
    graph: Graph, nodes: list[Node], weights: Mapping[str, Any]
) -> Callable[[Mapping[str, mx.array]], list[Any]]:
    return Program(graph, nodes, weights, mx.float32) if nodes else lambda inputs: []


def _table_key(item: _Lookup) -> Any:
    """Return the same key for nodes that read one tensor, so that its lookups by one node are checked once."""
    return item.table.args[0] if item.table.op in TENSOR_OPS else id(item.table)


def _size(table: Any, axis: int | None) -> int:
    try:
        array = table.scales if isinstance(table, QuantizedModule) else table
        size: int = array.size if axis is None else array.shape[axis]
    except (AttributeError, IndexError) as error:  # a number in place of an array, or an axis that it lacks
        raise UnsupportedModelError(
            f"the graph indexes axis {axis} of {str(table)[:40]}, which has none. Convert the model again."
        ) from error
    return size


def _lookups(node: Node) -> list[_Lookup]:
    """Return each axis that a node reads or writes at indices which it computes."""
    arguments: tuple[Any, ...] = (*node.args, None, None, None)
    table, *others = arguments
    found: list[tuple[Any, Any, bool]] = []
    if node.op == "embedding":
        found = [(0, others[0], False)]
    elif node.op in ("index_select", "gather", "scatter.src", "scatter.value", "scatter_add", "scatter_reduce.two"):
        found = [(others[0], others[1], False)]
    elif node.op == "take_along_dim":
        found = [(others[1], others[0], False)]
    elif node.op == "select.int":
        found = [(others[0], others[1], True)]
    elif node.op in ("index.Tensor", "index_put") and isinstance(others[0], list):
        found = [(axis, indices, True) for axis, indices in enumerate(others[0])]
    # What has other arguments is refused when it runs.
    return [
        _Lookup(table, axis, indices, wraps)
        for axis, indices, wraps in found
        if isinstance(table, Node) and isinstance(indices, Node) and (axis is None or type(axis) is int)
    ]


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
