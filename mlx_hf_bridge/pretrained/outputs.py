"""Output classes with the fields, keys, indices and tuple form of transformers' ModelOutput, without torch.

Reference: transformers/utils/generic.py (ModelOutput), transformers/modeling_outputs.py.
"""

import dataclasses
from collections.abc import Mapping
from functools import cache
from typing import Any, ClassVar

from mlx_hf_bridge.errors import ArgumentTypeError


class ModelOutput(dict[str, Any]):
    """A dict of the fields that are present, also available as attributes and by index; absent fields are None.

    Args:
        **values: The fields by name; those that are None are absent.

    Raises:
        ArgumentTypeError: If the class has no such field.
    """

    fields: ClassVar[tuple[str, ...]] = ()

    def __init__(self, **values: Any) -> None:
        if unknown := set(values) - set(self.fields):
            raise ArgumentTypeError(f"{type(self).__name__} has no field {sorted(unknown)}; it has {self.fields}.")
        # In the order of the fields, which to_tuple() promises; None is left out, as in transformers.
        super().__init__({name: values[name] for name in self.fields if values.get(name) is not None})

    def __getattr__(self, name: str) -> Any:
        if name in self.fields:
            return self.get(name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(key) if isinstance(key, str) else self.to_tuple()[key]

    def to_tuple(self) -> tuple[Any, ...]:
        """Return the values that are present, in the order of the fields.

        Returns:
            A tuple of arrays, or of tuples of arrays (hidden_states, attentions).
        """
        return tuple(self.values())


def build_output(kind: type[ModelOutput], values: Mapping[str, Any]) -> ModelOutput:
    """Build an output, with fields after its own for those that only the model's class has (CLVP's `embeds`).

    Args:
        kind: The output class.
        values: The fields by name.

    Returns:
        The output, of a class with the same name.
    """
    own = tuple(name for name in values if name not in kind.fields)
    return _with_fields(kind, own)(**values) if own else kind(**values)


@cache
def _with_fields(kind: type[ModelOutput], names: tuple[str, ...]) -> type[ModelOutput]:
    return type(kind.__name__, (kind,), {"__doc__": kind.__doc__, "fields": (*kind.fields, *names)})


def to_transformers_output(output: ModelOutput) -> Any:
    """Convert an output to the transformers class of that name, for callers on torch.

    Args:
        output: An output whose arrays are torch tensors.

    Returns:
        transformers' output with the same fields (Longformer's or LED's class if it has global attentions), or
        `output` itself if transformers has no such class, or it lacks one of the fields.
    """
    # Imported late: only callers on torch get here.
    from transformers import modeling_outputs

    name = type(output).__name__
    found = getattr(modeling_outputs, name, None)
    if name.startswith("Entity") or "entity_hidden_states" in output or "entity_last_hidden_state" in output:
        from transformers.models.luke import modeling_luke

        own = {"BaseModelOutputWithPooling": "BaseLukeModelOutputWithPooling"}
        found = getattr(modeling_luke, own.get(name, name if name.startswith("Entity") else f"Luke{name}"))
    if name == "TableQuestionAnsweringOutput":
        from transformers.models.tapas import modeling_tapas

        found = modeling_tapas.TableQuestionAnsweringOutput
    if "encoder_global_attentions" in output:
        from transformers.models.led import modeling_led

        found = getattr(modeling_led, f"LED{name}")
    if "global_attentions" in output:
        from transformers.models.longformer import modeling_longformer

        found = getattr(modeling_longformer, f"Longformer{type(output).__name__}")
    known = set() if found is None else {field.name for field in dataclasses.fields(found)}
    return found(**output) if found is not None and known >= set(output) else output


class BaseModelOutput(ModelOutput):
    """Output of an encoder without a pooler.

    last_hidden_state is (B, L, D); hidden_states a tuple of (B, L, D), one for the embeddings and one for each layer;
    attentions a tuple of (B, H, L, L), one for each layer.
    """

    fields = ("last_hidden_state", "hidden_states", "attentions")


class BaseModelOutputWithPooling(ModelOutput):
    """Output of an encoder with a pooler.

    last_hidden_state is (B, L, D), pooler_output (B, D); hidden_states and attentions are as in BaseModelOutput;
    global_attentions are Longformer's; entity_last_hidden_state (B, E, D) and entity_hidden_states are LUKE's.
    """

    fields = (
        *("last_hidden_state", "pooler_output", "hidden_states", "attentions", "global_attentions"),
        *("entity_last_hidden_state", "entity_hidden_states"),
    )


class PooledOutput(ModelOutput):
    """Output of an encoder that returns no hidden states of its last layer (DPR): pooler_output (B, D).

    hidden_states and attentions are as in BaseModelOutput.
    """

    fields = ("pooler_output", "hidden_states", "attentions")


class MaskedLMOutput(ModelOutput):
    """Output for masked language modeling: logits (B, L, vocab_size) before softmax.

    LUKE has entity_logits (B, E, entity_vocab_size) too, if entities are given.
    """

    fields = (
        "loss",
        "logits",
        "entity_logits",
        "hidden_states",
        "entity_hidden_states",
        "attentions",
        "global_attentions",
    )


class SequenceClassifierOutput(ModelOutput):
    """Output for sequence classification: logits (B, num_labels) before softmax."""

    fields = ("loss", "logits", "hidden_states", "entity_hidden_states", "attentions", "global_attentions")


class TokenClassifierOutput(ModelOutput):
    """Output for token classification: logits (B, L, num_labels) before softmax."""

    fields = ("loss", "logits", "hidden_states", "entity_hidden_states", "attentions", "global_attentions")


class QuestionAnsweringModelOutput(ModelOutput):
    """Output for extractive question answering: start_logits and end_logits (B, L) before softmax.

    DPR's reader has relevance_logits (B,) too: whether a passage has the answer.
    """

    fields = (
        *("loss", "start_logits", "end_logits", "relevance_logits"),
        *("hidden_states", "entity_hidden_states", "attentions", "global_attentions"),
    )


class TableQuestionAnsweringOutput(ModelOutput):
    """Output for questions about tables: logits (B, L), each token's that of its cell.

    logits_aggregation (B, num_aggregation_labels), if the model aggregates cells.
    """

    fields = ("loss", "logits", "logits_aggregation", "hidden_states", "attentions")


class MultipleChoiceModelOutput(ModelOutput):
    """Output for multiple choice: logits (B, N), one for each choice, before softmax."""

    fields = ("loss", "logits", "hidden_states", "entity_hidden_states", "attentions", "global_attentions")


class EntityClassificationOutput(ModelOutput):
    """Output for the classification of an entity: logits (B, num_labels) before softmax."""

    fields = ("loss", "logits", "hidden_states", "entity_hidden_states", "attentions")


class EntityPairClassificationOutput(ModelOutput):
    """Output for the relation between two entities: logits (B, num_labels) before softmax."""

    fields = ("loss", "logits", "hidden_states", "entity_hidden_states", "attentions")


class EntitySpanClassificationOutput(ModelOutput):
    """Output for the classification of every entity: logits (B, E, num_labels) before softmax."""

    fields = ("loss", "logits", "hidden_states", "entity_hidden_states", "attentions")


class NextSentencePredictorOutput(ModelOutput):
    """Output for next sentence prediction: logits (B, 2); index 0 says that the second text follows the first."""

    fields = ("loss", "logits", "hidden_states", "attentions")


class PreTrainingOutput(ModelOutput):
    """Output for the model's own pretraining tasks.

    prediction_logits (B, L, vocab_size) with seq_relationship_logits or sop_logits (B, 2); for ELECTRA logits (B, L).
    """

    fields = (
        "loss",
        "logits",
        "prediction_logits",
        "seq_relationship_logits",
        "sop_logits",
        "hidden_states",
        "attentions",
    )


_SEQ2SEQ_FIELDS = (
    "decoder_hidden_states",
    "decoder_attentions",
    "cross_attentions",
    "encoder_last_hidden_state",
    "encoder_hidden_states",
    "encoder_attentions",
    "encoder_global_attentions",
)


class Seq2SeqModelOutput(ModelOutput):
    """Output of an encoder and its decoder.

    last_hidden_state is the decoder's and encoder_last_hidden_state the encoder's, (B, L, D); decoder_hidden_states and
    encoder_hidden_states are tuples of (B, L, D), one for the embeddings and one for each layer; decoder_attentions,
    cross_attentions and encoder_attentions are tuples of (B, H, L, L), one for each layer. encoder_global_attentions
    are LED's.
    """

    fields = ("last_hidden_state", *_SEQ2SEQ_FIELDS)


class Seq2SeqSequenceClassifierOutput(ModelOutput):
    """Output for sequence classification with a decoder: logits (B, num_labels); others as in Seq2SeqModelOutput."""

    fields = ("loss", "logits", *_SEQ2SEQ_FIELDS)


class Seq2SeqQuestionAnsweringModelOutput(ModelOutput):
    """Output for question answering with a decoder: start_logits and end_logits (B, L).

    Others as in Seq2SeqModelOutput.
    """

    fields = ("loss", "start_logits", "end_logits", *_SEQ2SEQ_FIELDS)
