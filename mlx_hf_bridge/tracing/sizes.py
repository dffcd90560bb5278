"""Collect what torch assumed about sizes while tracing, in the grammar of guards.py. Reads torch's objects only."""

import re
from typing import Any

from mlx_hf_bridge.tracing.export import Inputs, axis_names
from mlx_hf_bridge.tracing.guards import Guard

_SIZE = re.compile(r"L\['given'\]\[(\d+)\]\.size\(\)\[(\d+)\]")


def collect_guards(program: Any, inputs: Inputs) -> tuple[str, ...]:
    """Return the conditions on B and L of an exported program, without those that always hold."""
    axes = [axis_names(tensor) for tensor in inputs.values()]

    def axis_name(match: re.Match[str]) -> str:
        return str(axes[int(match[1])][int(match[2])])

    texts = dict.fromkeys(_SIZE.sub(axis_name, text) for text in program._guards_code or ())
    return tuple(text for text in [*texts, *_upper_bounds(program, inputs, axes)] if not _always_holds(Guard(text)))


def _upper_bounds(program: Any, inputs: Inputs, axes: list[tuple[str | int, ...]]) -> list[str]:
    """Return the upper bounds that torch derived for its symbols.

    Lower bounds are dropped: torch takes 2 for the smallest size, for reasons of its own.
    """
    names = {}
    # The inputs come last, after parameters and buffers.
    holders = [node for node in program.graph.nodes if node.op == "placeholder"][-len(inputs) :]
    for holder, known in zip(holders, axes, strict=True):
        for size, axis in zip(holder.meta["val"].shape, known, strict=True):
            if isinstance(axis, str):
                names[str(size)] = axis
    found = []
    for symbol, bounds in program.range_constraints.items():
        name, upper = names.get(str(symbol)), str(bounds.upper)
        # From 2^20 on it is the bound that export.py gives B, which says nothing about the model.
        if name and upper.isdigit() and int(upper) < 2**20:
            found.append(f"{name} <= {upper}")
    return found


def _always_holds(guard: Guard) -> bool:
    return guard.text in ("B == B", "L == L", "True")
