"""Passes over a graph: fewer nodes, and MLX's own kernels where torch spells out what they compute.

Each pass is a function of the nodes in order and their outputs; it changes nodes in place, and what nothing reads any
more is left out at the end. The answers stay the same: conversion compares them with torch's afterwards.
"""

from collections.abc import Mapping
from dataclasses import replace

import mlx.core as mx

from mlx_hf_bridge.tracing.graph import Graph
from mlx_hf_bridge.tracing.interpreter import needed
from mlx_hf_bridge.tracing.passes.attention import attention_in_one
from mlx_hf_bridge.tracing.passes.common_subexpressions import shared
from mlx_hf_bridge.tracing.passes.constant_folding import folded
from mlx_hf_bridge.tracing.passes.linear_fusion import products_joined
from mlx_hf_bridge.tracing.passes.masks import masks_opened, masks_plain
from mlx_hf_bridge.tracing.passes.norms import norms_in_one
from mlx_hf_bridge.tracing.passes.rotary import turns_in_one
from mlx_hf_bridge.tracing.passes.rows import rows_everywhere


def optimised(graph: Graph, tensors: Mapping[str, mx.array]) -> tuple[Graph, dict[str, mx.array]]:
    """The same answers in fewer operations; constants that the passes make are among the tensors."""
    known = dict(tensors)
    graph = _pruned(folded(graph, known))
    for change in (
        masks_plain,
        shared,
        rows_everywhere,
        norms_in_one,
        turns_in_one,
        attention_in_one,
        masks_opened,
        shared,
    ):
        graph = _pruned(change(graph, known))
    graph = _pruned(folded(graph, known))
    return _pruned(products_joined(graph, known)), known


def _pruned(graph: Graph) -> Graph:
    """Without the nodes that no output reads; inputs stay, since callers give them."""
    read = {id(node) for node in needed(graph, list(graph.outputs.values()))}
    return replace(graph, nodes=tuple(node for node in graph.nodes if id(node) in read or node.op == "input"))
