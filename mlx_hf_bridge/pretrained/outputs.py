"""What a model answers: fields, keys, indices and tuple form as transformers' ModelOutput, without torch.

Reference: transformers/utils/generic.py (ModelOutput), transformers/modeling_outputs.py.
"""

from typing import Any, ClassVar

from mlx_hf_bridge.errors import ArgumentTypeError


class ModelOutput(dict[str, Any]):
    """A dict of the fields that are there, also reached as attributes and by index; absent fields are None."""

    fields: ClassVar[tuple[str, ...]] = ()

    def __init__(self, **values: Any) -> None:
        if unknown := set(values) - set(self.fields):
            raise ArgumentTypeError(f"{type(self).__name__} has no field {sorted(unknown)}; it has {self.fields}.")
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
        """The values that are there, in the fields' order."""
        return tuple(self.values())


def to_transformers_output(output: ModelOutput) -> Any:
    """The same answer in transformers' own class, for callers on torch; ours where transformers has none."""
    from transformers import modeling_outputs

    found = getattr(modeling_outputs, type(output).__name__, None)
    if "global_attentions" in output:
        from transformers.models.longformer import modeling_longformer

        found = getattr(modeling_longformer, f"Longformer{type(output).__name__}")
    return output if found is None else found(**output)


class BaseModelOutput(ModelOutput):
    """last_hidden_state (B, L, D); hidden_states, one (B, L, D) a layer and one before; attentions (B, H, L, L)."""

    fields = ("last_hidden_state", "hidden_states", "attentions")


class BaseModelOutputWithPooling(ModelOutput):
    """The same with pooler_output (B, D) in second place."""

    fields = ("last_hidden_state", "pooler_output", "hidden_states", "attentions", "global_attentions")


class MaskedLMOutput(ModelOutput):
    """logits (B, L, vocab_size) before softmax."""

    fields = ("loss", "logits", "hidden_states", "attentions", "global_attentions")


class SequenceClassifierOutput(ModelOutput):
    """logits (B, num_labels) before softmax."""

    fields = ("loss", "logits", "hidden_states", "attentions", "global_attentions")


class TokenClassifierOutput(ModelOutput):
    """logits (B, L, num_labels) before softmax."""

    fields = ("loss", "logits", "hidden_states", "attentions", "global_attentions")


class QuestionAnsweringModelOutput(ModelOutput):
    """start_logits and end_logits (B, L) before softmax."""

    fields = ("loss", "start_logits", "end_logits", "hidden_states", "attentions", "global_attentions")


class MultipleChoiceModelOutput(ModelOutput):
    """logits (B, choices) before softmax."""

    fields = ("loss", "logits", "hidden_states", "attentions", "global_attentions")


class NextSentencePredictorOutput(ModelOutput):
    """logits (B, 2): the second text follows the first, or is a random one."""

    fields = ("loss", "logits", "hidden_states", "attentions")


class PreTrainingOutput(ModelOutput):
    """What the family was trained on.

    prediction_logits (B, L, vocab_size) with seq_relationship_logits or sop_logits (B, 2); ELECTRA's logits (B, L).
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
