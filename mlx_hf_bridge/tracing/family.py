"""The config and the Family of a traced module, so that it is used like a native one."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import mlx.nn as nn

from mlx_hf_bridge.architecture.config import NO_POSITIONS, EncoderConfig
from mlx_hf_bridge.architecture.family import BASE_TASK, Family
from mlx_hf_bridge.architecture.model_inputs import UNLIMITED, ModelInput
from mlx_hf_bridge.tracing.graph import Graph, GraphInput

_SHARED = ("input_ids", "attention_mask", "token_type_ids")


@dataclass(frozen=True)
class TracedConfig(EncoderConfig):
    """The config of a traced model, from the facts of its graph and config.json.

    Args:
        longest: The most tokens of a text.
        requires_token_type_ids: Whether token type ids change the outputs even where they are all 0.
        own: The inputs that no other family has, by name.
    """

    longest: int = NO_POSITIONS
    requires_token_type_ids: bool = False
    own: Mapping[str, GraphInput] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Validate nothing: transformers' own module has read the config."""

    @classmethod
    def of(cls, graph: Graph, raw: Mapping[str, Any]) -> Self:
        """Read the config of a graph.

        Args:
            graph: The graph.
            raw: The content of config.json.

        Returns:
            The config.
        """
        facts = graph.facts
        token_type_ids = graph.inputs.get("token_type_ids")
        general: dict[str, Any] = {
            "hidden_size": facts.hidden_size,
            "num_hidden_layers": facts.layers,
            "num_attention_heads": facts.heads,
            "intermediate_size": raw.get("intermediate_size") or 0,
            "max_position_embeddings": raw.get("max_position_embeddings") or NO_POSITIONS,
            "hidden_act": raw.get("hidden_act") or "",
            "type_vocab_size": 0 if token_type_ids is None else facts.type_vocab_size or UNLIMITED,
            "pad_token_id": facts.pad_token_id,
            "vocab_size": facts.vocab_size,
        }
        labels = {key: raw[key] for key in ("id2label", "label2id", "problem_type", "num_labels") if key in raw}
        # Only labels are read by it; the placeholders in _PLAIN satisfy its checks of everything else.
        read = EncoderConfig.from_json({"model_type": facts.model_type, **general, **labels, **_PLAIN})
        own: dict[str, Any] = {
            "id2label": read.id2label,
            "label2id": read.label2id,
            "problem_type": read.problem_type,
            "longest": facts.max_length,
            "requires_token_type_ids": token_type_ids is not None and not token_type_ids.optional,
            "own": {name: spec for name, spec in graph.inputs.items() if name not in _SHARED},
        }
        return cls(facts.model_type, **{**general, **own})

    @property
    def has_position_table(self) -> bool:
        """Whether positions are looked up in a table: not outside the graph, which checks its own lookups."""
        return False

    @property
    def max_length(self) -> int:
        """The most tokens of a text."""
        return self.longest

    @property
    def max_sequence_length(self) -> int:
        """The most tokens of a text, special ones included."""
        return self.longest

    @property
    def zero_token_type_ids_matter(self) -> bool:
        """Whether token type ids that are all 0 must be passed."""
        return self.requires_token_type_ids

    @property
    def extra_inputs(self) -> Mapping[str, ModelInput]:
        """The inputs that no other family has, without limits: the graph checks its own lookups."""
        return {
            name: ModelInput(axes=spec.axes, is_float=spec.dtype == "float32", key="the traced graph")
            for name, spec in self.own.items()
        }


# Values that from_json validates and a graph does not need.
_PLAIN = {
    "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 1, "hidden_act": "gelu", "hidden_size": 1,
    "vocab_size": 1, "type_vocab_size": 1, "pad_token_id": 0, "max_position_embeddings": 1,
}  # fmt: skip


def family_of(graph: Graph) -> Family:
    """Return the Family of one traced class and task."""
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
        # The graph computes the pooler; a placeholder says that there is one.
        pooler=(lambda config: nn.Identity()) if "pooler_output" in graph.outputs else None,
        uses_token_type_ids="token_type_ids" in graph.inputs,
        accepts_inputs_embeds=False,
        length_dependent=facts.length_dependent,
    )


def _no_encoder(config: Any) -> nn.Module:
    raise AssertionError("a traced model is built from its graph")
