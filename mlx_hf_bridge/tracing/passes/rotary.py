"""Rotary positions spelled out become one kernel: x * cos + rotated(x) * sin at counted places.

Whether cosines and sines are those of counted places is seen from their values, not from how they were made.
L tokens, P pairs, K = 2 P.
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

_TEXTS, _TOKENS = 2, 13
_CLOSE = 1e-5


def fuse_rotary(graph: Graph, tensors: dict[str, mx.array]) -> Graph:
    """Spelled-out turns -> "bridge.rope" (x, periods)."""
    made: dict[tuple[int, int], Node | None] = {}
    fresh: list[Node] = []
    for node in graph.nodes:
        if not is_call(node, "add") or (found := _turned(node)) is None:
            continue
        x, cos, sin = found
        key = (id(cos), id(sin))
        if key not in made:
            periods = _periods(graph, cos, sin, tensors)
            made[key] = None
            if periods is not None:
                name = f"periods.{sum(known.startswith('periods.') for known in tensors)}"
                tensors[name] = periods
                made[key] = Node(CONSTANT, (name,), {}, "float32")
                fresh.append(made[key])  # type: ignore[arg-type]
        if (periods_of := made[key]) is not None:
            node.replace("bridge.rope", x, periods_of)
    return replace(graph, nodes=(*fresh, *graph.nodes))


def _turned(node: Node) -> tuple[Node, Node, Node] | None:
    """(x, cos, sin) of x * cos + cat([-x2, x1]) * sin."""
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
    """cat([-x[..., P:], x[..., :P]], -1)."""
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
    """The periods (P,) of cosines and sines (..., L, K) of counted places; None for any others."""
    inputs = {name: _zeros(spec.axes) for name, spec in graph.inputs.items()}
    if any(node.op == INPUT and not _only_sized(graph, node, (cos, sin)) for node in required_nodes(graph, [cos, sin])):
        return None
    try:
        found = Program(graph, [cos, sin], tensors, mx.float32)(inputs)
    except BridgeError:
        return None
    tables = [np.array(table, dtype=np.float64) for table in found]
    if any(table.ndim < 2 or table.shape[-2] != _TOKENS or table.shape[-1] % 2 for table in tables):
        return None
    flat = [table.reshape(-1, *table.shape[-2:]) for table in tables]
    cosines, sines = (table[0] for table in flat)
    if any(np.abs(table - table[:1]).max() > 0 for table in flat):
        return None
    half = cosines.shape[-1] // 2
    steps = np.arctan2(sines[1, :half], cosines[1, :half])
    angles = np.arange(_TOKENS)[:, None] * np.concatenate([steps, steps])
    same = np.abs(np.cos(angles) - cosines).max() < _CLOSE and np.abs(np.sin(angles) - sines).max() < _CLOSE
    return mx.array((1 / steps).astype(np.float32)) if same and (steps > 0).all() and steps.max() < math.pi else None


def _zeros(axes: tuple[str | int, ...]) -> mx.array:
    sizes = {"B": _TEXTS, "L": _TOKENS}
    return mx.zeros([sizes[axis] if isinstance(axis, str) else axis for axis in axes], mx.int64)


def _only_sized(graph: Graph, given: Node, wanted: tuple[Node, ...]) -> bool:
    """Whether the wanted nodes read of an input its sizes alone."""
    reading = [node for node in required_nodes(graph, list(wanted)) if any(arg is given for arg in node.args)]
    return all(node.op == "sym_size.int" for node in reading)
