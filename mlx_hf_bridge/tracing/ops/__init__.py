"""The table of operations: torch's names (ATen, overload behind the dot) -> what they are on MLX."""

from collections.abc import Callable
from typing import Any

from mlx_hf_bridge.tracing.ops.creation import MAKING
from mlx_hf_bridge.tracing.ops.elementwise import ELEMENTWISE
from mlx_hf_bridge.tracing.ops.fused import FUSED
from mlx_hf_bridge.tracing.ops.indexing import SELECTING
from mlx_hf_bridge.tracing.ops.integers import NUMBERS
from mlx_hf_bridge.tracing.ops.neural import PRODUCTS
from mlx_hf_bridge.tracing.ops.reductions import REDUCING
from mlx_hf_bridge.tracing.ops.shapes import SHAPES

OPERATIONS: dict[str, Callable[..., Any]] = {
    **ELEMENTWISE,
    **FUSED,
    **MAKING,
    **NUMBERS,
    **PRODUCTS,
    **REDUCING,
    **SELECTING,
    **SHAPES,
}
