"""Guards: conditions on the sizes of a call that torch relied on while tracing.

They are parsed by a grammar and never run as code: integers, `B` (texts), `L` (tokens), the operators below, `min`,
`max`, `and`, `or`, `not`.
"""

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

from mlx_hf_bridge.errors import UnsupportedModelError

MAX_CHARACTERS = 2_000
# Bounds the recursion of _check and _value.
_MAX_DEPTH = 40
# Bounds products of a few numbers, which Python would compute with any number of digits.
_MAX_NUMBER = 2**62
_OPERATORS: dict[type, Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_COMPARISONS: dict[type, Callable[[int, int], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_FUNCTIONS: dict[str, Callable[..., int]] = {"min": min, "max": max, "Min": min, "Max": max}
SIZE_NAMES = ("B", "L")


class Guard:
    """One condition on B and L.

    Args:
        text: The condition, such as "L % 4 == 0".

    Raises:
        UnsupportedModelError: If the text is not in the grammar, or too long or deep.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        if not isinstance(text, str) or len(text) > MAX_CHARACTERS:
            raise _error(str(text)[:80], f"is not a string of {MAX_CHARACTERS} characters or fewer")
        try:
            # Parsed and checked against a small grammar, never evaluated by Python: a folder may come from anyone.
            self._tree = ast.parse(text, mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise _error(text, f"cannot be read ({type(error).__name__})") from error
        _check(self._tree, text, 0)

    def holds(self, sizes: Mapping[str, int]) -> bool:
        """Return whether the condition is met; one that divides by 0 is not."""
        try:
            return bool(_value(self._tree, sizes))
        except ZeroDivisionError:
            return False


def _check(node: ast.AST, text: str, depth: int) -> None:
    """Check that every node of the tree belongs to the grammar."""
    if depth > _MAX_DEPTH:
        raise _error(text, f"is nested deeper than {_MAX_DEPTH}")
    if isinstance(node, ast.Constant):
        # bool passes as an int: torch writes True for some conditions.
        known = isinstance(node.value, int) and abs(node.value) <= _MAX_NUMBER
    elif isinstance(node, ast.Name):
        known = node.id in SIZE_NAMES
    elif isinstance(node, ast.Call):
        known = isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS and len(node.args) == 2
        known = known and not node.keywords
    else:
        known = (
            (isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS)
            or (isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.Not)))
            or isinstance(node, ast.BoolOp)
            or (isinstance(node, ast.Compare) and all(type(op) in _COMPARISONS for op in node.ops))
        )
    if not known:
        raise _error(text, f"has {type(node).__name__}, which guards cannot have")
    for child in _operands(node):
        _check(child, text, depth + 1)


def _operands(node: ast.AST) -> list[ast.expr]:
    if isinstance(node, ast.BinOp):
        return [node.left, node.right]
    if isinstance(node, ast.UnaryOp):
        return [node.operand]
    if isinstance(node, ast.BoolOp):
        return node.values
    if isinstance(node, ast.Compare):
        return [node.left, *node.comparators]
    return node.args if isinstance(node, ast.Call) else []


def _value(node: Any, sizes: Mapping[str, int]) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name):
        return sizes[node.id]
    values = (_value(operand, sizes) for operand in _operands(node))
    if isinstance(node, ast.BoolOp):
        return all(values) if isinstance(node.op, ast.And) else any(values)
    if isinstance(node, ast.Compare):
        numbers = list(values)
        pairs = zip(numbers, node.ops, numbers[1:], strict=False)
        return all(_COMPARISONS[type(op)](left, right) for left, op, right in pairs)
    if isinstance(node, ast.UnaryOp):
        (number,) = values
        return not number if isinstance(node.op, ast.Not) else -number
    if isinstance(node, ast.Call):
        return _FUNCTIONS[node.func.id](*values)  # type: ignore[attr-defined]
    return _OPERATORS[type(node.op)](*values)


def _error(text: str, what: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"the guard {text[:80]!r} in graph.json {what}; expected a condition of B and L. Convert the model again."
    )
