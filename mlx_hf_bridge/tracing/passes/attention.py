"""Fuse spelled-out attention into one operation: softmax(q @ k.T * scale + terms) @ v.

B texts, H heads, L tokens.
"""

from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx

from mlx_hf_bridge.tracing.graph import Graph, Node
from mlx_hf_bridge.tracing.passes.rewriting import both_orders, find_readers, is_call, redirect_reads

# Fill values at or below this mask a score. As a term it is finite, since a row of -inf becomes NaN.
_LOWEST = -1e30


@dataclass
class _Scores:
    """The parts of attention scores: q, k, the scale, and the terms added, with new nodes in order."""

    q: Node
    k: Node
    scale: float = 1.0
    terms: list[Node] = field(default_factory=list)
    fresh: list[Node] = field(default_factory=list)


def fuse_attention(graph: Graph, tensors: dict[str, mx.array]) -> Graph:
    """Replace spelled-out attention by "bridge.attention" (q, k, v, mask, dropout, causal, scale)."""
    read_from = find_readers(graph)
    before: dict[int, list[Node]] = {}
    for node in graph.nodes:
        if not is_call(node, "matmul") or not is_call(node.args[0], "softmax") or node.args[0].args[1] not in (-1, 3):
            continue
        weights = node.args[0]
        # Weights that something else reads, such as an output, must still be computed.
        if len(read_from[id(weights)]) > 1 or (found := _scores(weights.args[0], read_from)) is None:
            continue
        mask = _add_terms(found)
        before[id(node)] = [*found.fresh]
        node.replace("bridge.attention", found.q, found.k, node.args[1], mask, 0.0, False, found.scale)
    return redirect_reads(graph, {}, before)


def _scores(value: Any, read_from: dict[int, list[Node]]) -> _Scores | None:
    """Return the parts of attention scores, matched from the outermost operation inward; None if they do not match."""
    if not isinstance(value, Node) or len(read_from[id(value)]) > 1:
        return None
    if is_call(value, "matmul"):
        keys = value.args[1]
        # % 4, since axes may be negative.
        is_transposed = is_call(keys, "transpose") and {keys.args[1] % 4, keys.args[2] % 4} == {2, 3}
        return _Scores(value.args[0], keys.args[0]) if is_transposed else None
    if is_call(value, "mul", "div") and isinstance(value.args[1], (int, float)):
        inner = _scores(value.args[0], read_from)
        # A factor outside a sum would scale the terms too.
        if inner is None or inner.terms:
            return None
        inner.scale *= value.args[1] if is_call(value, "mul") else 1 / value.args[1]
        return inner
    if is_call(value, "add"):
        for scores, term in both_orders(value):
            if isinstance(term, Node) and (inner := _scores(scores, read_from)) is not None:
                inner.terms.append(term)
                return inner
    if value.op in ("masked_fill.Scalar", "where.ScalarOther"):
        return _filled_scores(value, read_from)
    return None


def _filled_scores(value: Node, read_from: dict[int, list[Node]]) -> _Scores | None:
    """Return the parts of scores that are filled with a very low number where a mask says so."""
    is_fill = value.op == "masked_fill.Scalar"
    scores, mask, lowest = (value.args[0], value.args[1], value.args[2]) if is_fill else (
        value.args[1], value.args[0], value.args[2]
    )  # fmt: skip
    inner = _scores(scores, read_from)
    if inner is None or not isinstance(lowest, (int, float)) or lowest > _LOWEST:
        return None
    # masked_fill replaces where the mask is True, `where` where it is False.
    choice = (_LOWEST, 0.0) if is_fill else (0.0, _LOWEST)
    term = Node("where.Scalar", (mask, *choice), {}, "float32")
    inner.fresh.append(term)
    inner.terms.append(term)
    return inner


def _add_terms(found: _Scores) -> Node | None:
    """Return the sum of all terms, where each addition is a new node."""
    if not found.terms:
        return None
    total = found.terms[0]
    for term in found.terms[1:]:
        total = Node("add.Tensor", (total, term), {}, "float32")
        found.fresh.append(total)
    return total
