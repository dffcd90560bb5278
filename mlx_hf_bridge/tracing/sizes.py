"""What torch assumed of sizes while tracing, in the grammar of guards.py. Imports torch's objects alone."""

import re
from typing import Any

from mlx_hf_bridge.tracing.export import Inputs, axis_names
from mlx_hf_bridge.tracing.guards import Guard

_SIZE = re.compile(r"L\['given'\]\[(\d+)\]\.size\(\)\[(\d+)\]")


def collect_guards(program: Any, inputs: Inputs) -> tuple[str, ...]:
    """The conditions of B and L, those dropped that always hold."""
    axes = [axis_names(tensor) for tensor in inputs.values()]

    def letter(match: re.Match[str]) -> str:
        return str(axes[int(match[1])][int(match[2])])

    texts = dict.fromkeys(_SIZE.sub(letter, text) for text in program._guards_code or ())
    return tuple(text for text in [*texts, *_ranges(program, inputs, axes)] if not _always_holds(Guard(text)))


def _ranges(program: Any, inputs: Inputs, axes: list[tuple[str | int, ...]]) -> list[str]:
    """The upper bounds that torch derived for its symbols; it takes 2 for the least size without reason."""
    letters = {}
    holders = [node for node in program.graph.nodes if node.op == "placeholder"][-len(inputs) :]
    for holder, known in zip(holders, axes, strict=True):
        for size, axis in zip(holder.meta["val"].shape, known, strict=True):
            if isinstance(axis, str):
                letters[str(size)] = axis
    found = []
    for symbol, bounds in program.range_constraints.items():
        letter, upper = letters.get(str(symbol)), str(bounds.upper)
        if letter and upper.isdigit() and int(upper) < 2**20:
            found.append(f"{letter} <= {upper}")
    return found


def _always_holds(guard: Guard) -> bool:
    return guard.text in ("B == B", "L == L", "True")
