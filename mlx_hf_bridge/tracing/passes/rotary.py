"""Fuse spelled-out rotary position embeddings into one kernel: x * cos + rotated(x) * sin at positions 0, 1, ...

Whether cosines and sines belong to such positions is decided by their values, not by how they were computed. L tokens,
P pairs, K = 2 P.
"""

import math
from dataclasses import replace
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_hf_bridge.errors import BridgeError
from mlx_hf_bridge.tracing.graph import CONSTANT, INPUT, Graph, Node
from mlx_hf_bridge.tracing.interpreter import Program, required_nodes
from mlx_hf_bridge.tracing.passes.rewriting import both_orders, is_call

# The shape at which cosines and sines are computed and compared with those of positions 0, 1, ...
_TEXTS, _TOKENS = 2, 13
# Room for the rounding of float32 cosines and sines.
_TOLERANCE = 1e-5


def fuse_rotary(graph: Graph, tensors: dict[str, mx.array]) -> Graph:
    """Replace spelled-out rotations by "bridge.rope" (x, periods)."""
    known_periods: dict[tuple[int, int], Node | None] = {}
    fresh: list[Node] = []
    for node in graph.nodes:
        if not is_call(node, "add") or (found := _match_rotation(node)) is None:
            continue
        x, cos, sin = found
        key = (id(cos), id(sin))
        if key not in known_periods:
            periods = _periods(graph, cos, sin, tensors)
            known_periods[key] = None
            if periods is not None:
                name = f"periods.{sum(known.startswith('periods.') for known in tensors)}"
                tensors[name] = periods
                known_periods[key] = Node(CONSTANT, (name,), {}, "float32")
                fresh.append(known_periods[key])  # type: ignore[arg-type]
        if (periods_of := known_periods[key]) is not None:
            node.replace("bridge.rope", x, periods_of)
    return replace(graph, nodes=(*fresh, *graph.nodes))


def _match_rotation(node: Node) -> tuple[Node, Node, Node] | None:
    """Return (x, cos, sin) of x * cos + cat([-x2, x1]) * sin, or None."""
    for straight, crossed in both_orders(node):
        if not (is_call(straight, "mul") and is_call(crossed, "mul")):
            continue
        for x, cos in both_orders(straight):
            for rotated, sin in both_orders(crossed):
                nodes = all(isinstance(part, Node) for part in (x, cos, sin))
                if nodes and _is_rotated(rotated, x):
                    return x, cos, sin
    return None


def _is_rotated(value: Any, x: Node) -> bool:
    """Return whether a value is cat([-x[..., P:], x[..., :P]], -1)."""
    if not is_call(value, "cat") or len(value.args[0]) != 2 or value.args[1:2] not in ((-1,), (3,)):
        return False
    minus, first = value.args[0]
    if not is_call(minus, "neg") or not is_call(minus.args[0], "slice") or not is_call(first, "slice"):
        return False
    second = minus.args[0]
    half = first.args[3] if len(first.args) > 3 else None
    return (
        second.args[0] is x
        and first.args[0] is x
        and first.args[1] in (-1, 3)
        and second.args[1] in (-1, 3)
        and first.args[2] in (0, None)
        and second.args[2] == half
    )


def _periods(graph: Graph, cos: Node, sin: Node, tensors: dict[str, mx.array]) -> mx.array | None:
    """Return the periods (P,) of cosines and sines (..., L, K) at positions 0, 1, ...; None for any others."""
    inputs = {name: _zeros(spec.axes) for name, spec in graph.inputs.items()}
    if any(
        node.op == INPUT and not _reads_only_sizes(graph, node, (cos, sin))
        for node in required_nodes(graph, [cos, sin])
    ):
        return None
    try:
        found = Program(graph, [cos, sin], tensors, mx.float32)(inputs)
    # What cannot be computed from zeros depends on values, so it is no table of positions.
    except BridgeError:
        return None
    # float64, so that only the graph's own rounding shows in the comparison.
    tables = [np.array(table, dtype=np.float64) for table in found]
    if any(table.ndim < 2 or table.shape[-2] != _TOKENS or table.shape[-1] % 2 for table in tables):
        return None
    flat = [table.reshape(-1, *table.shape[-2:]) for table in tables]
    cosines, sines = (table[0] for table in flat)
    if any(np.abs(table - table[:1]).max() > 0 for table in flat):
        return None
    half = cosines.shape[-1] // 2
    # The angle at position 1 is the frequency; all other positions must be its multiples.
    steps = np.arctan2(sines[1, :half], cosines[1, :half])
    angles = np.arange(_TOKENS)[:, None] * np.concatenate([steps, steps])
    same = np.abs(np.cos(angles) - cosines).max() < _TOLERANCE and np.abs(np.sin(angles) - sines).max() < _TOLERANCE
    # A frequency of pi or more could not be told from a smaller one by its angle at position 1.
    return mx.array((1 / steps).astype(np.float32)) if same and (steps > 0).all() and steps.max() < math.pi else None


def _zeros(axes: tuple[str | int, ...]) -> mx.array:
    sizes = {"B": _TEXTS, "L": _TOKENS}
    return mx.zeros([sizes[axis] if isinstance(axis, str) else axis for axis in axes], mx.int64)


def _reads_only_sizes(graph: Graph, given: Node, wanted: tuple[Node, ...]) -> bool:
    """Return whether some nodes read only the sizes of an input."""
    reading = [node for node in required_nodes(graph, list(wanted)) if any(arg is given for arg in node.args)]
    return all(node.op == "sym_size.int" for node in reading)
