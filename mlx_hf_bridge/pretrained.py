"""A loaded model that is called as its transformers counterpart is.

Reference: transformers/modeling_utils.py, transformers/modeling_outputs.py. B texts, L tokens, N choices.
"""

import shutil
import sys
from functools import cache
from pathlib import Path
from typing import Any, Self

import mlx.core as mx

from mlx_hf_bridge.arrays import in_kind, kind_of
from mlx_hf_bridge.calls import Call
from mlx_hf_bridge.errors import ArgumentTypeError, RepositoryError
from mlx_hf_bridge.family import (
    BASE_TASK,
    MASKED_LM,
    MULTIPLE_CHOICE,
    NEXT_SENTENCE,
    PRE_TRAINING,
    QUESTION_ANSWERING,
    SEQUENCE_CLASSIFICATION,
    TOKEN_CLASSIFICATION,
)
from mlx_hf_bridge.inference.model import Encoded
from mlx_hf_bridge.inference.run import run
from mlx_hf_bridge.loading.load import Loaded, load
from mlx_hf_bridge.outputs import (
    BaseModelOutput,
    BaseModelOutputWithPooling,
    MaskedLMOutput,
    ModelOutput,
    MultipleChoiceModelOutput,
    NextSentencePredictorOutput,
    PreTrainingOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
    as_transformers,
)
from mlx_hf_bridge.quantization.recipes import MLXQuantizationConfig
from mlx_hf_bridge.tracing.model import TracedModel

_OUTPUTS: dict[str, type[ModelOutput]] = {
    MASKED_LM: MaskedLMOutput,
    SEQUENCE_CLASSIFICATION: SequenceClassifierOutput,
    TOKEN_CLASSIFICATION: TokenClassifierOutput,
    QUESTION_ANSWERING: QuestionAnsweringModelOutput,
    MULTIPLE_CHOICE: MultipleChoiceModelOutput,
    NEXT_SENTENCE: NextSentencePredictorOutput,
    PRE_TRAINING: PreTrainingOutput,
}


class ModelConfig:
    """config.json as attributes, under HF's general names too (`hidden_size` of a DistilBERT)."""

    def __init__(self, loaded: Loaded) -> None:
        self._raw = loaded.raw_config
        self._checked = loaded.config

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if hasattr(self._checked, name):
            return getattr(self._checked, name)
        if name in self._raw:
            return self._raw[name]
        raise AttributeError(f"config.json has no {name!r}")

    def to_dict(self) -> dict[str, Any]:
        """config.json's content."""
        return dict(self._raw)

    def __repr__(self) -> str:
        return f"ModelConfig({self._raw})"


