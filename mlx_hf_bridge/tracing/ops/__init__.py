"""The table of operations: torch's names (ATen, with the overload after the dot) -> functions of MLX."""

from collections.abc import Callable
from typing import Any

from mlx_hf_bridge.tracing.ops.creation import CREATION
from mlx_hf_bridge.tracing.ops.elementwise import ELEMENTWISE
from mlx_hf_bridge.tracing.ops.fused import FUSED
from mlx_hf_bridge.tracing.ops.indexing import INDEXING
from mlx_hf_bridge.tracing.ops.integers import SCALARS
from mlx_hf_bridge.tracing.ops.neural import NEURAL
from mlx_hf_bridge.tracing.ops.reductions import REDUCTIONS
from mlx_hf_bridge.tracing.ops.shapes import SHAPES

OPERATIONS: dict[str, Callable[..., Any]] = {
    **ELEMENTWISE,
    **FUSED,
    **CREATION,
    **SCALARS,
    **NEURAL,
    **REDUCTIONS,
    **INDEXING,
    **SHAPES,
}
