"""What callers do with a torch module beside calling it: move, round and count it; what only torch serves is refused.

Reference: torch/nn/modules/module.py, transformers/modeling_utils.py (num_parameters, get_memory_footprint).
"""

from dataclasses import replace
from typing import Any, NoReturn, Self

import mlx.core as mx

from mlx_hf_bridge.errors import UnservedUseError
from mlx_hf_bridge.loading.load import LoadedModel
from mlx_hf_bridge.pretrained.parameters import cast_weights, count_parameters, memory_footprint, require_float_dtype
from mlx_hf_bridge.runtime.executor import run
from mlx_hf_bridge.tracing.model import TracedModel


class TorchModuleAPI:
    """A loaded model, moved, rounded and counted as torch modules are."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._loaded = loaded

    @property
    def loaded(self) -> LoadedModel:
        """The module with its family, config and folder."""
        return self._loaded

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """The model on the device that it is on, MLX's own; a dtype among the arguments rounds the weights to it."""
        for given in (*args, *kwargs.values()):
            if type(given).__name__ in ("dtype", "Dtype"):
                self._cast(given)
        return self

    def cpu(self) -> Self:
        """The model where it is."""
        return self

    def cuda(self, device: Any = None) -> Self:
        """The model where it is."""
        return self

    def half(self) -> Self:
        """The weights rounded to float16, in place; packed ones stay packed."""
        return self._cast(mx.float16)

    def bfloat16(self) -> Self:
        """The weights rounded to bfloat16, in place; packed ones stay packed."""
        return self._cast(mx.bfloat16)

    def float(self) -> Self:
        """The weights in float32, in place; packed ones stay packed."""
        return self._cast(mx.float32)

    def _cast(self, given: Any) -> Self:
        dtype, model = require_float_dtype(given), self._loaded.model
        if isinstance(model, TracedModel):
            raise UnservedUseError(
                f"{dtype} was asked of {type(self).__name__}, a traced graph, which keeps the dtype it was made in. "
                "Pass dtype to from_pretrained."
            )
        run(lambda: cast_weights(model, dtype, self._loaded.config.exceeds_float16))
        self._loaded = replace(self._loaded, dtype=dtype)
        return self

    def eval(self) -> Self:
        """The model as it is: it only infers."""
        return self

    def train(self, mode: bool = True) -> Self:
        """train(False) is eval(); UnservedUseError otherwise."""
        return self._refuse("train()") if mode else self

    def parameters(self, recurse: bool = True) -> NoReturn:
        """UnservedUseError: there are no torch parameters."""
        self._refuse("parameters()")

    def named_parameters(self, prefix: str = "", recurse: bool = True) -> NoReturn:
        """UnservedUseError: there are no torch parameters."""
        self._refuse("named_parameters()")

    def state_dict(self) -> NoReturn:
        """UnservedUseError: there are no torch tensors."""
        self._refuse("state_dict()")

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """requires_grad_(False) changes nothing; UnservedUseError otherwise."""
        return self._refuse("requires_grad_()") if requires_grad else self

    def _refuse(self, use: str) -> NoReturn:
        raise UnservedUseError(
            f"{use} was called on {type(self).__name__} on MLX, which only infers. For its place and size use device, "
            "dtype and num_parameters(); for its arrays loaded.model; to train, transformers on torch."
        )

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """How many numbers the model has learnt, packed ones counted as what they stand for.

        None is trainable here, and all would be in transformers, so that only_trainable changes nothing.
        """
        return count_parameters(self._loaded.model, not exclude_embeddings)

    def get_memory_footprint(self, return_buffers: bool = True) -> int:
        """Bytes of the weights as they lie in memory."""
        return memory_footprint(self._loaded.model)
