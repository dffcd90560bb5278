"""The methods of torch.nn.Module that concern training, of models that are for inference only.

Reference: torch/nn/modules/module.py.
"""

from typing import Any, NoReturn, Self

from mlx_hf_bridge.errors import UnservedUseError
from mlx_hf_bridge.runtime.boundary import PublicAPI


class InferenceOnly(PublicAPI):
    """A model without torch parameters and gradients; what needs them raises UnservedUseError."""

    _instead_of_torch: str
    """What to use instead, for the message."""

    def train(self, mode: bool = True) -> Self:
        """Accept `train(False)`, which is `eval()`; training needs torch.

        Args:
            mode: Must be False.

        Returns:
            The model itself.

        Raises:
            UnservedUseError: If `mode` is True.
        """
        return self._refuse("train()") if mode else self

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Accept `requires_grad_(False)`, which changes nothing; gradients need torch.

        Args:
            requires_grad: Must be False.

        Returns:
            The model itself.

        Raises:
            UnservedUseError: If `requires_grad` is True.
        """
        return self._refuse("requires_grad_()") if requires_grad else self

    def parameters(self, recurse: bool = True) -> NoReturn:
        """Raise UnservedUseError: the weights are MLX arrays, not torch parameters.

        Args:
            recurse: Not used.
        """
        self._refuse("parameters()")

    def named_parameters(self, prefix: str = "", recurse: bool = True) -> NoReturn:
        """Raise UnservedUseError: the weights are MLX arrays, not torch parameters.

        Args:
            prefix: Not used.
            recurse: Not used.
        """
        self._refuse("named_parameters()")

    def state_dict(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raise UnservedUseError: the weights are MLX arrays, not torch tensors.

        Args:
            *args: Not used.
            **kwargs: Not used.
        """
        self._refuse("state_dict()")

    def _refuse(self, use: str) -> NoReturn:
        raise UnservedUseError(
            f"{use} was called on {type(self).__name__} on MLX, which is for inference only. {self._instead_of_torch}"
        )
