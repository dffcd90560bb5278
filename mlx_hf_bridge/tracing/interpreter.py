"""Run a graph on MLX: its nodes in order, each by a function from the table of operations.

B texts, L tokens.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import mlx.core as mx

from mlx_hf_bridge.errors import BridgeError, UnsupportedModelError
from mlx_hf_bridge.tracing.graph import INPUT, TENSOR_OPS, Graph, Node, input_nodes
from mlx_hf_bridge.tracing.ops import OPERATIONS
from mlx_hf_bridge.tracing.ops.bounds import check_bytes, count_bytes, memory_budget
from mlx_hf_bridge.tracing.ops.dtypes import is_float

# Operations that read float32 next to half precision: periods in half precision would turn distant tokens wrongly.
_WIDENS_ITSELF = frozenset({"bridge.rope"})

Step = Callable[[list[Any]], Any]


class Program:
    """The nodes that some outputs of a graph need, ready to run.

    Called with the inputs by name, it returns the values of the outputs in the order given.

    Args:
        graph: The graph.
        outputs: The nodes whose values are returned.
        weights: Arrays and packed tables by name.
        dtype: The dtype of the activations.
    """

    def __init__(self, graph: Graph, outputs: list[Node], weights: Mapping[str, Any], dtype: mx.Dtype) -> None:
        self._nodes = required_nodes(graph, outputs)
        self._index = {id(node): index for index, node in enumerate(self._nodes)}
        self._output_indices = [self._index[id(node)] for node in outputs]
        self._dtype = dtype
        self._steps = [self._step(node, weights) for node in self._nodes]
        self._inputs = [(self._index[id(node)], node.args[0]) for node in self._nodes if node.op == INPUT]
        self._ends = self._last_reads()
        # The model's own tensors are not counted: they are in memory already.
        self._stored = {index for index, node in enumerate(self._nodes) if node.op in TENSOR_OPS}
        self._budget = memory_budget()

    def __call__(self, inputs: Mapping[str, mx.array]) -> list[Any]:
        values: list[Any] = [None] * len(self._nodes)
        for index, name in self._inputs:
            values[index] = inputs[name]
        # What is alive at once, checked before anything is evaluated: MLX is lazy.
        sizes, alive = [0] * len(values), 0
        for index, step in enumerate(self._steps):
            if step is not None:
                values[index] = self._run(index, step, values)
                sizes[index] = 0 if index in self._stored else count_bytes(values[index])
                alive += sizes[index]
                if alive > self._budget:
                    check_bytes(alive, f"makes arrays ({self._nodes[index].op}, node {index})")
            # Dropping the last reference lets MLX free or reuse the buffer.
            for end in self._ends[index]:
                values[end] = None
                alive -= sizes[end]
        return [values[index] for index in self._output_indices]

    def _run(self, index: int, step: Step, values: list[Any]) -> Any:
        try:
            return step(values)
        except BridgeError:
            raise
        except Exception as error:  # MLX raises several types for operands that do not fit
            raise UnsupportedModelError(
                f"node {index} of the graph ({self._nodes[index].op}) cannot be computed: {error}. Convert the model "
                "again; if that does not help, use transformers on torch for it."
            ) from error

    def _step(self, node: Node, weights: Mapping[str, Any]) -> Step | None:
        if node.op == INPUT:
            return None
        if node.op in TENSOR_OPS:
            weight = weights[node.args[0]]
            return lambda values: weight
        function = OPERATIONS[node.op]
        if self._dtype != mx.float32 and node.op not in _WIDENS_ITSELF:
            # torch traced in float32; masks and constants of the graph would turn half precision back into float32.
            function = _cast_mixed(function, self._dtype)
        args, options = [self._reader(arg) for arg in node.args], node.options
        readers = {name: self._reader(option) for name, option in options.items()}
        # The common case without readers, since every node costs Python time on every call.
        if all(isinstance(arg, Node) for arg in node.args) and not options:
            indices = [self._index[id(arg)] for arg in node.args]
            return lambda values: function(*[values[index] for index in indices])
        return lambda values: function(
            *[read(values) for read in args], **{name: read(values) for name, read in readers.items()}
        )

    def _reader(self, arg: Any) -> Step:
        if isinstance(arg, Node):
            index = self._index[id(arg)]
            return lambda values: values[index]
        if isinstance(arg, (list, tuple)):
            if not any(True for _ in input_nodes(Node("", (arg,)))):
                return lambda values: arg
            readers = [self._reader(item) for item in arg]
            return lambda values: [read(values) for read in readers]
        if isinstance(arg, float) and self._dtype != mx.float32:
            arg = _clip_to_range(arg, self._dtype)
        return lambda values: arg

    def _last_reads(self) -> list[list[int]]:
        """Return, for each node, the values that nothing reads after it, so that their memory is freed."""
        last: dict[int, int] = {}
        for index, node in enumerate(self._nodes):
            for read in input_nodes(node):
                last[self._index[id(read)]] = index
        ends: list[list[int]] = [[] for _ in self._nodes]
        for value, index in last.items():
            if value not in self._output_indices:
                ends[index].append(value)
        return ends


def required_nodes(graph: Graph, wanted: list[Node]) -> list[Node]:
    """Return the nodes that some nodes depend on, themselves included, in the order of the graph."""
    found: set[int] = set()
    waiting = list(wanted)
    while waiting:
        node = waiting.pop()
        if id(node) not in found:
            found.add(id(node))
            waiting += input_nodes(node)
    # In the order of the graph, in which every node comes after those that it reads.
    return [node for node in graph.nodes if id(node) in found]


def _cast_mixed(function: Callable[..., Any], dtype: mx.Dtype) -> Callable[..., Any]:
    """Wrap an operation so that float32 arguments next to half-precision ones become half precision.

    Without this a mask or an angle in float32 would widen the activations.
    """

    def operation(*args: Any, **options: Any) -> Any:
        if any(isinstance(arg, mx.array) and arg.dtype == dtype for arg in args):
            args = tuple(_cast(arg, dtype) for arg in args)
            # The graph's casts to float32 were casts to the model's dtype when it was traced.
            if options.get("dtype") in ("float32", "float64"):
                options = {name: value for name, value in options.items() if name != "dtype"}
        return function(*args, **options)

    return operation


def _cast(arg: Any, dtype: mx.Dtype) -> Any:
    """Cast a float array to another dtype, clipped to its range; other values pass unchanged."""
    if not is_float(arg) or arg.dtype == dtype:
        return arg
    # float32's minimum, which masks use, would become -inf in float16, and a row of it NaN.
    limit = mx.finfo(dtype).max
    return mx.clip(arg, -limit, limit).astype(dtype)


def _clip_to_range(number: float, dtype: mx.Dtype) -> float:
    """Clip a number to the range of a dtype.

    torch's smallest float32 would be -inf in half precision, and a row of -inf becomes NaN in a softmax.
    """
    limit = float(mx.finfo(dtype).max)
    # An infinity that the model itself wrote keeps its meaning.
    return number if math.isinf(number) else min(max(number, -limit), limit)
