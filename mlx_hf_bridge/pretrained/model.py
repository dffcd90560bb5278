"""A loaded model that is called like its transformers counterpart.

Reference: transformers/modeling_utils.py, transformers/modeling_outputs.py. B texts, L tokens, N choices, D hidden
    size.
"""

import logging
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_hf_bridge.architecture.family import (
    BASE_TASK,
    ENTITY_CLASSIFICATION,
    ENTITY_PAIR_CLASSIFICATION,
    ENTITY_SPAN_CLASSIFICATION,
    MASKED_LM,
    MULTIPLE_CHOICE,
    NEXT_SENTENCE,
    PRE_TRAINING,
    QUESTION_ANSWERING,
    SEQUENCE_CLASSIFICATION,
    TABLE_QUESTION_ANSWERING,
    TOKEN_CLASSIFICATION,
)
from mlx_hf_bridge.checkpoints.card import CARD_FILE
from mlx_hf_bridge.errors import ArgumentTypeError, UnservedUseError
from mlx_hf_bridge.inference.finite import NON_FINITE_OUTPUTS, is_finite_output
from mlx_hf_bridge.inference.model import EncoderOutput
from mlx_hf_bridge.layers.single_batch import single_batch_mode
from mlx_hf_bridge.loading.load import Changes, LoadedModel, load
from mlx_hf_bridge.loading.stored import Content, check_still_there
from mlx_hf_bridge.pretrained.arrays import array_type, match_array_type
from mlx_hf_bridge.pretrained.config import ModelConfig
from mlx_hf_bridge.pretrained.hub import PUSH_ARGUMENTS, build_model_card, push
from mlx_hf_bridge.pretrained.inputs import ModelInputs
from mlx_hf_bridge.pretrained.module_api import TorchModuleAPI
from mlx_hf_bridge.pretrained.outputs import (
    BaseModelOutput,
    BaseModelOutputWithPooling,
    EntityClassificationOutput,
    EntityPairClassificationOutput,
    EntitySpanClassificationOutput,
    MaskedLMOutput,
    ModelOutput,
    MultipleChoiceModelOutput,
    NextSentencePredictorOutput,
    PooledOutput,
    PreTrainingOutput,
    QuestionAnsweringModelOutput,
    Seq2SeqModelOutput,
    Seq2SeqQuestionAnsweringModelOutput,
    Seq2SeqSequenceClassifierOutput,
    SequenceClassifierOutput,
    TableQuestionAnsweringOutput,
    TokenClassifierOutput,
    build_output,
    to_transformers_output,
)
from mlx_hf_bridge.pretrained.parameters import require_float_dtype
from mlx_hf_bridge.pretrained.saving import DEFAULT_SHARD, check_options, save_folder
from mlx_hf_bridge.quantization.recipes import MLXQuantizationConfig
from mlx_hf_bridge.runtime.executor import run
from mlx_hf_bridge.tracing.model import TracedModel

logger = logging.getLogger(__name__)

_OUTPUTS: dict[str, type[ModelOutput]] = {
    MASKED_LM: MaskedLMOutput,
    SEQUENCE_CLASSIFICATION: SequenceClassifierOutput,
    TOKEN_CLASSIFICATION: TokenClassifierOutput,
    QUESTION_ANSWERING: QuestionAnsweringModelOutput,
    MULTIPLE_CHOICE: MultipleChoiceModelOutput,
    NEXT_SENTENCE: NextSentencePredictorOutput,
    PRE_TRAINING: PreTrainingOutput,
    TABLE_QUESTION_ANSWERING: TableQuestionAnsweringOutput,
    ENTITY_CLASSIFICATION: EntityClassificationOutput,
    ENTITY_PAIR_CLASSIFICATION: EntityPairClassificationOutput,
    ENTITY_SPAN_CLASSIFICATION: EntitySpanClassificationOutput,
}

# Those of models that end with a decoder.
_SEQ2SEQ_OUTPUTS: dict[str, type[ModelOutput]] = {
    SEQUENCE_CLASSIFICATION: Seq2SeqSequenceClassifierOutput,
    QUESTION_ANSWERING: Seq2SeqQuestionAnsweringModelOutput,
}


