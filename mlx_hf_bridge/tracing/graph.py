"""A traced module as data: nodes in the order in which they are computed, each of one value."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

# A weight is a parameter, cast to what is computed in; a constant keeps its dtype.
INPUT, WEIGHT, CONSTANT = "input", "weight", "constant"
TENSOR_OPS = (WEIGHT, CONSTANT)


@dataclass(eq=False)
class Node:
    """One operation, other nodes among its arguments; an input, a weight or a constant has its name for one.

    dtype: torch's of its value, as far as a pass must know; a graph that is read back has none.
    """

    op: str
    args: tuple[Any, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    dtype: str = ""

    def replace(self, op: str, *args: Any, **options: Any) -> None:
        """Become another operation, in the same place."""
        self.op, self.args, self.options = op, args, options


@dataclass(frozen=True)
class Facts:
    """What a caller must know of a traced module without running it.

    model_class, base_prefix: its transformers class, and the first word of that class's base tensors. segments: how
    many kinds it takes, 0 = none. max_length: the most tokens. padding_shows: what stands in the slots beside a text
    changes its answer.
    """

    model_class: str
    model_type: str
    task: str
    base_prefix: str
    vocab_size: int
    hidden_size: int
    layers: int
    heads: int
    type_vocab_size: int
    max_length: int
    pad_token_id: int | None
    length_dependent: bool


@dataclass(frozen=True)
class GraphInput:
    """One input: its axes, B and L for those that vary, and its dtype; optional: left out, it is 0 (a mask 1)."""

    axes: tuple[str | int, ...]
    dtype: str = "int64"
    optional: bool = True


@dataclass(frozen=True)
class Graph:
    """nodes: each after those that it reads. axes: of each output; "?" = of a size of its own.

    guards: what must hold of B (texts) and L (tokens), in the grammar of guards.py.
    """

    facts: Facts
    nodes: tuple[Node, ...]
    inputs: Mapping[str, GraphInput]
    outputs: Mapping[str, Node]
    axes: Mapping[str, tuple[str | int, ...]]
    guards: tuple[str, ...] = ()

    def weights(self) -> list[str]:
        """The names of the tensors that it reads, in order."""
        return [node.args[0] for node in self.nodes if node.op in TENSOR_OPS]


def iterate_nodes(value: Any) -> Iterator[Node]:
    """The nodes in an argument, lists looked through."""
    if isinstance(value, Node):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from iterate_nodes(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from iterate_nodes(item)


def input_nodes(node: Node) -> list[Node]:
    """The nodes that a node reads, in the order of its arguments."""
    return list(iterate_nodes((node.args, node.options)))


def map_nodes(value: Any, change: Callable[[Node], Any]) -> Any:
    """An argument with each node in it changed."""
    if isinstance(value, Node):
        return change(value)
    if isinstance(value, (list, tuple)):
        return type(value)(map_nodes(item, change) for item in value)
    if isinstance(value, dict):
        return {key: map_nodes(item, change) for key, item in value.items()}
    return value
