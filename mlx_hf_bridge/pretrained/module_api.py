"""The part of torch.nn.Module's API that makes sense for inference: move, cast and count; the rest raises an error.

Reference: torch/nn/modules/module.py, transformers/modeling_utils.py (num_parameters, get_memory_footprint).
"""

from dataclasses import replace
from typing import Any, Self

import mlx.core as mx

from mlx_hf_bridge.errors import UnservedUseError
from mlx_hf_bridge.loading.load import LoadedModel
from mlx_hf_bridge.pretrained.inference_only import InferenceOnly
from mlx_hf_bridge.pretrained.parameters import cast_weights, count_parameters, memory_footprint, require_float_dtype
from mlx_hf_bridge.runtime.executor import run
from mlx_hf_bridge.tracing.model import TracedModel


class TorchModuleAPI(InferenceOnly):
    """The methods of torch.nn.Module and PreTrainedModel that programs call on a model before they run it.

    Args:
        loaded: The loaded model.
    """

    _instead_of_torch = (
        "For its device and size use device, dtype and num_parameters(); for its arrays, loaded.model; for training, "
        "transformers on torch."
    )

    def __init__(self, loaded: LoadedModel) -> None:
        self._loaded = loaded

    @property
    def loaded(self) -> LoadedModel:
        """The loaded MLX module with its family, config and converted folder."""
        return self._loaded

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Cast the weights if a dtype is among the arguments; a device is accepted and changes nothing.

        MLX runs on its own device, whose memory the CPU shares.

        Args:
            *args: A device, a dtype (of mx, torch or numpy), or both, as for torch.nn.Module.to.
            **kwargs: `device`, `dtype` and torch's other arguments by name.

        Returns:
            The model itself.

        Raises:
            ConfigError: If the dtype is not float32, float16 or bfloat16.
            UnservedUseError: If a dtype is given and the model is a traced graph.
        """
        for given in (*args, *kwargs.values()):
            # torch.dtype and mx.Dtype by name, so that torch need not be imported.
            if type(given).__name__ in ("dtype", "Dtype"):
                self._cast(given)
        return self

    def cpu(self) -> Self:
        """Return the model unchanged: MLX's memory is shared with the CPU.

        Returns:
            The model itself.
        """
        return self

    def cuda(self, device: Any = None) -> Self:
        """Return the model unchanged: it stays on MLX's own device.

        Args:
            device: Not used.

        Returns:
            The model itself.
        """
        return self

    def half(self) -> Self:
        """Cast the weights to float16, in place; quantized weights stay quantized.

        On a CPU the weights are rounded to float16, and the computation stays in float32.

        Returns:
            The model itself.

        Raises:
            UnservedUseError: If the model is a traced graph.
        """
        return self._cast(mx.float16)

    def bfloat16(self) -> Self:
        """Cast the weights to bfloat16, in place; quantized weights stay quantized.

        Returns:
            The model itself.

        Raises:
            UnservedUseError: If the model is a traced graph.
        """
        return self._cast(mx.bfloat16)

    def float(self) -> Self:
        """Cast the weights to float32, in place; quantized weights stay quantized.

        Returns:
            The model itself.

        Raises:
            UnservedUseError: If the model is a traced graph.
        """
        return self._cast(mx.float32)

    def _cast(self, given: Any) -> Self:
        dtype, model = require_float_dtype(given), self._loaded.model
        if isinstance(model, TracedModel):
            raise UnservedUseError(
                f"got {dtype} for {type(self).__name__}, a traced graph, whose dtype is fixed at conversion. "
                "Pass dtype to from_pretrained."
            )
        run(lambda: cast_weights(model, dtype, self._loaded.config.exceeds_float16))
        self._loaded = replace(self._loaded, dtype=dtype)
        return self

    @property
    def training(self) -> bool:
        """Always False: the model is for inference only."""
        return False

    def eval(self) -> Self:
        """Return the model unchanged: it is always in evaluation mode.

        Returns:
            The model itself.
        """
        return self

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """Return the number of parameters; quantized weights count as the numbers that they stand for.

        Args:
            only_trainable: Changes nothing, as in a transformers model of which no parameter is frozen.
            exclude_embeddings: Whether to leave out the embedding tables.

        Returns:
            The number of parameters.
        """
        return count_parameters(self._loaded.model, not exclude_embeddings)

    def get_memory_footprint(self, return_buffers: bool = True) -> int:
        """Return the size of the weights in memory, in bytes.

        Args:
            return_buffers: Not used; buffers are counted.

        Returns:
            The size in bytes.
        """
        return memory_footprint(self._loaded.model)
