"""What a model file must offer: its config, how its parts are built, and what the checkpoint calls them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import mlx.nn as nn

from mlx_hf_bridge.architecture.config import EncoderConfig
from mlx_hf_bridge.layers.token_batch import TokenBatch

BASE_TASK = "feature-extraction"
MASKED_LM = "fill-mask"
SEQUENCE_CLASSIFICATION = "text-classification"
TOKEN_CLASSIFICATION = "token-classification"
QUESTION_ANSWERING = "question-answering"
MULTIPLE_CHOICE = "multiple-choice"
NEXT_SENTENCE = "next-sentence-prediction"
PRE_TRAINING = "pre-training"

# What transformers puts behind a family's name to name the class of a task.
HF_SUFFIXES = {
    BASE_TASK: "Model",
    MASKED_LM: "ForMaskedLM",
    SEQUENCE_CLASSIFICATION: "ForSequenceClassification",
    TOKEN_CLASSIFICATION: "ForTokenClassification",
    QUESTION_ANSWERING: "ForQuestionAnswering",
    MULTIPLE_CHOICE: "ForMultipleChoice",
    NEXT_SENTENCE: "ForNextSentencePrediction",
    PRE_TRAINING: "ForPreTraining",
}


@dataclass(frozen=True)
class Head:
    """One task's head: how it is built, what the checkpoint calls its modules, whether it reads the pooler.

    See `names_for` for how `tied` and `untied` are used.
    """

    build: Callable[[Any], nn.Module]
    names: Mapping[str, str]
    reads_pooler: bool = False
    tied: Mapping[str, str] = field(default_factory=dict)
    untied: Mapping[str, str] = field(default_factory=dict)
    variant_for: "Callable[[Any], Head] | None" = None
    prepare_batch: Callable[[Any, TokenBatch], TokenBatch] | None = None

    def names_for(self, config: EncoderConfig) -> Mapping[str, str]:
        """Checkpoint modules -> ours, for a config that ties the tables or does not."""
        if self.variant_for is not None:
            return self.variant_for(config).names_for(config)
        return {**self.names, **(self.tied if config.tie_word_embeddings else self.untied)}

    def ignored_suffixes(self, config: EncoderConfig) -> frozenset[str]:
        """Checkpoint tensors that repeat others, or have no effect."""
        if self.variant_for is not None:
            return self.variant_for(config).ignored_suffixes(config)
        tied = {f"{module}.bias" for module in self.tied}
        untied = {f"{module}.{leaf}" for module in self.untied for leaf in ("weight", "bias")}
        return frozenset(untied - tied if config.tie_word_embeddings else tied - untied)


@dataclass(frozen=True)
class Family:
    """One model_type: how it is built, what its transformers classes and its checkpoints' modules are called."""

    model_type: str
    config: type[EncoderConfig]
    encoder: Callable[[Any], nn.Module]
    names: Mapping[str, str]
    prefix: str
    hf_prefix: str
    tokenizer: str
    heads: Mapping[str, Head]
    hf_base_suffix: str = HF_SUFFIXES[BASE_TASK]
    hf_head_suffixes: Mapping[str, str] = field(default_factory=dict)
    alternate_prefixes: tuple[str, ...] = ()
    alternate_names: Mapping[str, str] = field(default_factory=dict)
    pooler: Callable[[Any], nn.Module] | None = None
    base_model_has_pooler: bool = True
    other_heads: tuple[str, ...] = ()
    unused_modules: Callable[[Any], tuple[str, ...]] = lambda config: ()
    ignored_suffixes: tuple[str, ...] = ("embeddings.position_ids", "embeddings.token_type_ids")
    ignored_prefixes: tuple[str, ...] = ()
    uses_segments: bool = True
    takes_vectors: bool = True
    padding_shows: bool = False

    def hf_class_name(self, task: str) -> str:
        """The transformers class of a task ("BertForMaskedLM")."""
        if task == BASE_TASK:
            return self.hf_prefix + self.hf_base_suffix
        return self.hf_prefix + self.hf_head_suffixes.get(task, HF_SUFFIXES[task])
