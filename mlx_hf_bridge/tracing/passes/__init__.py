"""Passes over a graph: fewer nodes, and MLX's own kernels in place of what torch spells out.

Each pass is a function of a graph and its tensors; it changes nodes in place, and nodes that nothing reads any more are
removed after it. The outputs stay the same, which conversion checks against torch afterwards.
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
    """Run all passes over a graph.

    Args:
        graph: The graph of an exported program; its nodes change in place.
        tensors: The tensors by name.

    Returns:
        The graph, and the tensors with the constants that passes added.
    """
    known = dict(tensors)
    graph = _prune(fold_constants(graph, known))
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
        graph = _prune(change(graph, known))
    graph = _prune(fold_constants(graph, known))
    return _prune(group_linear_layers(graph, known)), known


def _prune(graph: Graph) -> Graph:
    """Remove the nodes that no output needs; inputs stay, since callers pass them."""
    read = {id(node) for node in required_nodes(graph, list(graph.outputs.values()))}
    return replace(graph, nodes=tuple(node for node in graph.nodes if id(node) in read or node.op == "input"))
