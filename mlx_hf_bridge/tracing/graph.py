"""A traced module as data: nodes in the order in which they are computed, each with one value."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

# A weight is a parameter, cast to the dtype of the activations; a constant keeps its dtype.
INPUT, WEIGHT, CONSTANT = "input", "weight", "constant"
# Operations whose value is a tensor that is stored with the graph.
TENSOR_OPS = (WEIGHT, CONSTANT)


@dataclass(eq=False)
class Node:
    """One operation, whose arguments may be other nodes.

    Args:
        op: The name of the operation, or "input", "weight" or "constant", whose only argument is a name.
        args: Positional arguments: nodes, numbers, strings, None, and lists of these.
        options: Keyword arguments.
        dtype: torch's dtype of the value where a pass needs it; "" in graphs that were read from a file.
    """

    op: str
    args: tuple[Any, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    dtype: str = ""

    def replace(self, op: str, *args: Any, **options: Any) -> None:
        """Turn the node into another operation, for all that read it."""
        self.op, self.args, self.options = op, args, options


@dataclass(frozen=True)
class Facts:
    """What callers must know about a traced module without running it.

    Args:
        model_class: The name of its transformers class.
        model_type: `model_type` of its config.
        task: The task whose outputs it has.
        base_prefix: The first part of the names of the base model's tensors.
        vocab_size: The number of token ids.
        hidden_size: The hidden size.
        layers: The number of layers.
        heads: The number of attention heads.
        type_vocab_size: The number of token type ids; 0 for none.
        max_length: The most tokens of a text.
        pad_token_id: The id of the padding token.
        length_dependent: Whether the amount of padding changes the outputs.
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
    """One input of a graph.

    Args:
        axes: "B" or "L" for axes that vary, else their size.
        dtype: "int64" or "float32".
        optional: Whether leaving it out is the same as passing 0 (for the mask: 1).
    """

    axes: tuple[str | int, ...]
    dtype: str = "int64"
    optional: bool = True


@dataclass(frozen=True)
class Graph:
    """A traced module.

    Args:
        facts: What callers must know about it.
        nodes: The nodes; each comes after those that it reads.
        inputs: The inputs by name.
        outputs: The nodes of the outputs by name.
        axes: The axes of each output: "B", "L", a size, or "?" for any other size.
        guards: Conditions on B and L under which the graph is valid, in the grammar of guards.py.
    """

    facts: Facts
    nodes: tuple[Node, ...]
    inputs: Mapping[str, GraphInput]
    outputs: Mapping[str, Node]
    axes: Mapping[str, tuple[str | int, ...]]
    guards: tuple[str, ...] = ()

    def weights(self) -> list[str]:
        """Return the names of the tensors that the graph reads, in order."""
        return [node.args[0] for node in self.nodes if node.op in TENSOR_OPS]


def iterate_nodes(value: Any) -> Iterator[Node]:
    """Yield the nodes in an argument, those inside lists and dicts included."""
    if isinstance(value, Node):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from iterate_nodes(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from iterate_nodes(item)


def input_nodes(node: Node) -> list[Node]:
    """Return the nodes that a node reads, in the order of its arguments."""
    return list(iterate_nodes((node.args, node.options)))


def map_nodes(value: Any, change: Callable[[Node], Any]) -> Any:
    """Return an argument in which each node is replaced by the result of a function."""
    if isinstance(value, Node):
        return change(value)
    if isinstance(value, (list, tuple)):
        return type(value)(map_nodes(item, change) for item in value)
    if isinstance(value, dict):
        return {key: map_nodes(item, change) for key, item in value.items()}
    return value
