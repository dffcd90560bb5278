"""A loaded model that is called as its transformers counterpart is.

Reference: transformers/modeling_utils.py, transformers/modeling_outputs.py. B texts, L tokens, N choices.
"""

import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_hf_bridge.architecture.family import (
    BASE_TASK,
    MASKED_LM,
    MULTIPLE_CHOICE,
    NEXT_SENTENCE,
    PRE_TRAINING,
    QUESTION_ANSWERING,
    SEQUENCE_CLASSIFICATION,
    TOKEN_CLASSIFICATION,
)
from mlx_hf_bridge.checkpoints.card import CARD_FILE
from mlx_hf_bridge.errors import ArgumentTypeError, UnservedUseError
from mlx_hf_bridge.inference.model import EncoderOutput
from mlx_hf_bridge.layers.single_batch import single_batch_mode
from mlx_hf_bridge.loading.load import Changes, LoadedModel, load
from mlx_hf_bridge.pretrained.arrays import array_type, match_array_type
from mlx_hf_bridge.pretrained.config import ModelConfig
from mlx_hf_bridge.pretrained.hub import PUSH_ARGUMENTS, build_model_card, push, reporting_hub_errors
from mlx_hf_bridge.pretrained.inputs import ModelInputs
from mlx_hf_bridge.pretrained.module_api import TorchModuleAPI
from mlx_hf_bridge.pretrained.outputs import (
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
    to_transformers_output,
)
from mlx_hf_bridge.pretrained.parameters import require_float_dtype
from mlx_hf_bridge.pretrained.saving import DEFAULT_SHARD, check_options, save_folder
from mlx_hf_bridge.quantization.recipes import MLXQuantizationConfig
from mlx_hf_bridge.runtime.executor import run
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


