"""Answers of MLX that stand in torch's graph: a gradient that is asked for later is computed by the torch model."""

from collections.abc import Callable, Sequence
from typing import Any

import torch


class DeferredGradient(torch.autograd.Function):
    """Tensors that need a gradient although nothing was recorded; backward calls the torch model on the same inputs."""

    @staticmethod
    def forward(
        ctx: Any,
        probe: torch.Tensor,
        compute: Callable[[], tuple[torch.Tensor, ...]],
        again: Callable[[], Sequence[torch.Tensor]],
    ) -> tuple[torch.Tensor, ...]:
        """probe: a leaf that needs a gradient. compute, again: the answers of MLX and of torch, in the same order."""
        ctx.again = again
        ctx.set_materialize_grads(False)
        return compute()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> tuple[None, None, None]:
        """The gradients go into the torch model's own parameters."""
        with torch.enable_grad():
            answers = ctx.again()
        pairs = [
            (answer, gradient) for answer, gradient in zip(answers, gradients, strict=True) if gradient is not None
        ]
        torch.autograd.backward([answer for answer, _ in pairs], [gradient for _, gradient in pairs])
        return None, None, None
