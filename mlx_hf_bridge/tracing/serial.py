"""A graph as JSON, and back: checked against the table of operations and within bounds, since a folder may be anyone's.

Nodes are numbered from 0 and may refer to earlier ones alone, so that no graph is cyclic.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from mlx_hf_bridge.errors import UnsupportedModelError
from mlx_hf_bridge.tracing.graph import INPUT, TENSOR_OPS, Facts, Graph, GraphInput, Node
from mlx_hf_bridge.tracing.guards import Guard
from mlx_hf_bridge.tracing.ops import OPERATIONS

GRAPH_FORMAT = 1
GRAPH_FILE = "graph.json"
MAX_BYTES = 64 * 2**20
_MOST_NODES = 200_000
_MOST_ITEMS = 4_096
_MOST_GUARDS = 10_000
_DEEPEST = 4
_LONGEST_TEXT = 1_000
_LARGEST = 2**63
_MOST_AXES = 8
_WIDEST = 2**24
# Facts' fields whose key in graph.json is older than their name; folders on disk keep it.
_STORED_KEYS = {"type_vocab_size": "segments", "length_dependent": "padding_shows"}


def to_json(graph: Graph) -> dict[str, Any]:
    """What graph.json holds."""
    places = {id(node): place for place, node in enumerate(graph.nodes)}
    return {
        "format": GRAPH_FORMAT,
        "facts": {_STORED_KEYS.get(name, name): value for name, value in asdict(graph.facts).items()},
        "inputs": {name: {**asdict(entry), "axes": list(entry.axes)} for name, entry in graph.inputs.items()},
        "outputs": {name: places[id(node)] for name, node in graph.outputs.items()},
        "axes": {name: list(graph.axes[name]) for name in graph.outputs},
        "guards": list(graph.guards),
        "nodes": [
            [node.op, _written(node.args, places)] + ([_written(node.options, places)] if node.options else [])
            for node in graph.nodes
        ],
    }


def _written(value: Any, places: Mapping[int, int]) -> Any:
    """A reference is {"n": number}; floats that JSON lacks are {"f": "inf"}."""
    if isinstance(value, Node):
        return {"n": places[id(value)]}
    if isinstance(value, (list, tuple)):
        return [_written(item, places) for item in value]
    if isinstance(value, dict):
        return {key: _written(item, places) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return {"f": str(value)}
    return value


def from_json(content: Any) -> Graph:
    """graph.json's content -> the graph; UnsupportedModelError for anything that a conversion would not write."""
    if not isinstance(content, dict) or content.get("format") != GRAPH_FORMAT:
        given = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise _refused(f"has format={given!r}, and this version reads {GRAPH_FORMAT}")
    listed = _typed(content, "nodes", list, _MOST_NODES)
    nodes: list[Node] = []
    for place, entry in enumerate(listed):
        nodes.append(_node(entry, place, nodes))
    inputs = {name: _taken(name, entry) for name, entry in _typed(content, "inputs", dict, _MOST_ITEMS).items()}
    for place, node in enumerate(nodes):
        if node.op == INPUT and node.args[0] not in inputs:
            raise _refused(f"reads an input {node.args[0]!r} at node {place}, and inputs has {sorted(inputs)}")
    outputs = {name: _output(name, at, nodes) for name, at in _typed(content, "outputs", dict, _MOST_ITEMS).items()}
    if not outputs:
        raise _refused("has no outputs")
    axes = _typed(content, "axes", dict, _MOST_ITEMS)
    if set(axes) != set(outputs):
        raise _refused(f"has axes of {sorted(axes)!s:.200}, expected those of its outputs")
    known = {name: _axes(name, entry, ("B", "L", "?")) for name, entry in axes.items()}
    guards = tuple(Guard(text).text for text in _typed(content, "guards", list, _MOST_GUARDS))
    return Graph(_facts(content), tuple(nodes), inputs, outputs, known, guards)


def _typed(content: dict[str, Any], key: str, kind: type, most: int) -> Any:
    value = content.get(key)
    if not isinstance(value, kind) or len(value) > most:  # type: ignore[arg-type]
        found = f"{len(value)} entries" if isinstance(value, kind) else type(value).__name__  # type: ignore[arg-type]
        raise _refused(f"has {found} for {key!r}, expected a {kind.__name__} of at most {most}")
    return value


