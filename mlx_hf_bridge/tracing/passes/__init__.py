"""Passes over a graph: fewer nodes, and MLX's own kernels where torch spells out what they compute.

Each pass is a function of the nodes in order and their outputs; it changes nodes in place, and what nothing reads any
more is left out at the end. The answers stay the same: conversion compares them with torch's afterwards.
"""

from collections.abc import Mapping
from dataclasses import replace

import mlx.core as mx

from mlx_hf_bridge.tracing.graph import Graph
from mlx_hf_bridge.tracing.interpreter import required_nodes
from mlx_hf_bridge.tracing.passes.attention import fuse_attention
from mlx_hf_bridge.tracing.passes.common_subexpressions import merge_common_subexpressions
from mlx_hf_bridge.tracing.passes.constant_folding import fold_constants
from mlx_hf_bridge.tracing.passes.linear_fusion import group_linear_layers
from mlx_hf_bridge.tracing.passes.masks import simplify_masks, unmask_empty_rows
from mlx_hf_bridge.tracing.passes.norms import fuse_rms_norms
from mlx_hf_bridge.tracing.passes.rotary import fuse_rotary
from mlx_hf_bridge.tracing.passes.rows import compute_all_rows


def optimize(graph: Graph, tensors: Mapping[str, mx.array]) -> tuple[Graph, dict[str, mx.array]]:
    """The same answers in fewer operations; constants that the passes make are among the tensors."""
    known = dict(tensors)
    graph = _pruned(fold_constants(graph, known))
    for change in (
        simplify_masks,
        merge_common_subexpressions,
        compute_all_rows,
        fuse_rms_norms,
        fuse_rotary,
        fuse_attention,
        unmask_empty_rows,
        merge_common_subexpressions,
    ):
        graph = _pruned(change(graph, known))
    graph = _pruned(fold_constants(graph, known))
    return _pruned(group_linear_layers(graph, known)), known


def _pruned(graph: Graph) -> Graph:
    """Without the nodes that no output reads; inputs stay, since callers give them."""
    read = {id(node) for node in required_nodes(graph, list(graph.outputs.values()))}
    return replace(graph, nodes=tuple(node for node in graph.nodes if id(node) in read or node.op == "input"))
