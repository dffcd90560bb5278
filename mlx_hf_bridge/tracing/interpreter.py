"""A graph run on MLX: its nodes in order, each an entry of the table of operations.

B texts, L tokens.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import mlx.core as mx

from mlx_hf_bridge.errors import BridgeError, UnsupportedModelError
from mlx_hf_bridge.tracing.graph import INPUT, TENSOR_OPS, Graph, Node, input_nodes
from mlx_hf_bridge.tracing.ops import OPERATIONS
from mlx_hf_bridge.tracing.ops.dtypes import is_float

Step = Callable[[list[Any]], Any]


class Program:
    """Some of a graph's nodes, ready to be run: inputs by name -> those nodes' values.

    weights: what `weight` nodes stand for: arrays, or packed tables. dtype: of the activations.
    """

    def __init__(self, graph: Graph, wanted: list[Node], weights: Mapping[str, Any], dtype: mx.Dtype) -> None:
        self._needed = required_nodes(graph, wanted)
        self._places = {id(node): place for place, node in enumerate(self._needed)}
        self._wanted = [self._places[id(node)] for node in wanted]
        self._dtype = dtype
        self._steps = [self._step(node, weights) for node in self._needed]
        self._inputs = [(self._places[id(node)], node.args[0]) for node in self._needed if node.op == INPUT]
        self._ends = self._last_reads()

    def __call__(self, inputs: Mapping[str, mx.array]) -> list[Any]:
        values: list[Any] = [None] * len(self._needed)
        for place, name in self._inputs:
            values[place] = inputs[name]
        for place, step in enumerate(self._steps):
            if step is not None:
                values[place] = self._run(place, step, values)
            for end in self._ends[place]:
                values[end] = None
        return [values[place] for place in self._wanted]

    def _run(self, place: int, step: Step, values: list[Any]) -> Any:
        try:
            return step(values)
        except BridgeError:
            raise
        except Exception as error:  # whatever MLX raises for operands that do not fit
            raise UnsupportedModelError(
                f"node {place} of the graph ({self._needed[place].op}) cannot be computed: {error}. Convert the model "
                "again; if that does not help, use transformers on torch for it."
            ) from error

    def _step(self, node: Node, weights: Mapping[str, Any]) -> Step | None:
        if node.op == INPUT:
            return None
        if node.op in TENSOR_OPS:
            weight = weights[node.args[0]]
            return lambda values: weight
        function = OPERATIONS[node.op]
        if self._dtype != mx.float32:
            function = _narrowing(function, self._dtype)
        args, options = [self._reader(arg) for arg in node.args], node.options
        readers = {name: self._reader(option) for name, option in options.items()}
        if all(isinstance(arg, Node) for arg in node.args) and not options:
            places = [self._places[id(arg)] for arg in node.args]
            return lambda values: function(*[values[place] for place in places])
        return lambda values: function(
            *[read(values) for read in args], **{name: read(values) for name, read in readers.items()}
        )

    def _reader(self, arg: Any) -> Step:
        if isinstance(arg, Node):
            place = self._places[id(arg)]
            return lambda values: values[place]
        if isinstance(arg, (list, tuple)):
            if not any(True for _ in input_nodes(Node("", (arg,)))):
                return lambda values: arg
            readers = [self._reader(item) for item in arg]
            return lambda values: [read(values) for read in readers]
        if isinstance(arg, float) and self._dtype != mx.float32:
            arg = _within(arg, self._dtype)
        return lambda values: arg

    def _last_reads(self) -> list[list[int]]:
        """For each place the values that nothing reads afterwards."""
        last: dict[int, int] = {}
        for place, node in enumerate(self._needed):
            for read in input_nodes(node):
                last[self._places[id(read)]] = place
        ends: list[list[int]] = [[] for _ in self._needed]
        for value, place in last.items():
            if value not in self._wanted:
                ends[place].append(value)
        return ends


def required_nodes(graph: Graph, wanted: list[Node]) -> list[Node]:
    """The nodes that the wanted ones read, themselves included, in the graph's order."""
    found: set[int] = set()
    waiting = list(wanted)
    while waiting:
        node = waiting.pop()
        if id(node) not in found:
            found.add(id(node))
            waiting += input_nodes(node)
    return [node for node in graph.nodes if id(node) in found]


def _narrowing(function: Callable[..., Any], dtype: mx.Dtype) -> Callable[..., Any]:
    """Float32 beside half precision is made half, so that a mask or an angle does not widen the activations."""

    def narrowed(*args: Any, **options: Any) -> Any:
        if any(isinstance(arg, mx.array) and arg.dtype == dtype for arg in args):
            args = tuple(_narrow(arg, dtype) for arg in args)
            if options.get("dtype") in ("float32", "float64"):
                options = {name: value for name, value in options.items() if name != "dtype"}
        return function(*args, **options)

    return narrowed


def _narrow(arg: Any, dtype: mx.Dtype) -> Any:
    if not is_float(arg) or arg.dtype == dtype:
        return arg
    limit = mx.finfo(dtype).max
    return mx.clip(arg, -limit, limit).astype(dtype)


def _within(number: float, dtype: mx.Dtype) -> float:
    """torch's smallest float32 is -inf in half precision, and rows of it are NaN."""
    limit = float(mx.finfo(dtype).max)
    return number if math.isinf(number) else min(max(number, -limit), limit)