class MLXPreTrainedModel:
    """A model that answers as its transformers counterpart does. Made by from_pretrained of an MLXAutoModel class."""

    def __init__(self, loaded: Loaded) -> None:
        self._loaded = loaded
        self.config = ModelConfig(loaded)
        self.name_or_path = loaded.source.name

    @property
    def loaded(self) -> Loaded:
        """The module with its family, config and folder."""
        return self._loaded

    @property
    def dtype(self) -> mx.Dtype:
        """The dtype in which unpacked weights are stored."""
        return self._loaded.dtype

    @property
    def quantization_config(self) -> MLXQuantizationConfig | None:
        """The recipe that packed the weights; None for float ones."""
        return self._loaded.recipe

    @property
    def is_traced(self) -> bool:
        """Whether a graph of transformers' module runs, and not a file of models/."""
        return isinstance(self._loaded.model, TracedModel)

    @property
    def folder(self) -> Path:
        """The converted folder that the weights were read from."""
        return self._loaded.folder

    def __call__(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        position_ids: Any = None,
        inputs_embeds: Any = None,
        *,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        **given: Any,
    ) -> Any:
        """Token ids, or vectors in their place -> outputs in the kind of the input (mx, numpy or torch).

        input_ids, attention_mask (1 = token, 0 = padding), token_type_ids, position_ids: all (B, L), for multiple
        choice (B, N, L), as are arguments that only this model's class has, by their names there (`langs`,
        `global_attention_mask`); inputs_embeds has one axis more, the width of the word table. Returns the output that
        transformers' class returns, or its tuple with return_dict=False. Raises TokenRangeError for ids or positions
        outside the model's tables, InputError for shapes that do not fit, ArgumentTypeError for other arguments.
        """
        call = Call(self._loaded, input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, given)
        states = self._asked(output_hidden_states, "output_hidden_states")
        weights = self._asked(output_attentions, "output_attentions")
        encoded = run(lambda: call.unflattened(self._loaded.model(call.batch(), states, weights)))
        output = self._output(encoded, call.like)
        if kind_of(call.like) == "torch":
            output = as_transformers(output)
        as_dict = self.config.to_dict().get("return_dict", True) if return_dict is None else return_dict
        return output if as_dict else output.to_tuple()

    def forward(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        position_ids: Any = None,
        inputs_embeds: Any = None,
        **asked: Any,
    ) -> Any:
        """The call under torch's name, which transformers' pipelines look at."""
        return self(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, **asked)

    @property
    def device(self) -> Any:
        """The CPU, whose memory MLX shares: a torch.device where torch is loaded, else its name."""
        torch = sys.modules.get("torch")
        return torch.device("cpu") if torch else "cpu"

    def to(self, device: Any = None, dtype: Any = None) -> Self:
        """The model as it is: MLX computes on its own device. ArgumentTypeError for a change of dtype."""
        asked = dtype if dtype is not None else device
        if dtype is not None or type(asked).__name__ in ("dtype", "Dtype"):
            raise ArgumentTypeError(
                f"to() got the dtype {asked}, and a loaded model keeps its own. Pass dtype to from_pretrained."
            )
        return self

    def eval(self) -> Self:
        """The model as it is: it only infers."""
        return self

    @property
    def base_model_prefix(self) -> str:
        """The first word of the family's base tensors, as transformers' classes have it."""
        return self._loaded.family.prefix

    @property
    def input_modalities(self) -> str:
        """What transformers' pipelines say of a model when they are shown."""
        return "text"

    @staticmethod
    def can_generate() -> bool:
        """Encoders do not."""
        return False

    def save_pretrained(self, save_directory: str | Path) -> None:
        """Write the converted folder: it loads back here, in MLX tools, and unquantised in transformers."""
        target = Path(save_directory)
        if target.is_file():
            raise RepositoryError(f"{target} is a file, expected a folder to save into. Give another path.")
        if target.resolve() != self.folder.resolve():
            shutil.copytree(self.folder, target, dirs_exist_ok=True, copy_function=shutil.copyfile)

    def __repr__(self) -> str:
        recipe = self._loaded.recipe
        packing = f"{recipe.bits} bits, groups of {recipe.group_size}, {recipe.mode}" if recipe else "not quantised"
        return (
            f"{self._loaded.family.hf_class(self._loaded.task)} on MLX ({self.name_or_path!r}, {packing}, {self.dtype})"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and other processes read the converted folder again."""
        return _read_again, (str(self.folder), self._loaded.task, "pooler" in self._loaded.model)

    def _asked(self, argument: bool | None, key: str) -> bool:
        return bool(self.config.to_dict().get(key, False)) if argument is None else bool(argument)

    def _output(self, encoded: Encoded, like: Any) -> ModelOutput:
        def answer(array: mx.array | None) -> Any:
            return None if array is None else in_kind(array, like)

        traced = {
            "hidden_states": encoded.states and tuple(answer(array) for array in encoded.states),
            "attentions": encoded.weights and tuple(answer(array) for array in encoded.weights),
            **(
                {"global_attentions": tuple(answer(array) for array in encoded.global_weights)}
                if encoded.global_weights
                else {}
            ),
        }
        if self._loaded.task != BASE_TASK:
            answers = {name: answer(array) for name, array in encoded.answers.items()}
            return _OUTPUTS[self._loaded.task](**answers, **traced)
        hidden = answer(encoded.hidden)
        if self._loaded.family.pooler is None:
            return BaseModelOutput(last_hidden_state=hidden, **traced)
        return BaseModelOutputWithPooling(last_hidden_state=hidden, pooler_output=answer(encoded.pooled), **traced)


def model_of(loaded: Loaded) -> MLXPreTrainedModel:
    """The model under the name of its transformers class, by which transformers' pipelines know their tasks."""
    return _class_named(loaded.family.hf_class(loaded.task))(loaded)


@cache
def _class_named(name: str) -> type[MLXPreTrainedModel]:
    return type(name, (MLXPreTrainedModel,), {"__doc__": MLXPreTrainedModel.__doc__})


def _read_again(folder: str, task: str, pooler: bool) -> MLXPreTrainedModel:
    return model_of(load(folder, task, pooler=pooler))
