"""A model as a list of modules, and the properties that follow from them: tokenizer, maximum length, device, folder."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from mlx_hf_bridge.errors import ArgumentTypeError, FixedSettingError, RepositoryError
from mlx_hf_bridge.inference.tokenizer import Tokenizer
from mlx_hf_bridge.pretrained.model import MLXPreTrainedModel
from mlx_hf_bridge.quantization.recipes import MLXQuantizationConfig
from mlx_hf_bridge.runtime.boundary import PublicAPI
from mlx_hf_bridge.sentence_transformers.modules.base import Module
from mlx_hf_bridge.sentence_transformers.modules.input import InputModule
from mlx_hf_bridge.sentence_transformers.modules.router import Router
from mlx_hf_bridge.sentence_transformers.modules.transformer import Transformer


class ModuleList(PublicAPI):
    """A sequence of modules, in the order in which they run."""

    _modules: list[Module]
    _name: str

    def __len__(self) -> int:
        return len(self._modules)

    def __getitem__(self, index: Any) -> Any:
        return self._modules[index]

    def __iter__(self) -> Iterator[Module]:
        return iter(self._modules)

    def __repr__(self) -> str:
        recipe = self.quantization_config
        packing = f"{recipe.bits} bits, {recipe.mode}" if recipe else "not quantized"
        names = ", ".join(type(module).__name__ for module in self._modules)
        return f"{type(self).__name__}({self._name!r}, {packing}, {names})"

    def all_modules(self) -> list[Module]:
        """Return every module, including those inside of Routers.

        Returns:
            The modules; those of a Router follow it, route by route.
        """
        found: list[Module] = []
        for module in self._modules:
            found.append(module)
            if isinstance(module, Router):
                found += [inner for route in module.sub_modules.values() for inner in route]
        return found

    @property
    def _transformer(self) -> Transformer | None:
        return next((module for module in self.all_modules() if isinstance(module, Transformer)), None)

    @property
    def _input_modules(self) -> list[InputModule]:
        first = self._modules[0]
        heads = [route[0] for route in first.sub_modules.values()] if isinstance(first, Router) else [first]
        return [module for module in heads if isinstance(module, InputModule)]

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the first module; can be set. docs/compatibility.md says how it differs."""
        return self._input_modules[0].tokenizer

    @tokenizer.setter
    def tokenizer(self, tokenizer: Tokenizer) -> None:
        if not isinstance(tokenizer, Tokenizer):
            raise ArgumentTypeError(
                f"tokenizer is a {type(tokenizer).__name__}, expected an mlx_hf_bridge.inference.tokenizer.Tokenizer. "
                "Create one from tokenizer.json: Tokenizer.from_folder(folder, {})."
            )
        self._input_modules[0].tokenizer = tokenizer

    @property
    def processor(self) -> Tokenizer:
        """The tokenizer, which is the only processor that text models have."""
        return self.tokenizer

    @property
    def max_seq_length(self) -> Any:
        """The most tokens of a text, special tokens included; can be set, up to what the model has positions for."""
        lengths = [length for module in self._input_modules if (length := getattr(module, "max_seq_length", None))]
        return max(lengths) if lengths else None

    @max_seq_length.setter
    def max_seq_length(self, length: int) -> None:
        # Before any of them: after an error nothing has changed.
        if fixed := [module for module in self._input_modules if not _can_be_set(module, "max_seq_length")]:
            raise FixedSettingError(
                f"max_seq_length={length!r} cannot be set: {type(fixed[0]).__name__} has no maximum length, as in "
                "sentence-transformers. Truncate the texts, or set model[0].tokenizer.saved_truncation to "
                '{"max_length": ..., "strategy": "longest_first"}.'
            )
        for module in self._input_modules:
            module.max_seq_length = length  # type: ignore[attr-defined]

    def get_max_seq_length(self) -> Any:
        """Return the most tokens of a text; an older form of `max_seq_length`.

        Returns:
            The number of tokens, special tokens included, or None if there is no limit.
        """
        return self.max_seq_length

    @property
    def transformers_model(self) -> MLXPreTrainedModel | None:
        """The encoder of the first Transformer, as MLXAutoModel loads it; None without a Transformer."""
        return self._transformer.auto_model if self._transformer else None

    @property
    def config(self) -> Any:
        """The configuration (config.json) of the first Transformer; None without a Transformer."""
        return self._transformer.config if self._transformer else None

    @property
    def folder(self) -> Path:
        """The folder of converted files that the weights were loaded from.

        Raises:
            RepositoryError: If the model has no Transformer.
        """
        if self._transformer is None:
            raise RepositoryError(f"{self!r} has no Transformer, and so no converted folder.")
        return self._transformer.loaded.folder

    @property
    def quantization_config(self) -> MLXQuantizationConfig | None:
        """How the weights are quantized; None if they are not."""
        return self._transformer.loaded.recipe if self._transformer else None

    @property
    def device(self) -> Any:
        """The CPU, whose memory MLX shares: a torch.device if torch is imported, else "cpu"."""
        return self.transformers_model.device if self.transformers_model else "cpu"

    @property
    def dtype(self) -> Any:
        """The dtype of the weights that are not quantized; None without a Transformer."""
        return self._transformer.loaded.dtype if self._transformer else None

    @property
    def modalities(self) -> list[str]:
        """The modalities of inputs: only "text"."""
        return ["text"]

    def supports(self, modality: Any) -> bool:
        """Return whether the model takes inputs of a modality.

        Args:
            modality: Such as "text" or "image".

        Returns:
            True for "text" only.
        """
        return modality in self.modalities

    def get_backend(self) -> str:
        """Return the name of the backend.

        Returns:
            Always "mlx".
        """
        return "mlx"

    def eval(self) -> Self:
        """Return the model as it is, since it is always in evaluation mode.

        Returns:
            This model.
        """
        return self


def _can_be_set(module: Module, name: str) -> bool:
    found = getattr(type(module), name, None)
    return not isinstance(found, property) or found.fset is not None
