"""A model as the list of its modules, and what can be asked of them: tokenizer, lengths, the encoder, its folder."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from mlx_hf_bridge.errors import ArgumentTypeError, RepositoryError
from mlx_hf_bridge.inference.tokenizer import Tokenizer
from mlx_hf_bridge.pretrained.model import MLXPreTrainedModel
from mlx_hf_bridge.quantization.recipes import MLXQuantizationConfig
from mlx_hf_bridge.sentence_transformers.modules.base import Module
from mlx_hf_bridge.sentence_transformers.modules.input import InputModule
from mlx_hf_bridge.sentence_transformers.modules.router import Router
from mlx_hf_bridge.sentence_transformers.modules.transformer import Transformer


class ModuleList:
    """Modules in the order in which texts run through them."""

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
        packing = f"{recipe.bits} bits, {recipe.mode}" if recipe else "not quantised"
        names = ", ".join(type(module).__name__ for module in self._modules)
        return f"{type(self).__name__}({self._name!r}, {packing}, {names})"

    def all_modules(self) -> list[Module]:
        """Every module, those of a Router's routes too."""
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
        """The tokenizer of the first module that reads texts; see docs/compatibility.md for how it differs."""
        return self._input_modules[0].tokenizer

    @tokenizer.setter
    def tokenizer(self, tokenizer: Tokenizer) -> None:
        if not isinstance(tokenizer, Tokenizer):
            raise ArgumentTypeError(
                f"tokenizer is a {type(tokenizer).__name__}, expected an mlx_hf_bridge.inference.tokenizer.Tokenizer. "
                "Make one from tokenizer.json: Tokenizer.from_folder(folder, {})."
            )
        self._input_modules[0].tokenizer = tokenizer

    @property
    def processor(self) -> Tokenizer:
        """The tokenizer; models of texts have no other processor."""
        return self.tokenizer

    @property
    def max_seq_length(self) -> Any:
        """The most tokens of a text that are used; may be set, up to the model's positions."""
        lengths = [length for module in self._input_modules if (length := getattr(module, "max_seq_length", None))]
        return max(lengths) if lengths else None

    @max_seq_length.setter
    def max_seq_length(self, length: int) -> None:
        for module in self._input_modules:
            if isinstance(module, Transformer) or len(self._input_modules) == 1:
                module.max_seq_length = length  # type: ignore[attr-defined]

    def get_max_seq_length(self) -> Any:
        """max_seq_length, by its older name."""
        return self.max_seq_length

    @property
    def transformers_model(self) -> MLXPreTrainedModel | None:
        """The first Transformer's model, as MLXAutoModel gives it; None without one."""
        return self._transformer.auto_model if self._transformer else None

    @property
    def config(self) -> Any:
        """config.json of the first Transformer; None without one."""
        return self._transformer.config if self._transformer else None

    @property
    def folder(self) -> Path:
        """The converted folder that the weights were read from."""
        if self._transformer is None:
            raise RepositoryError(f"{self!r} has no Transformer, and so no converted folder.")
        return self._transformer.loaded.folder

    @property
    def quantization_config(self) -> MLXQuantizationConfig | None:
        """The recipe that packed the weights; None for float ones."""
        return self._transformer.loaded.recipe if self._transformer else None

    @property
    def device(self) -> Any:
        """The CPU, whose memory MLX shares: a torch.device where torch is loaded, else its name."""
        return self.transformers_model.device if self.transformers_model else "cpu"

    @property
    def dtype(self) -> Any:
        """The dtype in which unpacked weights are stored; None without a Transformer."""
        return self._transformer.loaded.dtype if self._transformer else None

    @property
    def modalities(self) -> list[str]:
        """Texts alone."""
        return ["text"]

    def supports(self, modality: Any) -> bool:
        """Whether inputs of a modality are read."""
        return modality in self.modalities

    def get_backend(self) -> str:
        """What computes."""
        return "mlx"

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """The model as it is: MLX computes on its own device. ArgumentTypeError for a change of dtype."""
        dtypes = [given for given in (*args, *kwargs.values()) if type(given).__name__ in ("dtype", "Dtype")]
        if dtypes:
            raise ArgumentTypeError(
                f"to() got the dtype {dtypes[0]}, and a loaded model keeps its own. Pass dtype when it is loaded."
            )
        return self

    def eval(self) -> Self:
        """The model as it is: it only infers."""
        return self
