"""Read and write graph.json, with bounds and checks on everything read, since a folder may come from anyone.

Nodes are numbered from 0 and refer only to earlier ones, so that no graph has a cycle.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from mlx_hf_bridge.errors import UnsupportedModelError
from mlx_hf_bridge.tracing.graph import INPUT, TENSOR_OPS, Facts, Graph, GraphInput, Node, input_nodes
from mlx_hf_bridge.tracing.guards import Guard
from mlx_hf_bridge.tracing.ops import OPERATIONS

GRAPH_FORMAT = 1
GRAPH_FILE = "graph.json"
# Bounds on what is read, so that a file cannot exhaust memory or the stack.
MAX_BYTES = 64 * 2**20
# The largest models have some thousands.
_MAX_NODES = 50_000
# How many nodes may follow one from the other: mx.compile recurses over them.
_MAX_CHAIN = 5_000
_MAX_ITEMS = 4_096
_MAX_GUARDS = 2_000
_MAX_DEPTH = 4
_MAX_CHARACTERS = 1_000
_MAX_NUMBER = 2**63
_MAX_AXES = 8
_MAX_AXIS_SIZE = 2**24
# Facts' fields whose key in graph.json is older than their name; folders on disk keep it.
_STORED_KEYS = {"type_vocab_size": "segments", "length_dependent": "padding_shows"}


def to_json(graph: Graph) -> dict[str, Any]:
    """Return the content of graph.json for a graph."""
    numbers = {id(node): number for number, node in enumerate(graph.nodes)}
    return {
        "format": GRAPH_FORMAT,
        "facts": {_STORED_KEYS.get(name, name): value for name, value in asdict(graph.facts).items()},
        "inputs": {name: {**asdict(entry), "axes": list(entry.axes)} for name, entry in graph.inputs.items()},
        "outputs": {name: numbers[id(node)] for name, node in graph.outputs.items()},
        "axes": {name: list(graph.axes[name]) for name in graph.outputs},
        "guards": list(graph.guards),
        "nodes": [
            [node.op, _encode(node.args, numbers)] + ([_encode(node.options, numbers)] if node.options else [])
            for node in graph.nodes
        ],
    }


def _encode(value: Any, numbers: Mapping[int, int]) -> Any:
    """Return an argument as JSON: a reference is {"n": number}, and floats that JSON lacks are {"f": "inf"}."""
    if isinstance(value, Node):
        return {"n": numbers[id(value)]}
    if isinstance(value, (list, tuple)):
        return [_encode(item, numbers) for item in value]
    if isinstance(value, dict):
        return {key: _encode(item, numbers) for key, item in value.items()}
    # json would write Infinity, which is not JSON.
    if isinstance(value, float) and not math.isfinite(value):
        return {"f": str(value)}
    return value


def from_json(content: Any) -> Graph:
    """Read a graph from the content of graph.json.

    Args:
        content: The parsed JSON, which is not trusted.

    Returns:
        The graph.

    Raises:
        UnsupportedModelError: If the content is anything that a conversion would not write.
    """
    if not isinstance(content, dict) or type(content.get("format")) is not int or content["format"] != GRAPH_FORMAT:
        given = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise _error(f"has format={given!r}, and this version reads {GRAPH_FORMAT}")
    listed = _typed(content, "nodes", list, _MAX_NODES)
    nodes: list[Node] = []
    for number, entry in enumerate(listed):
        nodes.append(_node(entry, number, nodes))
    _check_chains(nodes)
    inputs = {name: _input(name, entry) for name, entry in _typed(content, "inputs", dict, _MAX_ITEMS).items()}
    for number, node in enumerate(nodes):
        if node.op == INPUT and node.args[0] not in inputs:
            raise _error(f"reads an input {node.args[0]!r} at node {number}, and inputs has {sorted(inputs)}")
    outputs = {name: _output(name, at, nodes) for name, at in _typed(content, "outputs", dict, _MAX_ITEMS).items()}
    if not outputs:
        raise _error("has no outputs")
    axes = _typed(content, "axes", dict, _MAX_ITEMS)
    if set(axes) != set(outputs):
        raise _error(f"has axes of {sorted(axes)!s:.200}, expected those of its outputs")
    known = {name: _axes(name, entry, ("B", "L", "?")) for name, entry in axes.items()}
    guards = tuple(Guard(text).text for text in _typed(content, "guards", list, _MAX_GUARDS))
    return Graph(_facts(content), tuple(nodes), inputs, outputs, known, guards)


def _check_chains(nodes: list[Node]) -> None:
    """Check that no node is at the end of a longer chain of nodes than any model needs."""
    lengths: dict[int, int] = {}
    for number, node in enumerate(nodes):
        lengths[id(node)] = 1 + max((lengths[id(read)] for read in input_nodes(node)), default=0)
        if lengths[id(node)] > _MAX_CHAIN:
            raise _error(f"has a chain of more than {_MAX_CHAIN} nodes that ends at node {number}")


def _typed(content: dict[str, Any], key: str, kind: type, most: int) -> Any:
    value = content.get(key)
    if not isinstance(value, kind) or len(value) > most:  # type: ignore[arg-type]
        found = f"{len(value)} entries" if isinstance(value, kind) else type(value).__name__  # type: ignore[arg-type]
        raise _error(f"has {found} for {key!r}, expected a {kind.__name__} of at most {most}")
    return value


def _node(entry: Any, number: int, earlier: list[Node]) -> Node:
    well_formed = isinstance(entry, list) and len(entry) in (2, 3) and isinstance(entry[0], str)
    if not well_formed or not isinstance(entry[1], list) or not isinstance(entry[-1], (list, dict)):
        raise _error(f"has {str(entry)[:80]} for node {number}, expected [operation, arguments, options]")
    op, args = entry[0], tuple(_read(item, earlier, number, 0) for item in entry[1])
    options = entry[2] if len(entry) == 3 else {}
    if op in (INPUT, *TENSOR_OPS):
        if len(args) != 1 or not isinstance(args[0], str) or options:
            raise _error(f"has an {op} without a name at node {number}")
    # A name in the file can only choose from the table.
    elif op not in OPERATIONS:
        raise _error(f"has the operation {op!r:.80} at node {number}, which this version does not support")
    if not isinstance(options, dict) or not all(isinstance(key, str) and key.isidentifier() for key in options):
        raise _error(f"has options {str(options)[:80]} at node {number}, expected names with values")
    return Node(op, args, {key: _read(value, earlier, number, 0) for key, value in options.items()})


def _read(value: Any, earlier: list[Node], number: int, depth: int) -> Any:
    if isinstance(value, dict):
        if set(value) == {"f"} and value["f"] in ("inf", "-inf", "nan"):
            return float(value["f"])
        at = value.get("n") if set(value) == {"n"} else None
        # Only earlier nodes, so that a graph has no cycles; type() because True would pass as 1.
        if type(at) is not int or not 0 <= at < len(earlier):
            raise _error(f"refers to {str(value)[:80]} at node {number}, expected a node before it")
        return earlier[at]
    if isinstance(value, list):
        if depth >= _MAX_DEPTH or len(value) > _MAX_ITEMS:
            raise _error(f"has a list of {len(value)} at depth {depth} in node {number}, which is more than allowed")
        return [_read(item, earlier, number, depth + 1) for item in value]
    if isinstance(value, str) and len(value) <= _MAX_CHARACTERS:
        return value
    # Only integers can be too large; floats that are not finite are spelled as {"f": "inf"}.
    if value is None or (isinstance(value, int) and abs(value) < _MAX_NUMBER):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise _error(f"has {str(value)[:80]} for an argument of node {number}, which is out of bounds")


def _input(name: Any, entry: Any) -> GraphInput:
    if not isinstance(entry, dict) or set(entry) != {"axes", "dtype", "optional"}:
        raise _error(f"has {str(entry)[:80]} for the input {name!r:.40}, expected axes, dtype and optional")
    if entry["dtype"] not in ("int64", "float32") or type(entry["optional"]) is not bool:
        raise _error(f"has {str(entry)[:80]} for the input {name!r:.40}, expected int64 or float32")
    return GraphInput(_axes(name, entry["axes"], ("B", "L")), entry["dtype"], entry["optional"])


def _axes(name: Any, axes: Any, names: tuple[str, ...]) -> tuple[str | int, ...]:
    if not isinstance(axes, list) or len(axes) > _MAX_AXES:
        raise _error(f"has {str(axes)[:80]} for the axes of {name!r:.40}, expected a list of {_MAX_AXES} at most")
    if not all(axis in names or (type(axis) is int and 0 < axis < _MAX_AXIS_SIZE) for axis in axes):
        raise _error(f"has {str(axes)[:80]} for the axes of {name!r:.40}, expected {', '.join(names)} and sizes")
    return tuple(axes)


def _output(name: Any, at: Any, nodes: list[Node]) -> Node:
    if type(at) is not int or not 0 <= at < len(nodes):
        raise _error(f"has the node {at!r:.40} for the output {name!r:.40}, and there are {len(nodes)}")
    return nodes[at]


def _facts(content: dict[str, Any]) -> Facts:
    given = _typed(content, "facts", dict, _MAX_ITEMS)
    known = {_STORED_KEYS.get(spec.name, spec.name): spec for spec in fields(Facts)}
    if set(given) != set(known):
        raise _error(f"has facts {sorted(given)!s:.200}, expected {', '.join(known)}")
    for name, value in given.items():
        kinds: dict[Any, tuple[type, ...]] = {int: (int,), str: (str,), bool: (bool,)}
        kind = kinds.get(known[name].type, (int, type(None)))
        if type(value) not in kind or (type(value) is int and not -1 <= value < 2**31):
            raise _error(f"has {name}={value!r:.40} among its facts, expected {known[name].type}")
    return Facts(**{spec.name: given[key] for key, spec in known.items()})


def _error(what: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{GRAPH_FILE} {what}. Convert the model again, and use no folder that you do not trust."
    )
