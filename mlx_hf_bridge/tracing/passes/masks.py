"""Simplify what transformers' mask code spells out, and unmask rows that are masked throughout.

B texts, L tokens.
"""

import mlx.core as mx

from mlx_hf_bridge.tracing.graph import Graph, Node
from mlx_hf_bridge.tracing.passes.rewriting import both_orders, find_readers, is_call, redirect_reads

# Kernels compute exp(x) as a power of two of x * log2(e): float32's minimum would become -inf, and a row of it NaN.
_LOWEST = -1e30


def simplify_masks(graph: Graph, tensors: dict[str, mx.array]) -> Graph:
    """Replace mask[arange(B)[:, None], arange(L)] by the mask, and drop operands of "and" that are always True."""
    instead: dict[int, Node] = {}
    before: dict[int, list[Node]] = {}
    read_from = find_readers(graph)
    for node in graph.nodes:
        if (mask := _indexed_by_ranges(node)) is not None:
            # (B, L) -> (B, 1, 1, L), which is what transformers' indexing by ranges amounts to.
            row = Node("unsqueeze", (mask, 1), dtype=mask.dtype)
            node.replace("unsqueeze", row, 1)
            before[id(node)] = [row]
        elif is_call(node, "__and__", "bitwise_and", "logical_and"):
            for kept, other in both_orders(node):
                # Dropping the operand also drops its broadcast, so every reader must name all axes itself.
                if isinstance(kept, Node) and _is_true(other) and _only_expanded(read_from.get(id(node), [])):
                    instead[id(node)] = kept
                    break
                if isinstance(kept, Node) and _is_scalar_true(other):
                    instead[id(node)] = kept
                    break
    return redirect_reads(graph, instead, before)


def _indexed_by_ranges(node: Node) -> Node | None:
    """Return the mask (B, L) that a node indexes by all its indices to (B, 1, 1, L); None for other nodes."""
    if node.op != "index.Tensor" or len(node.args[1]) != 2 or node.args[0].dtype != "bool":
        return None
    texts, tokens = node.args[1]
    rows = _is_range(texts, 0, node.args[0]) and _added_axes(texts) == [1, 2, 3]
    columns = _is_range(tokens, 1, node.args[0]) and _added_axes(tokens) == [0, 1, 2]
    return node.args[0] if rows and columns else None


def _is_range(value: Node | None, axis: int, mask: Node) -> bool:
    """Return whether a value is the range of an axis of the mask, from 0."""
    # transformers adds an offset, which is 0 without a cache.
    while is_call(value, "unsqueeze") or (is_call(value, "add") and value is not None and value.args[1] == 0):
        value = value.args[0] if value is not None else None
    if value is None or not is_call(value, "arange") or len(value.args) != 1:
        return False
    size = value.args[0]
    return is_call(size, "sym_size") and size.args[1] == axis and size.args[0].op == "input"


def _added_axes(value: Node) -> list[int]:
    """Return the axes that unsqueeze inserted, in order."""
    added: list[int] = []
    while is_call(value, "unsqueeze") or is_call(value, "add"):
        if is_call(value, "unsqueeze"):
            added.append(int(value.args[1]))
        value = value.args[0]
    return added[::-1]


def _is_true(value: Node | None) -> bool:
    """Return whether a condition always holds: a range is never below 0."""
    if _is_scalar_true(value):
        return True
    if is_call(value, "__and__", "bitwise_and") and value is not None:
        return all(_is_true(part) for part in value.args)
    if value is None or value.op != "ge.Scalar" or value.args[1] != 0:
        return False
    operand = value.args[0]
    while is_call(operand, "unsqueeze") or (is_call(operand, "add") and operand.args[1] == 0):
        operand = operand.args[0]
    return is_call(operand, "arange") and len(operand.args) == 1


def _is_scalar_true(value: Node | None) -> bool:
    return is_call(value, "new_ones") and value is not None and list(value.args[1]) == [] and value.dtype == "bool"


def _only_expanded(found: list[Node]) -> bool:
    """Return whether every reader expands to the axes that "and" would have broadcast."""
    return bool(found) and all(
        node.op == "expand" and len(node.args[1]) == 4 and -1 not in (node.args[1][2], node.args[1][3])
        for node in found
    )


def unmask_empty_rows(graph: Graph, tensors: dict[str, mx.array]) -> Graph:
    """Unmask rows of attention masks that are masked throughout: they belong to padding, and would be NaN."""
    before: dict[int, list[Node]] = {}
    for node in graph.nodes:
        if node.op not in ("scaled_dot_product_attention", "bridge.attention") or len(node.args) < 4:
            continue
        mask = node.args[3]
        if not isinstance(mask, Node):
            continue
        before[id(node)] = (
            # A float mask is clamped instead: finite values keep a masked row from NaN.
            _unmasked(mask) if mask.dtype == "bool" else [Node("clamp_min", (mask, _LOWEST), {}, mask.dtype)]
        )
        node.args = (*node.args[:3], before[id(node)][-1], *node.args[4:])
    return redirect_reads(graph, {}, before)


def _unmasked(mask: Node) -> list[Node]:
    """Return the new nodes, the last of which is the mask; rows are unmasked before they are expanded over queries."""
    if mask.op != "expand":
        return [Node("bridge.open_rows", (mask,), {}, "bool")]
    narrow = Node("bridge.open_rows", (mask.args[0],), {}, "bool")
    return [narrow, Node("expand", (narrow, *mask.args[1:]), mask.options, "bool")]
