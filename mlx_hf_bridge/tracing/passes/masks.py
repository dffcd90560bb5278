"""Masks: what transformers' mask code spells out is said plainly, and rows of nothing are opened.

B texts, L tokens.
"""

import mlx.core as mx

from mlx_hf_bridge.tracing.graph import Graph, Node
from mlx_hf_bridge.tracing.passes.rewriting import both_orders, find_readers, is_call, redirect_reads

# Beyond it a float mask is -inf in powers of two, and a row of it NaN.
_LOWEST = -1e30


def simplify_masks(graph: Graph, tensors: dict[str, mx.array]) -> Graph:
    """mask[arange(B)[:, None], arange(L)] is the mask itself; what is true of every place is left out of an "and"."""
    instead: dict[int, Node] = {}
    before: dict[int, list[Node]] = {}
    read_from = find_readers(graph)
    for node in graph.nodes:
        if (mask := _indexed_by_places(node)) is not None:
            row = Node("unsqueeze", (mask, 1), dtype=mask.dtype)
            node.replace("unsqueeze", row, 1)
            before[id(node)] = [row]
        elif is_call(node, "__and__", "bitwise_and", "logical_and"):
            for kept, other in both_orders(node):
                if isinstance(kept, Node) and _is_true(other) and _only_expanded(read_from.get(id(node), [])):
                    instead[id(node)] = kept
                    break
                if isinstance(kept, Node) and _is_scalar_true(other):
                    instead[id(node)] = kept
                    break
    return redirect_reads(graph, instead, before)


def _indexed_by_places(node: Node) -> Node | None:
    """The mask (B, L) of an index by all its places to (B, 1, 1, L)."""
    if node.op != "index.Tensor" or len(node.args[1]) != 2 or node.args[0].dtype != "bool":
        return None
    texts, tokens = node.args[1]
    rows = _counts(texts, 0, node.args[0]) and _axes_added(texts) == [1, 2, 3]
    columns = _counts(tokens, 1, node.args[0]) and _axes_added(tokens) == [0, 1, 2]
    return node.args[0] if rows and columns else None


def _counts(value: Node | None, axis: int, mask: Node) -> bool:
    """Whether a value counts the places of an axis of the mask's, 0 first."""
    while is_call(value, "unsqueeze") or (is_call(value, "add") and value is not None and value.args[1] == 0):
        value = value.args[0] if value is not None else None
    if value is None or not is_call(value, "arange") or len(value.args) != 1:
        return False
    size = value.args[0]
    return is_call(size, "sym_size") and size.args[1] == axis and size.args[0].op == "input"


def _axes_added(value: Node) -> list[int]:
    added: list[int] = []
    while is_call(value, "unsqueeze") or is_call(value, "add"):
        if is_call(value, "unsqueeze"):
            added.append(int(value.args[1]))
        value = value.args[0]
    return added[::-1]


def _is_true(value: Node | None) -> bool:
    """Whether a condition holds at every place: counted numbers are not below 0."""
    if _is_scalar_true(value):
        return True
    if is_call(value, "__and__", "bitwise_and") and value is not None:
        return all(_is_true(part) for part in value.args)
    if value is None or value.op != "ge.Scalar" or value.args[1] != 0:
        return False
    counted = value.args[0]
    while is_call(counted, "unsqueeze") or (is_call(counted, "add") and counted.args[1] == 0):
        counted = counted.args[0]
    return is_call(counted, "arange") and len(counted.args) == 1


def _is_scalar_true(value: Node | None) -> bool:
    return is_call(value, "new_ones") and value is not None and list(value.args[1]) == [] and value.dtype == "bool"


def _only_expanded(found: list[Node]) -> bool:
    """Whether every reader gives the axes that "and" would have widened."""
    return bool(found) and all(
        node.op == "expand" and len(node.args[1]) == 4 and -1 not in (node.args[1][2], node.args[1][3])
        for node in found
    )


def unmask_empty_rows(graph: Graph, tensors: dict[str, mx.array]) -> Graph:
    """Masks of attention leave every query something to see: what is a row of nothing is a row of padding."""
    before: dict[int, list[Node]] = {}
    for node in graph.nodes:
        if node.op not in ("scaled_dot_product_attention", "bridge.attention") or len(node.args) < 4:
            continue
        mask = node.args[3]
        if not isinstance(mask, Node):
            continue
        before[id(node)] = (
            _opened(mask) if mask.dtype == "bool" else [Node("clamp_min", (mask, _LOWEST), {}, mask.dtype)]
        )
        node.args = (*node.args[:3], before[id(node)][-1], *node.args[4:])
    return redirect_reads(graph, {}, before)


def _opened(mask: Node) -> list[Node]:
    """The new nodes, the opened mask last; opened before it is spread over queries."""
    if mask.op != "expand":
        return [Node("bridge.open_rows", (mask,), {}, "bool")]
    narrow = Node("bridge.open_rows", (mask.args[0],), {}, "bool")
    return [narrow, Node("expand", (narrow, *mask.args[1:]), mask.options, "bool")]
