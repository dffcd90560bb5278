"""The methods of torch.nn.Module that programs call on a model before they run it; what needs torch is an error.

Reference: torch/nn/modules/module.py, sentence_transformers/base/model.py.
"""

from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any, Self

from mlx_hf_bridge.errors import ArgumentTypeError, ConfigError
from mlx_hf_bridge.pretrained.inference_only import InferenceOnly
from mlx_hf_bridge.pretrained.parameters import require_float_dtype
from mlx_hf_bridge.sentence_transformers.encoding.features import compute_features
from mlx_hf_bridge.sentence_transformers.module_list import ModuleList
from mlx_hf_bridge.sentence_transformers.modules.base import Module


class ModelCardData(SimpleNamespace):
    """What evaluators store their scores in; no model card is generated from it."""

    def set_evaluation_metrics(self, *args: Any, **kwargs: Any) -> None:
        """Accept the scores of an evaluator, which are not kept.

        Args:
            *args: Not used.
            **kwargs: Not used.
        """


class TorchMethods(InferenceOnly, ModuleList):
    """A list of modules with the methods of torch.nn.Module.

    Attributes:
        model_card_data: The argument of the constructor, or an object without an effect.
        backend: Always "mlx".
    """

    model_card_data: Any
    backend = "mlx"
    _instead_of_torch = (
        "For its size use transformers_model.num_parameters(); for its arrays, model[0].loaded.model; for training, "
        "sentence-transformers on torch."
    )

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Return the model as it is, since MLX selects its device itself.

        Args:
            *args: A device, which is ignored, or a dtype.
            **kwargs: `device`, which is ignored, or `dtype`.

        Returns:
            This model.

        Raises:
            ArgumentTypeError: If a dtype is given that the weights do not have already.
        """
        dtypes = [one for one in (*args, *kwargs.values()) if type(one).__name__ in ("dtype", "Dtype")]
        for given in (*dtypes, *[kwargs[key] for key in ("dtype",) if isinstance(kwargs.get(key), str)]):
            self._check_dtype(given, "to()")
        return self

    def half(self) -> Self:
        """Return the model if its weights are float16; the dtype is chosen when it is loaded.

        Returns:
            This model.

        Raises:
            ArgumentTypeError: If they are not.
        """
        return self._check_dtype("float16", "half()")

    def float(self) -> Self:
        """Return the model if its weights are float32; the dtype is chosen when it is loaded.

        Returns:
            This model.

        Raises:
            ArgumentTypeError: If they are not.
        """
        return self._check_dtype("float32", "float()")

    def bfloat16(self) -> Self:
        """Return the model if its weights are bfloat16; the dtype is chosen when it is loaded.

        Returns:
            This model.

        Raises:
            ArgumentTypeError: If they are not.
        """
        return self._check_dtype("bfloat16", "bfloat16()")

    def _check_dtype(self, given: Any, method: str) -> Self:
        try:
            known = self.dtype is None or require_float_dtype(given) == self.dtype
        except ConfigError:
            known = False
        if not known:
            raise ArgumentTypeError(
                f"{method} got the dtype {given}, but a loaded model keeps its own, {self.dtype}. Pass dtype to the "
                "constructor; results are float32 for any."
            )
        return self

    def cpu(self) -> Self:
        """Return the model as it is: MLX's memory is shared with the CPU.

        Returns:
            This model.
        """
        return self

    def cuda(self, device: Any = None) -> Self:
        """Return the model as it is: it stays on MLX's own device.

        Args:
            device: Not used.

        Returns:
            This model.
        """
        return self

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Accept torch.compile's arguments without an effect: MLX compiles by itself.

        Args:
            *args: Not used.
            **kwargs: Not used.
        """

    def modules(self) -> Iterator[Any]:
        """Return the model and its modules, those inside of Routers included.

        Returns:
            An iterator.
        """
        return iter([self, *self.all_modules()])

    def named_modules(self) -> Iterator[tuple[str, Any]]:
        """Return the model and its direct modules by name: "" and their places.

        Returns:
            An iterator of names and modules.
        """
        return iter([("", self), *self.named_children()])

    def children(self) -> Iterator[Module]:
        """Return the modules in the order in which they run.

        Returns:
            An iterator.
        """
        return iter(self._modules)

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """Return the modules with their places as texts.

        Returns:
            An iterator of names and modules.
        """
        return iter([(str(index), module) for index, module in enumerate(self._modules)])

    def _first_module(self) -> Module:
        return self._modules[0]

    def _last_module(self) -> Module:
        return self._modules[-1]

    @property
    def _target_device(self) -> Any:
        return self.device

    def forward(self, input: Mapping[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Compute what `tokenize` or `preprocess` returned.

        Args:
            input: "input_ids" (B, L), and optionally "attention_mask", "token_type_ids" and "prompt_length": arrays of
                numpy, MLX or torch, padded on the right.
            **kwargs: `task`, for models with a Router.

        Returns:
            The input, and the outputs of the modules by name, such as "token_embeddings" (B, L, D) and
            "sentence_embedding" (B, V): torch tensors if some were given, else numpy arrays; float32.

        Raises:
            InputError: If ids are missing, padded on the left, or of queries that are to be expanded.
        """
        return compute_features(self._modules, input, kwargs.get("task"))

    def __call__(self, input: Mapping[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Compute what `tokenize` or `preprocess` returned; see `forward`.

        Args:
            input: As in `forward`.
            **kwargs: As in `forward`.

        Returns:
            As in `forward`.
        """
        return self.forward(input, **kwargs)
