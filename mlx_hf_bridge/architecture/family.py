"""`Family`: what a model file must provide, that is its config, its modules, and their names in checkpoints.

Name tables map modules, not tensors: `"pooler.dense": "pooler.dense"` covers weight and bias. Left is the name in the
checkpoint without the family's prefix, right the path in this package. `{i}` and `{j}` stand for numbers, and
`attention.qkv#1` is slice 1 of a fused linear layer, whose rows are the checkpoint's queries, keys and values.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import mlx.nn as nn
import numpy as np

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
# The scores of the next token, which rerankers read; it has no auto class, since nothing is generated here.
CAUSAL_LM = "text-generation"
# TAPAS', whose class is named as others are for spans of a text.
TABLE_QUESTION_ANSWERING = "table-question-answering"
# LUKE's, whose classes have no auto class in transformers.
ENTITY_CLASSIFICATION = "entity-classification"
ENTITY_PAIR_CLASSIFICATION = "entity-pair-classification"
ENTITY_SPAN_CLASSIFICATION = "entity-span-classification"

# The end of the name of transformers' class for a task, as in BertForMaskedLM.
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
CLASS_SUFFIXES = {
    **HF_SUFFIXES,
    CAUSAL_LM: "ForCausalLM",
    TABLE_QUESTION_ANSWERING: "ForTableQuestionAnswering",
    ENTITY_CLASSIFICATION: "ForEntityClassification",
    ENTITY_PAIR_CLASSIFICATION: "ForEntityPairClassification",
    ENTITY_SPAN_CLASSIFICATION: "ForEntitySpanClassification",
}


@dataclass(frozen=True)
class Head:
    """A task head: how to build it, and what the checkpoint calls its modules.

    Attributes:
        build: Function of the config that returns the head's module; it may raise ConfigError for settings that the
            head does not support.
        names: Module name in the checkpoint -> path in the module that `build` returns: {"classifier": "out"}. An empty
            path is the module itself.
        reads_pooler: Whether the head reads the pooled output, so that the model needs a pooler.
        tied: Further names if `config.tie_word_embeddings`: the module with the bias of a masked-LM head,
            {"cls.predictions": ""} for BERT.
        untied: Further names if the embeddings are not tied: the masked-LM head's own decoder,
            {"cls.predictions.decoder": "decoder"} for BERT.
        variant_for: For a head with several implementations, a function of the config that returns the one whose names
            apply. DeBERTa uses it for `config.legacy`; None for all other heads.
        prepare_batch: Function of the config and the batch that adds the inputs that this task implies, as Longformer's
            global attention on the question's tokens; None = nothing to add. It may raise InputError for a text that
            the head cannot read.
        check_call: Function of the config and the ids (B, L) of a direct call that raises InputError where transformers
            refuses texts together that it computes one by one; None = it refuses none.
        encoder: Function of the config that returns what the head reads, where that is more than the family's encoder;
            None = the family's. T5's classifiers read a decoder behind it.
        encoder_names: Names of the modules that `encoder` has in addition: module name in the checkpoint, without
            prefix -> path. Checkpoints that have the head keep them, others drop them (`ignored_prefixes`).
    """

    build: Callable[[Any], nn.Module]
    names: Mapping[str, str]
    reads_pooler: bool = False
    tied: Mapping[str, str] = field(default_factory=dict)
    untied: Mapping[str, str] = field(default_factory=dict)
    variant_for: "Callable[[Any], Head] | None" = None
    prepare_batch: Callable[[Any, TokenBatch], TokenBatch] | None = None
    check_call: Callable[[Any, np.ndarray], None] | None = None
    encoder: Callable[[Any], nn.Module] | None = None
    encoder_names: Mapping[str, str] = field(default_factory=dict)

    def names_for(self, config: EncoderConfig) -> Mapping[str, str]:
        """Return the name table that applies to a config.

        Args:
            config: The model's config; `tie_word_embeddings` decides between `tied` and `untied`.

        Returns:
            Module names in the checkpoint -> paths in the head's module.
        """
        if self.variant_for is not None:
            return self.variant_for(config).names_for(config)
        return {**self.names, **(self.tied if config.tie_word_embeddings else self.untied)}

    def ignored_suffixes(self, config: EncoderConfig) -> frozenset[str]:
        """Return the tensors of this head that a file may have although the config's kind of head has no use for them.

        With tied embeddings, a file may hold a copy of the token embeddings as "cls.predictions.decoder.weight"; that
        is not a second parameter. Untied heads have a bias in the decoder, and "cls.predictions.bias" repeats it.

        Args:
            config: The model's config.

        Returns:
            Ends of tensor names, as in `Family.ignored_suffixes`.
        """
        if self.variant_for is not None:
            return self.variant_for(config).ignored_suffixes(config)
        tied = {f"{module}.bias" for module in self.tied}
        # A module in both tables (DistilBERT's vocab_projector) has a bias either way, hence the differences.
        untied = {f"{module}.{leaf}" for module in self.untied for leaf in ("weight", "bias")}
        return frozenset(untied - tied if config.tie_word_embeddings else tied - untied)


@dataclass(frozen=True)
class Family:
    """One model_type: how to build it, and what transformers and its checkpoints call its parts.

    A tensor that no name table knows is an error, except for these four kinds. The first two are kept: converted
    checkpoints contain them, so that other tasks and configs can still be loaded. The other two are dropped.

    ================== =================================================== ===========================================
    field              what the model does not need                        example
    ================== =================================================== ===========================================
    other_heads        modules of heads that are not implemented           "linear" of the original ColBERT
    unused_modules     modules of the encoder that this config does not    "embeddings.position_embeddings" of rotary
                       read                                                ESM files
    ignored_suffixes   tensors that are recomputed, or that serve other    "embeddings.position_ids", a buffer of
                       inputs than text                                    arange(512)
    ignored_prefixes   whole submodels                                     "decoder" of T5
    ================== =================================================== ===========================================

    Attributes:
        model_type: `model_type` in config.json; the file has this name with "_" for "-".
        config: The config class.
        encoder: Function of the config that returns the encoder, without pooler and head.
        names: Module name in the checkpoint, without prefix -> path in the encoder, or "pooler....".
        own_names: Function of the config that returns further names, for modules that config.json names: X-MOD's
            adapters, one for each language.
        prefix: First component of the encoder's names in files that were saved with a head: "bert" in
            "bert.encoder.layer.0...". Files of the bare encoder do not have it.
        hf_prefix: Start of the names of its transformers classes: "Bert".
        tokenizer: Name of the tokenizer class that transformers has for the model type, used where a repo does not name
            one; "PreTrainedTokenizerFast" reads tokenizer.json as it stands.
        heads: Task -> head.
        hf_base_suffix: End of the name of the bare encoder's class: "Model", "EncoderModel" for T5.
        hf_head_suffixes: Task -> end of the class name, for tasks whose class is not named as in `HF_SUFFIXES`:
            {"fill-mask": "WithLMHeadModel"} for XLM.
        alternate_prefixes: Further values of `prefix` that files have: "transformer" in old Qwen3 classifiers.
        alternate_names: Module name in files of another origin -> the name in `names` or in a head. If the file has one
            module where `names` has several slices, the value is the fused module's path here:
            {"encoder.layers.{i}.attn.Wqkv": "layers.{i}.attention.qkv"} for NomicBERT.
        deferred_modules: Starts of parameter names that are read from the file by the first call that needs them, for
            tables that few calls read: LUKE's entities. Such calls must run in the executor's thread.
        copied_modules: Module -> the module in `names` that it is a copy of: {"encoder.embed_tokens": "shared"} for T5.
            Where a file has both, transformers computes with the copy.
        ignored_decoders: Decoders among `ignored_prefixes` that transformers ties to the token embeddings: ("lm_head",)
            for Gemma 3. One that differs from them makes `tie_word_embeddings` false.
        pooler: Function of the config that returns the pooler; None = the model has none.
        base_model_has_pooler: Whether the bare encoder has the pooler too; False if only heads use it.
        base_head: Function of the config that returns a head whose outputs the bare encoder has in addition, or None:
            CLIP's projection. None where no config has one.
        other_heads: First components of the names of heads that are not implemented. See the table.
        unused_modules: Function of the config that returns names of encoder modules to keep unused. See the table.
        ignored_suffixes: Ends of tensor names to drop. See the table.
        ignored_prefixes: First components of tensor names to drop. See the table.
        uses_token_type_ids: Whether the bare encoder accepts token_type_ids.
        accepts_inputs_embeds: Whether the bare encoder accepts inputs_embeds.
        returns_hidden_state: Whether the bare encoder returns the last hidden states; False for DPR, which returns the
            pooled output alone.
        in_transformers: Whether transformers has classes for the model type. If not, `hf_prefix` is that of the
            authors' classes, and tests compare with an independent implementation in NumPy.
        keys_of_tensors: Function of the names of a checkpoint's modules; it returns keys of config.json that the names
            tell and the file does not. None where config.json tells all.
        resizes_vocabulary: Whether rows were added to the token table after config.json was written, so that the table
            tells `vocab_size`.
        inputs_note: A sentence with a space at its end for errors about arguments that transformers' classes take and
            the model here does not; "" for none.
        length_dependent: Whether padding changes the outputs of the real tokens, so that only texts of one length can
            share a batch (FNet mixes all positions).
    """

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
    own_names: Callable[[Any], Mapping[str, str]] = lambda config: {}
    deferred_modules: tuple[str, ...] = ()
    copied_modules: Mapping[str, str] = field(default_factory=dict)
    ignored_decoders: tuple[str, ...] = ()
    pooler: Callable[[Any], nn.Module] | None = None
    base_model_has_pooler: bool = True
    base_head: Callable[[Any], Head | None] | None = None
    other_heads: tuple[str, ...] = ()
    unused_modules: Callable[[Any], tuple[str, ...]] = lambda config: ()
    # Buffers that old versions of transformers saved.
    ignored_suffixes: tuple[str, ...] = ("embeddings.position_ids", "embeddings.token_type_ids")
    ignored_prefixes: tuple[str, ...] = ()
    uses_token_type_ids: bool = True
    accepts_inputs_embeds: bool = True
    inputs_note: str = ""
    returns_hidden_state: bool = True
    in_transformers: bool = True
    length_dependent: bool = False
    keys_of_tensors: Callable[[Collection[str]], dict[str, Any]] | None = None
    resizes_vocabulary: bool = False

    def hf_class_name(self, task: str) -> str:
        """Return the name of the transformers class for a task.

        Args:
            task: A key of `heads`, or `BASE_TASK` for the bare encoder.

        Returns:
            The class name, e.g. "BertForMaskedLM" for "fill-mask".
        """
        if task == BASE_TASK:
            return self.hf_prefix + self.hf_base_suffix
        return self.hf_prefix + {**CLASS_SUFFIXES, **self.hf_head_suffixes}[task]


def head_of(family: Family, config: EncoderConfig, task: str) -> Head | None:
    """Return the head of a model.

    Args:
        family: The model type.
        config: The model's config.
        task: A key of `family.heads`, or `BASE_TASK` for the bare encoder.

    Returns:
        The head; None for a bare encoder without one.
    """
    if task != BASE_TASK:
        return family.heads[task]
    return None if family.base_head is None else family.base_head(config)


def independent_length_of(family: Family, config: EncoderConfig) -> int:
    """Return the longest batch, in tokens, in which padding changes no text's outputs.

    Args:
        family: The model type.
        config: The model's config.

    Returns:
        A number of tokens; 0 if padding always changes the outputs.
    """
    return 0 if family.length_dependent else config.independent_length