class MLXPreTrainedModel(TorchModuleAPI):
    """A model that answers as its transformers counterpart does. Made by from_pretrained of an MLXAutoModel class."""

    def __init__(self, loaded: LoadedModel) -> None:
        super().__init__(loaded)
        self.config = ModelConfig(loaded.raw_config, loaded.config, loaded.source.name)
        self.name_or_path = loaded.source.name

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
        call = ModelInputs(self._loaded, input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, given)
        states = self._asked(output_hidden_states, "output_hidden_states")
        weights = self._asked(output_attentions, "output_attentions")
        answer_alone = self._loaded.task != BASE_TASK

        def encoding() -> EncoderOutput:
            with single_batch_mode():
                return call.unflattened(self._loaded.model(call.batch(), states, weights, answer_alone))

        encoded = run(encoding)
        output = self._output(encoded, call.like)
        if array_type(call.like) == "torch":
            output = to_transformers_output(output)
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

    def save_pretrained(
        self,
        save_directory: str | Path,
        is_main_process: bool = True,
        state_dict: None = None,
        push_to_hub: bool = False,
        max_shard_size: int | str = DEFAULT_SHARD,
        variant: str | None = None,
        token: str | bool | None = None,
        safe_serialization: bool = True,
        **kwargs: Any,
    ) -> None:
        """Write the folder: it loads back here, in MLX tools, and unquantised in transformers.

        The arguments are transformers'; push_to_hub=True uploads it too, to `repo_id` or the folder's name. Raises
        RepositoryError for a path that is a file, ArgumentTypeError for what is not written (.bin files, tensors of
        the caller's), UnservedUseError for a model with a head drawn at random.
        """
        check_options(kwargs, (*PUSH_ARGUMENTS, "repo_id", "tags", "save_peft_format", "save_original_format"))
        if state_dict is not None or not safe_serialization:
            given = "state_dict" if state_dict is not None else "safe_serialization=False"
            raise ArgumentTypeError(f"save_pretrained() got {given}; the model's own tensors are saved as safetensors.")
        if not is_main_process:
            return
        target = Path(save_directory).expanduser()
        self._save(target, max_shard_size, variant)
        if push_to_hub:
            options = {key: value for key, value in kwargs.items() if key in (*PUSH_ARGUMENTS, "tags")}
            repo_id = kwargs.get("repo_id") or target.resolve().name
            self.push_to_hub(repo_id, token=token, max_shard_size=max_shard_size, variant=variant, **options)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        max_shard_size: int | str = DEFAULT_SHARD,
        variant: str | None = None,
        tags: Sequence[str] | None = None,
        fidelity: Mapping[str, float] | None = None,
        **options: Any,
    ) -> Any:
        """Upload the model with its tokenizer and a model card to a repo of the Hub -> huggingface_hub's CommitInfo.

        fidelity: figures measured against the original, for the card. options: commit_message, commit_description,
        private, token, revision, create_pr. Raises RepositoryError when the Hub refuses or is not reached.
        """
        check_options(options, PUSH_ARGUMENTS)

        def write(folder: Path, repo: str) -> None:
            self._save(folder, max_shard_size, variant)
            build_model_card(folder, repo, self._loaded.task, tuple(tags or ()), fidelity).save(folder / CARD_FILE)

        with reporting_hub_errors(repo_id):
            return push(write, repo_id, **options)

    def _save(self, target: Path, max_shard_size: int | str, variant: str | None) -> None:
        self._refuse_drawn("save_pretrained()")
        config, dtype, folder = self.config.to_dict(), self._loaded.dtype, self.folder
        run(lambda: save_folder(folder, target, config, dtype, variant, max_shard_size))

    def _refuse_drawn(self, use: str) -> None:
        report, is_head = self._loaded.report, self._loaded.task != BASE_TASK
        if report.mismatched_keys or (is_head and report.missing_keys):
            raise UnservedUseError(
                f"{use} was called on a model with weights drawn at random (ignore_mismatched_sizes=True), which are "
                "nowhere on disk. Load a checkpoint that has them."
            )

    def __repr__(self) -> str:
        recipe = self._loaded.recipe
        packing = f"{recipe.bits} bits, groups of {recipe.group_size}, {recipe.mode}" if recipe else "not quantised"
        name = self._loaded.family.hf_class_name(self._loaded.task)
        return f"{name} on MLX ({self.name_or_path!r}, {packing}, {self.dtype})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and other processes read the converted folder again, under this config."""
        self._refuse_drawn("a copy")
        pooler, config = "pooler" in self._loaded.model, None if self.is_traced else self.config.to_dict()
        return _read_again, (str(self.folder), self._loaded.task, pooler, config, str(self._loaded.dtype))

    def _asked(self, argument: bool | None, key: str) -> bool:
        return bool(self.config.to_dict().get(key, False)) if argument is None else bool(argument)

    def _output(self, encoded: EncoderOutput, like: Any) -> ModelOutput:
        def answer(array: mx.array | None) -> Any:
            return None if array is None else match_array_type(array, like)

        traced = {
            "hidden_states": encoded.hidden_states and tuple(answer(array) for array in encoded.hidden_states),
            "attentions": encoded.attentions and tuple(answer(array) for array in encoded.attentions),
            **(
                {"global_attentions": tuple(answer(array) for array in encoded.global_attentions)}
                if encoded.global_attentions
                else {}
            ),
        }
        if self._loaded.task != BASE_TASK:
            answers = {name: answer(array) for name, array in encoded.outputs.items()}
            return _OUTPUTS[self._loaded.task](**answers, **traced)
        hidden = answer(encoded.hidden)
        if self._loaded.family.pooler is None:
            return BaseModelOutput(last_hidden_state=hidden, **traced)
        return BaseModelOutputWithPooling(last_hidden_state=hidden, pooler_output=answer(encoded.pooled), **traced)


def create_model(loaded: LoadedModel) -> MLXPreTrainedModel:
    """The model under the name of its transformers class, by which transformers' pipelines know their tasks."""
    return _class_named(loaded.family.hf_class_name(loaded.task))(loaded)


@cache
def _class_named(name: str) -> type[MLXPreTrainedModel]:
    return type(name, (MLXPreTrainedModel,), {"__doc__": MLXPreTrainedModel.__doc__})


def _read_again(folder: str, task: str, pooler: bool, config: dict[str, Any] | None, dtype: str) -> MLXPreTrainedModel:
    model = create_model(load(folder, task, pooler=pooler, changes=Changes(config)))
    return model if str(model.dtype) == dtype else model.to(dtype=require_float_dtype(dtype))
