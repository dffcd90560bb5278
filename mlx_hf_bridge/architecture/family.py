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

    A head that scores words repeats the word table, or has a table of its own: `tied` names what only the first kind
    has (the bias), `untied` the decoder that only the second computes with; each is passed over in the other kind.
    `named_as` is the head whose names a config takes, where there are several. `prepared` says of a batch what the task
    implies and the caller has not said.
    """

    build: Callable[[Any], nn.Module]
    names: Mapping[str, str]
    reads_pooler: bool = False
    tied: Mapping[str, str] = field(default_factory=dict)
    untied: Mapping[str, str] = field(default_factory=dict)
    named_as: "Callable[[Any], Head] | None" = None
    prepared: Callable[[Any, TokenBatch], TokenBatch] | None = None

    def names_for(self, config: EncoderConfig) -> Mapping[str, str]:
        """Checkpoint modules -> ours, for a config that ties the tables or does not."""
        if self.named_as is not None:
            return self.named_as(config).names_for(config)
        return {**self.names, **(self.tied if config.tie_word_embeddings else self.untied)}

    def passed_over(self, config: EncoderConfig) -> frozenset[str]:
        """Checkpoint tensors that repeat others, or have no effect."""
        if self.named_as is not None:
            return self.named_as(config).passed_over(config)
        tied = {f"{module}.bias" for module in self.tied}
        untied = {f"{module}.{leaf}" for module in self.untied for leaf in ("weight", "bias")}
        return frozenset(untied - tied if config.tie_word_embeddings else tied - untied)


@dataclass(frozen=True)
class Family:
    """One model_type: how it is built, what its transformers classes and its checkpoints' modules are called.

    names: checkpoint modules -> ours; {i}, {j} stand for numbers, `#n` for part n of a joined module.
    prefix: the optional first word of base tensors; other_prefixes may stand in its place.
    hf_prefix: starts the names of its transformers classes; hf_base ends that of the bare encoder's, hf_heads those of
    heads that are named unlike other families'.
    pooler: of the bare encoder (bare_pooler) and of heads that read it; without pooler_has_weights it merely chooses.
    alternates: modules of files that name them otherwise -> the module of `names` or of a head, or, where one holds all
    parts of a joined module, ours.
    What is in a checkpoint and not computed with: `foreign` heads and `carried` base modules (by first words) are
    carried along, `unread` modules too, for configs that pass them by; `ignored` tensors transformers makes anew;
    `left_out` first words (a decoder) are dropped.
    uses_segments, takes_vectors: whether the bare encoder takes segments, and vectors in the place of ids.
    padding_shows: padding changes the answer, so that texts go together only with others of their length.
    """

    model_type: str
    config: type[EncoderConfig]
    encoder: Callable[[Any], nn.Module]
    names: Mapping[str, str]
    prefix: str
    hf_prefix: str
    tokenizer: str
    heads: Mapping[str, Head]
    hf_base: str = HF_SUFFIXES[BASE_TASK]
    hf_heads: Mapping[str, str] = field(default_factory=dict)
    other_prefixes: tuple[str, ...] = ()
    alternates: Mapping[str, str] = field(default_factory=dict)
    pooler: Callable[[Any], nn.Module] | None = None
    bare_pooler: bool = True
    pooler_has_weights: bool = True
    foreign: tuple[str, ...] = ()
    carried: tuple[str, ...] = ()
    unread: Callable[[Any], tuple[str, ...]] = lambda config: ()
    ignored: tuple[str, ...] = ("embeddings.position_ids", "embeddings.token_type_ids")
    left_out: tuple[str, ...] = ()
    uses_segments: bool = True
    takes_vectors: bool = True
    padding_shows: bool = False

    def hf_class(self, task: str) -> str:
        """The transformers class of a task ("BertForMaskedLM")."""
        return f"{self.hf_prefix}{self.hf_base if task == BASE_TASK else self.hf_heads.get(task, HF_SUFFIXES[task])}"