def _node(entry: Any, place: int, earlier: list[Node]) -> Node:
    well_formed = isinstance(entry, list) and len(entry) in (2, 3) and isinstance(entry[0], str)
    if not well_formed or not isinstance(entry[1], list) or not isinstance(entry[-1], (list, dict)):
        raise _refused(f"has {str(entry)[:80]} for node {place}, expected [operation, arguments, options]")
    op, args = entry[0], tuple(_read(item, earlier, place, 0) for item in entry[1])
    options = entry[2] if len(entry) == 3 else {}
    if op in (INPUT, *TENSOR_OPS):
        if len(args) != 1 or not isinstance(args[0], str) or options:
            raise _refused(f"has an {op} without a name at node {place}")
    elif op not in OPERATIONS:
        raise _refused(f"has the operation {op!r:.80} at node {place}, which this version does not compute")
    if not isinstance(options, dict) or not all(isinstance(key, str) and key.isidentifier() for key in options):
        raise _refused(f"has options {str(options)[:80]} at node {place}, expected names with values")
    return Node(op, args, {key: _read(value, earlier, place, 0) for key, value in options.items()})


def _read(value: Any, earlier: list[Node], place: int, depth: int) -> Any:
    if isinstance(value, dict):
        if set(value) == {"f"} and value["f"] in ("inf", "-inf", "nan"):
            return float(value["f"])
        at = value.get("n") if set(value) == {"n"} else None
        if type(at) is not int or not 0 <= at < len(earlier):
            raise _refused(f"refers to {str(value)[:80]} at node {place}, expected a node before it")
        return earlier[at]
    if isinstance(value, list):
        if depth >= _DEEPEST or len(value) > _MOST_ITEMS:
            raise _refused(f"has a list of {len(value)} at depth {depth} in node {place}, more than is read")
        return [_read(item, earlier, place, depth + 1) for item in value]
    if isinstance(value, str) and len(value) <= _LONGEST_TEXT:
        return value
    if value is None or isinstance(value, bool) or (isinstance(value, (int, float)) and abs(value) < _LARGEST):
        return value
    if isinstance(value, float):
        return value
    raise _refused(f"has {str(value)[:80]} for an argument of node {place}, which is out of bounds")


def _taken(name: Any, entry: Any) -> GraphInput:
    if not isinstance(entry, dict) or set(entry) != {"axes", "dtype", "optional"}:
        raise _refused(f"has {str(entry)[:80]} for the input {name!r:.40}, expected axes, dtype and optional")
    if entry["dtype"] not in ("int64", "float32") or type(entry["optional"]) is not bool:
        raise _refused(f"has {str(entry)[:80]} for the input {name!r:.40}, expected int64 or float32")
    return GraphInput(_axes(name, entry["axes"], ("B", "L")), entry["dtype"], entry["optional"])


def _axes(name: Any, axes: Any, letters: tuple[str, ...]) -> tuple[str | int, ...]:
    if not isinstance(axes, list) or len(axes) > _MOST_AXES:
        raise _refused(f"has {str(axes)[:80]} for the axes of {name!r:.40}, expected a list of {_MOST_AXES} at most")
    if not all(axis in letters or (type(axis) is int and 0 < axis < _WIDEST) for axis in axes):
        raise _refused(f"has {str(axes)[:80]} for the axes of {name!r:.40}, expected {', '.join(letters)} and sizes")
    return tuple(axes)


def _output(name: Any, at: Any, nodes: list[Node]) -> Node:
    if type(at) is not int or not 0 <= at < len(nodes):
        raise _refused(f"has the node {at!r:.40} for the output {name!r:.40}, and there are {len(nodes)}")
    return nodes[at]


def _facts(content: dict[str, Any]) -> Facts:
    given = _typed(content, "facts", dict, _MOST_ITEMS)
    known = {_STORED_KEYS.get(spec.name, spec.name): spec for spec in fields(Facts)}
    if set(given) != set(known):
        raise _refused(f"has facts {sorted(given)!s:.200}, expected {', '.join(known)}")
    for name, value in given.items():
        kinds: dict[Any, tuple[type, ...]] = {int: (int,), str: (str,), bool: (bool,)}
        kind = kinds.get(known[name].type, (int, type(None)))
        if type(value) not in kind or (type(value) is int and not -1 <= value < 2**31):
            raise _refused(f"has {name}={value!r:.40} among its facts, expected {known[name].type}")
    return Facts(**{spec.name: given[key] for key, spec in known.items()})


def _refused(what: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{GRAPH_FILE} {what}. Convert the model again, and take no folder that you do not trust."
    )
