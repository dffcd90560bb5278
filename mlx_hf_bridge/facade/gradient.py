"""MLX outputs as part of torch's graph: a gradient that is requested later is computed by the torch model."""

from collections.abc import Callable, Sequence
from typing import Any

import torch


class DeferredGradient(torch.autograd.Function):
    """Outputs that require a gradient although no operations were recorded; backward runs the torch model."""

    @staticmethod
    def forward(
        ctx: Any,
        leaf: torch.Tensor,
        compute: Callable[[], tuple[torch.Tensor, ...]],
        compute_on_torch: Callable[[], Sequence[torch.Tensor]],
    ) -> tuple[torch.Tensor, ...]:
        """Compute the outputs on MLX.

        Args:
            ctx: torch's context.
            leaf: A tensor that requires a gradient, so that the outputs do too.
            compute: Computes the outputs on MLX.
            compute_on_torch: Computes the same outputs, in that order, with the torch model.

        Returns:
            The outputs of MLX.
        """
        ctx.compute_on_torch = compute_on_torch
        # None stays None: zeros would make backward run through outputs that nobody used.
        ctx.set_materialize_grads(False)
        return compute()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> tuple[None, None, None]:
        """Run the torch model on the same inputs, and propagate the gradients to its parameters.

        Args:
            ctx: torch's context.
            *gradients: The gradient of each output, or None.

        Returns:
            None for each argument of `forward`.
        """
        # backward() runs with gradients disabled, and the torch model must record its operations.
        with torch.enable_grad():
            outputs = ctx.compute_on_torch()
        pairs = [
            (output, gradient) for output, gradient in zip(outputs, gradients, strict=True) if gradient is not None
        ]
        torch.autograd.backward([output for output, _ in pairs], [gradient for _, gradient in pairs])
        # The leaf has no elements; gradients reach the torch model's parameters above.
        return None, None, None
