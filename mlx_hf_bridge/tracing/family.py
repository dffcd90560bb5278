"""A traced module in the words of native families: its config, and the Family that stands for it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import mlx.nn as nn

from mlx_hf_bridge.architecture.config import NO_POSITIONS, EncoderConfig
from mlx_hf_bridge.architecture.family import BASE_TASK, Family
from mlx_hf_bridge.tracing.graph import Graph, GraphInput

_ANY = 2**31 - 1
_SHARED = ("input_ids", "attention_mask", "token_type_ids")


@dataclass(frozen=True)
class TracedConfig(EncoderConfig):
    """What a graph's facts and config.json say; `longest`: the most tokens of a text."""

    longest: int = NO_POSITIONS
    segments_count: bool = False
    own: Mapping[str, GraphInput] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Nothing is refused: transformers' own module has read the config."""

    @classmethod
    def of(cls, graph: Graph, raw: Mapping[str, Any]) -> Self:
        """config.json's content beside its graph."""
        facts = graph.facts
        segments = graph.inputs.get("token_type_ids")
        general: dict[str, Any] = {
            "hidden_size": facts.hidden_size,
            "num_hidden_layers": facts.layers,
            "num_attention_heads": facts.heads,
            "intermediate_size": raw.get("intermediate_size") or 0,
            "max_position_embeddings": raw.get("max_position_embeddings") or NO_POSITIONS,
            "hidden_act": raw.get("hidden_act") or "",
            "type_vocab_size": 0 if segments is None else facts.type_vocab_size or _ANY,
            "pad_token_id": facts.pad_token_id,
            "vocab_size": facts.vocab_size,
        }
        labels = {key: raw[key] for key in ("id2label", "label2id", "problem_type", "num_labels") if key in raw}
        read = EncoderConfig.from_json({"model_type": facts.model_type, **general, **labels, **_PLAIN})
        own: dict[str, Any] = {
            "id2label": read.id2label,
            "label2id": read.label2id,
            "problem_type": read.problem_type,
            "longest": facts.max_length,
            "segments_count": segments is not None and not segments.optional,
            "own": {name: spec for name, spec in graph.inputs.items() if name not in _SHARED},
        }
        return cls(facts.model_type, **{**general, **own})

    @property
    def max_length(self) -> int:
        return self.longest

    @property
    def max_sequence_length(self) -> int:
        return self.longest

    @property
    def zero_token_type_ids_matter(self) -> bool:
        return self.segments_count

    @property
    def extra_input_sizes(self) -> Mapping[str, int]:
        """The graph checks its own look-ups."""
        return dict.fromkeys(self.own, _ANY)

    @property
    def extra_input_axes(self) -> Mapping[str, tuple[int, ...]]:
        return {name: tuple(axis for axis in spec.axes[2:] if isinstance(axis, int)) for name, spec in self.own.items()}

    @property
    def float_extra_inputs(self) -> frozenset[str]:
        return frozenset(name for name, spec in self.own.items() if spec.dtype == "float32")

    def last_position(self, ids: Any) -> int:
        """The graph checks its own look-ups."""
        return 0


# What from_json checks and a graph does not need.
_PLAIN = {
    "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 1, "hidden_act": "gelu", "hidden_size": 1,
    "vocab_size": 1, "type_vocab_size": 1, "pad_token_id": 0, "max_position_embeddings": 1,
}  # fmt: skip


def family_of(graph: Graph) -> Family:
    """The Family of one traced class and task."""
    facts = graph.facts
    is_base = facts.task == BASE_TASK
    return Family(
        model_type=facts.model_type,
        config=TracedConfig,
        encoder=_no_encoder,
        names={},
        prefix=facts.base_prefix,
        hf_prefix="",
        hf_base_suffix=facts.model_class,
        hf_head_suffixes={} if is_base else {facts.task: facts.model_class},
        tokenizer="PreTrainedTokenizerFast",
        heads={},
        pooler=(lambda config: nn.Identity()) if "pooler_output" in graph.outputs else None,
        uses_token_type_ids="token_type_ids" in graph.inputs,
        accepts_inputs_embeds=False,
        length_dependent=facts.length_dependent,
    )


def _no_encoder(config: Any) -> nn.Module:
    raise AssertionError("a traced model is built from its graph")
