"""Fuse spelled-out RMSNorm into one kernel: x * rsqrt(mean(x^2) + eps), and the weight after it."""

from typing import Any

import mlx.core as mx

from mlx_hf_bridge.tracing.graph import WEIGHT, Graph, Node
from mlx_hf_bridge.tracing.passes.rewriting import both_orders, find_readers, is_call


def fuse_rms_norms(graph: Graph, tensors: dict[str, mx.array]) -> Graph:
    """Replace spelled-out norms by "bridge.rms_norm" (x, weight or None, eps, what is added to the weight)."""
    for node in graph.nodes:
        if is_call(node, "mul") and (found := _match_norm(node)) is not None:
            x, eps = found
            node.replace("bridge.rms_norm", x, None, eps)
    read_from = find_readers(graph)
    for node in graph.nodes:
        if not is_call(node, "mul"):
            continue
        for normed, weight in both_orders(node):
            parameter = _match_weight(weight, tensors)
            only_reader = is_call(normed, "bridge.rms_norm") and len(read_from[id(normed)]) == 1
            if only_reader and parameter is not None and normed.args[1] is None:
                node.replace("bridge.rms_norm", normed.args[0], parameter[0], normed.args[2], parameter[1])
                break
    return graph


def _match_norm(node: Node) -> tuple[Node, float] | None:
    """Return (x, eps) of x * rsqrt(mean(x^2, last axis) + eps), or None."""
    for x, root in both_orders(node):
        if not is_call(root, "rsqrt") or not is_call(root.args[0], "add"):
            continue
        for mean, eps in both_orders(root.args[0]):
            if (
                is_call(mean, "mean")
                and isinstance(eps, float)
                and list(mean.args[1]) == [-1]
                and mean.args[2:3] == (True,)
            ):
                square = mean.args[0]
                # The very node: the mean of another array's squares would not be a norm of x.
                if is_call(square, "pow") and square.args[0] is x and square.args[1] in (2, 2.0):
                    return x, eps
                if is_call(square, "mul") and square.args[0] is x and square.args[1] is x:
                    return x, eps
    return None


def _match_weight(value: Any, tensors: dict[str, mx.array]) -> tuple[Node, float] | None:
    """Return (weight, what is added to it) of a norm, or None."""
    offset = 0.0
    if is_call(value, "add") and isinstance(value.args[1], (int, float)):
        value, offset = value.args[0], float(value.args[1])
    if isinstance(value, Node) and value.op == WEIGHT and tensors[value.args[0]].ndim == 1:
        return value, offset
    return None