class MLXPreTrainedModel(TorchModuleAPI):
    """A model for inference with the call, outputs and methods of its transformers counterpart.

    Returned by from_pretrained of the MLXAutoModel classes; the class has the name of the transformers class.

    Args:
        loaded: The loaded model.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        super().__init__(loaded)
        self.config = ModelConfig(loaded.raw_config, loaded.config, loaded.source.name)
        self.name_or_path = loaded.source.name
        self._warned_of_non_finite = False

    @property
    def dtype(self) -> mx.Dtype:
        """The dtype in which weights that are not quantized are stored."""
        return self._loaded.dtype

    @property
    def quantization_config(self) -> MLXQuantizationConfig | None:
        """The recipe that the weights are quantized with; None if they are not."""
        return self._loaded.recipe

    @property
    def is_traced(self) -> bool:
        """Whether the model runs as a traced graph of transformers' module, instead of an implementation in models/."""
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
        **extra_inputs: Any,
    ) -> Any:
        """Compute the model's outputs for a batch.

        Arrays may be of MLX, numpy or torch, or nested lists; for multiple choice (B, L) is (B, N, L).

        Args:
            input_ids: Token ids (B, L), as a tokenizer returns them.
            attention_mask: (B, L), 1 for tokens and 0 for padding. None means that all are tokens.
            token_type_ids: (B, L), which of two texts each token belongs to. None means 0; ignored by models that have
                no token types.
            position_ids: (B, L), positions of the tokens. None numbers them as the model's class does.
            inputs_embeds: Vectors (B, L, D) instead of input_ids.
            output_hidden_states: Whether to return the hidden states of every layer. None is the config's value.
            output_attentions: Whether to return the attention weights of every layer. None is the config's value.
            return_dict: Whether to return an output object (True) or a tuple. None is the config's value.
            **extra_inputs: Arguments that only this model's class has, by their names in transformers (`langs`,
                `global_attention_mask`).

        Returns:
            The output of the transformers class (BaseModelOutputWithPooling, MaskedLMOutput, ...), with arrays of the
            type of the input and, for torch, on its device; or a tuple of its values.

        Raises:
            TokenRangeError: If an id, token type id or position is outside its embedding table.
            InputError: If input_ids and inputs_embeds are both given or both missing, or shapes do not match.
            ArgumentTypeError: If an argument is unknown, or its type is not accepted.
        """
        inputs = ModelInputs(
            self._loaded, input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, extra_inputs
        )
        hidden_states = self._option(output_hidden_states, "output_hidden_states")
        attentions = self._option(output_attentions, "output_attentions")
        # Then the last layer may skip positions that the head does not read.
        outputs_only = self._loaded.task != BASE_TASK

        def encode() -> tuple[EncoderOutput, mx.array]:
            # A direct call is one batch, and `run` lets nothing else compute meanwhile.
            with single_batch_mode():
                output = self._loaded.model(inputs.batch(), hidden_states, attentions, outputs_only)
                return inputs.unflatten_choices(output), is_finite_output(output)

        encoded, is_finite = run(encode)
        self._warn_unless(bool(is_finite.item()))
        output = self._output(encoded, inputs.reference)
        # Callers on torch may ask for isinstance(output, transformers.utils.ModelOutput).
        if array_type(inputs.reference) == "torch":
            output = to_transformers_output(output)
        as_dict = self.config.return_dict if return_dict is None else return_dict
        return output if as_dict else output.to_tuple()

    def forward(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        position_ids: Any = None,
        inputs_embeds: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Call the model; transformers' pipelines look for this method.

        Args:
            input_ids: See `__call__`.
            attention_mask: See `__call__`.
            token_type_ids: See `__call__`.
            position_ids: See `__call__`.
            inputs_embeds: See `__call__`.
            **kwargs: The other arguments of `__call__`.

        Returns:
            The model's output.
        """
        return self(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, **kwargs)

    @property
    def device(self) -> Any:
        """The CPU, whose memory MLX shares: a torch.device if torch is imported, otherwise its name."""
        # Only if it is imported already: importing it takes seconds.
        torch = sys.modules.get("torch")
        return torch.device("cpu") if torch else "cpu"

    @property
    def base_model_prefix(self) -> str:
        """The name of the encoder within a model with a head, as in transformers' classes ("bert")."""
        return self._loaded.family.prefix

    @property
    def input_modalities(self) -> str:
        """What the model reads, "text"; shown by transformers' pipelines."""
        return "text"

    @property
    def main_input_name(self) -> str:
        """The first argument of a call, "input_ids"."""
        return "input_ids"

    @property
    def num_labels(self) -> int:
        """The number of labels in the config, whether or not the model has a classification head."""
        return self.config.num_labels

    @staticmethod
    def can_generate() -> bool:
        """Return whether the model generates text.

        Returns:
            False: encoders do not.
        """
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
        """Write the model to a folder.

        The folder loads here, in MLX tools and, if it is not quantized, in transformers.

        Args:
            save_directory: The folder; created if needed.
            is_main_process: Nothing is written if False, as in transformers.
            state_dict: Must be None: the model's own tensors are saved.
            push_to_hub: Whether to upload the model too, to `repo_id` or the folder's name.
            max_shard_size: The largest size of one weight file, in bytes or as text ("5GB").
            variant: A word to put into the weight files' names ("fp16": model.fp16.safetensors).
            token: Access token for push_to_hub.
            safe_serialization: Must be True: only safetensors files are written.
            **kwargs: Options of push_to_hub (`repo_id`, `commit_message`, `private`, ...). transformers'
                `save_peft_format` and `save_original_format` change nothing.

        Raises:
            ArgumentTypeError: If `state_dict` or safe_serialization=False is given, or an argument is unknown.
            InputError: If `max_shard_size` is not a size.
            RepositoryError: If the path is a file, or the folder that the model was loaded from and its weights would
                change.
            UnservedUseError: If the model has randomly initialized weights (ignore_mismatched_sizes=True).

        Example:
            ```python
            model = MLXAutoModel.from_pretrained("intfloat/e5-small-v2", quantization_config="q8")
            model.save_pretrained("e5-small-v2-q8")
            MLXAutoModel.from_pretrained("e5-small-v2-q8")
            ```
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
        """Upload the model with its tokenizer and a model card to a repo on the Hub.

        Args:
            repo_id: The repo, "name" or "organization/name"; created if needed.
            max_shard_size: The largest size of one weight file, in bytes or as text ("5GB").
            variant: A word to put into the weight files' names.
            tags: Further tags for the model card.
            fidelity: Metrics against the original model, by name, for the model card. None uses those of the
                conversion or of `mlx-hf-bridge verify --store`, if there are any.
            **options: `commit_message`, `commit_description`, `private`, `token`, `revision` and `create_pr`.

        Returns:
            huggingface_hub's CommitInfo.

        Raises:
            RepositoryError: If the Hub refuses the upload or cannot be reached.
            ArgumentTypeError: If an option is unknown.
            UnservedUseError: If the model has randomly initialized weights (ignore_mismatched_sizes=True).

        Example:
            ```python
            model = MLXAutoModel.from_pretrained("intfloat/e5-small-v2", quantization_config="q8")
            model.push_to_hub("me/e5-small-v2-mlx-q8", private=True)
            ```
        """
        check_options(options, PUSH_ARGUMENTS)

        def write(folder: Path, repo: str) -> None:
            self._save(folder, max_shard_size, variant)
            build_model_card(folder, repo, self._loaded.task, tuple(tags or ()), fidelity).save(folder / CARD_FILE)

        return push(write, repo_id, **options)

    def _save(self, target: Path, max_shard_size: int | str, variant: str | None) -> None:
        self._refuse_random_weights("save_pretrained()")
        config, dtype, folder = self.config.to_dict(), self._loaded.dtype, self.folder
        check_still_there(folder, self._loaded.content)
        run(lambda: save_folder(folder, target, config, dtype, variant, max_shard_size))

    def _refuse_random_weights(self, use: str) -> None:
        report, is_head = self._loaded.report, self._loaded.task != BASE_TASK
        if report.mismatched_keys or (is_head and report.missing_keys):
            raise UnservedUseError(
                f"{use} was called on a model with randomly initialized weights (ignore_mismatched_sizes=True), which "
                "are not on disk. Load a checkpoint that has them."
            )

    def __repr__(self) -> str:
        recipe = self._loaded.recipe
        packing = f"{recipe.bits} bits, groups of {recipe.group_size}, {recipe.mode}" if recipe else "not quantized"
        name = self._loaded.family.hf_class_name(self._loaded.task)
        return f"{name} on MLX ({self.name_or_path!r}, {packing}, {self.dtype})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and other processes read the converted folder again, under this config."""
        self._refuse_random_weights("a copy")
        pooler, config = "pooler" in self._loaded.model, None if self.is_traced else self.config.to_dict()
        content = self._loaded.content
        return _read_again, (str(self.folder), self._loaded.task, pooler, config, str(self._loaded.dtype), content)

    def _option(self, argument: bool | None, key: str) -> bool:
        return bool(getattr(self.config, key)) if argument is None else bool(argument)

    def _warn_unless(self, is_finite: bool) -> None:
        """Warn once of NaN or infinity, which transformers returns without a warning."""
        if not is_finite and not self._warned_of_non_finite:
            self._warned_of_non_finite = True
            logger.warning(NON_FINITE_OUTPUTS, self.name_or_path)

    def _output(self, encoded: EncoderOutput, like: Any) -> ModelOutput:
        def convert(array: Any) -> Any:
            if isinstance(array, tuple):
                return tuple(match_array_type(one, like) for one in array)
            return None if array is None else match_array_type(array, like)

        task = self._loaded.task
        logits = {name: convert(array) for name, array in encoded.outputs.items()}
        recorded = {name: convert(value) for name, value in _recorded(encoded).items() if value is not None}
        if task != BASE_TASK:
            kind = (_OUTPUTS if encoded.encoder is None else _SEQ2SEQ_OUTPUTS)[task]
            return build_output(kind, {**logits, **recorded})
        hidden = convert(encoded.hidden)
        if encoded.encoder is not None:
            return Seq2SeqModelOutput(last_hidden_state=hidden, **recorded)
        if not self._loaded.family.returns_hidden_state:
            return PooledOutput(pooler_output=convert(encoded.pooled), **recorded)
        if encoded.entity_hidden is not None:
            recorded["entity_last_hidden_state"] = convert(encoded.entity_hidden)
        states = {"last_hidden_state": hidden, **recorded, **logits}
        if self._loaded.family.pooler is None:
            return build_output(BaseModelOutput, states)
        return build_output(BaseModelOutputWithPooling, {**states, "pooler_output": convert(encoded.pooled)})


def _recorded(encoded: EncoderOutput) -> dict[str, Any]:
    """Return what was computed on the way to an output, by transformers' names of the fields."""
    encoder = encoded.encoder
    if encoder is None:
        names = ("hidden_states", "attentions", "global_attentions", "entity_hidden_states")
        return {name: getattr(encoded, name) for name in names}
    return {
        "decoder_hidden_states": encoded.hidden_states,
        "decoder_attentions": encoded.attentions,
        "cross_attentions": encoded.cross_attentions,
        "encoder_last_hidden_state": encoder.hidden,
        "encoder_hidden_states": encoder.hidden_states,
        "encoder_attentions": encoder.attentions,
        "encoder_global_attentions": encoder.global_attentions,
    }


def create_model(loaded: LoadedModel) -> MLXPreTrainedModel:
    """Wrap a loaded model in a class with the name of its transformers class, which transformers' pipelines look at.

    Args:
        loaded: The loaded model.

    Returns:
        The model.
    """
    return _class_named(loaded.family.hf_class_name(loaded.task))(loaded)


@cache
def _class_named(name: str) -> type[MLXPreTrainedModel]:
    return type(name, (MLXPreTrainedModel,), {"__doc__": MLXPreTrainedModel.__doc__})


def _read_again(
    folder: str, task: str, pooler: bool, config: dict[str, Any] | None, dtype: str, content: Content = None
) -> MLXPreTrainedModel:
    check_still_there(Path(folder), content)
    model = create_model(load(folder, task, pooler=pooler, changes=Changes(config)))
    return model if str(model.dtype) == dtype else model.to(dtype=require_float_dtype(dtype))
