"""The model: an encoder with its pooler and task head, run on a batch.

Axes: B texts, L tokens, D hidden size, H heads, G tokens with global attention, M positions, V vocabulary size.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_hf_bridge.architecture.config import EncoderConfig
from mlx_hf_bridge.architecture.family import BASE_TASK, Family, head_of
from mlx_hf_bridge.errors import ConfigError
from mlx_hf_bridge.inference.compiled import CompiledForward
from mlx_hf_bridge.layers.encoder import OutputRecorder
from mlx_hf_bridge.layers.entities import EntityHead, EntityMaskedLMHead, has_entities
from mlx_hf_bridge.layers.heads import reads_first_token
from mlx_hf_bridge.layers.linear import QuantizedEmbedding
from mlx_hf_bridge.layers.token_batch import TokenBatch
from mlx_hf_bridge.layers.transformed_heads import depends_on_padding


@dataclass(frozen=True)
class EncoderOutput:
    """Everything that a forward pass returns.

    Args:
        hidden: The last hidden states, (B, L, D).
        pooled: The pooler's output, (B, D), or None.
        outputs: The head's outputs by their names in transformers; empty for a bare encoder.
        hidden_states: The embeddings and every layer's output, (B, L, D) each, if asked for.
        attentions: Attention weights, (B, H, L, L) each, first layer first, if asked for.
        global_attentions: Weights of tokens with global attention, (B, H, L, G) each, if there are any.
        cross_attentions: Weights of the encoder's tokens in a decoder's layers, (B, H, L, L) each, if asked for.
        encoder: What the encoder before a decoder computed, its `hidden`, `hidden_states` and `attentions`; the other
            fields are then the decoder's. None for a model without a decoder.
        entity_hidden: The last hidden states of entities, (B, E, D), if the batch has any (LUKE).
        entity_hidden_states: All hidden states of entities, (B, E, D) each, if asked for.
    """

    hidden: mx.array
    pooled: mx.array | None = None
    outputs: Mapping[str, mx.array] = field(default_factory=dict)
    hidden_states: tuple[mx.array, ...] | None = None
    attentions: tuple[mx.array, ...] | None = None
    global_attentions: tuple[mx.array, ...] | None = None
    cross_attentions: tuple[mx.array, ...] | None = None
    encoder: "EncoderOutput | None" = None
    entity_hidden: mx.array | None = None
    entity_hidden_states: tuple[mx.array, ...] | None = None

    @property
    def logits(self) -> mx.array:
        """The output "logits" of the head; KeyError if there is no head or it has other outputs."""
        return self.outputs["logits"]


class Model(nn.Module):
    """An encoder, with a pooler and a task head if there are any.

    Takes a TokenBatch and the flags of `__call__`, and returns an EncoderOutput.

    Args:
        encoder: The encoder.
        pooler: Maps hidden states and the batch to the pooled output, or None.
        head: The task head, or None.
        prepare_batch: Completes a batch with what the task implies, such as Longformer's global attention, or None.
    """

    def __init__(
        self,
        encoder: nn.Module,
        pooler: nn.Module | None,
        head: nn.Module | None,
        prepare_batch: Callable[[TokenBatch], TokenBatch] | None = None,
    ) -> None:
        super().__init__()
        # The underscore keeps it out of the module's parameters.
        self._prepare_batch = prepare_batch
        self.encoder = encoder
        if pooler is not None:
            self.pooler = pooler
        if head is not None:
            self.head = head
        self._reads_first_token = head is not None and reads_first_token(head, pooler)
        self._compiled: CompiledForward | None = None

    def compile(self, config: EncoderConfig, independent_length: int) -> None:
        """Let the forward pass be compiled for each shape, unless hidden states or attention weights are asked for.

        Modules are not to be replaced afterwards by others that do more than compute: a trace leaves that out.

        Args:
            config: The model's config.
            independent_length: Longest batch, in tokens, in which padding changes no text's outputs.
        """
        pad = config.pad_token_id
        pad = pad if pad is not None and 0 <= pad < config.vocab_size else 0
        parts = [self[name] for name in ("pooler", "head") if name in self]
        limits = (independent_length, config.max_length, config.max_sequence_length)
        length = 0 if any(depends_on_padding(part, pad) for part in parts) else min(limits)
        self._compiled = CompiledForward(_to_arrays, pad, length)

    def __call__(
        self,
        batch: TokenBatch,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        outputs_only: bool = False,
        first_token: bool = False,
    ) -> EncoderOutput:
        """Run the model on a batch.

        Args:
            batch: The batch.
            output_hidden_states: Whether to return all hidden states.
            output_attentions: Whether to return attention weights.
            outputs_only: Whether the caller reads only the head's outputs, not `hidden`. Heads that need only position
                0 then spare the last layer all others.
            first_token: Whether the caller reads `hidden` only at position 0; it may then be (B, 1, D).

        Returns:
            The outputs, lazy.
        """
        batch = batch if self._prepare_batch is None else self._prepare_batch(batch)
        first_token = first_token or (outputs_only and self._reads_first_token)
        modules = {name: self[name] for name in ("encoder", "pooler", "head") if name in self}
        if output_hidden_states or output_attentions:
            # Callers who asked for all hidden states or attentions get those of every position.
            return _forward(modules, batch, False, OutputRecorder(output_hidden_states, output_attentions))
        if self._compiled is not None and self._compiled.takes(batch):
            return _from_arrays(self._compiled(modules, batch, first_token))
        return _forward(modules, batch, first_token, OutputRecorder())

    def logits_at(self, batch: TokenBatch, positions: mx.array) -> mx.array:
        """Return a masked-LM head's logits at some positions only, which saves most of the scores over the vocabulary.

        Args:
            batch: The batch.
            positions: Positions of each text, (B, M), int32.

        Returns:
            Logits of shape (B, M, V).
        """
        batch = batch if self._prepare_batch is None else self._prepare_batch(batch)
        hidden = self.encoder(batch, OutputRecorder())
        chosen = mx.take_along_axis(hidden, positions[:, :, None], axis=1)
        outputs: Mapping[str, mx.array] = self.head(chosen, None, batch, self.encoder.embeddings.word)
        return outputs["logits"]


def _forward(
    modules: Mapping[str, Any], batch: TokenBatch, first_token: bool, recorder: OutputRecorder
) -> EncoderOutput:
    """Run an encoder with the pooler and the head that are among the modules."""
    encoder = modules["encoder"]
    every = encoder(batch, recorder, first_token)
    # Entities follow the tokens, and only the heads that classify them read these.
    hidden = every[:, : batch.ids.shape[1]] if has_entities(batch) else every
    pooler_input = hidden if recorder.pooler_input is None else recorder.pooler_input
    pooled = modules["pooler"](pooler_input, batch) if "pooler" in modules else None
    outputs = {}
    if "head" in modules:
        head, tables = modules["head"], [encoder.embeddings.word]
        reads_entities = isinstance(head, (EntityHead, EntityMaskedLMHead))
        if isinstance(head, EntityMaskedLMHead):
            tables.append(encoder.embeddings.entities.entity)
        outputs = head(every if reads_entities else hidden, pooled, batch, *tables)
    output = _output(hidden, recorder, pooled, outputs)
    return _with_entities(output, every, batch.ids.shape[1]) if has_entities(batch) else output


def _with_entities(output: EncoderOutput, every: mx.array, tokens: int) -> EncoderOutput:
    """Return an output with the hidden states of tokens and entities (B, L + E, D) apart."""
    states = output.hidden_states
    return replace(
        output,
        entity_hidden=every[:, tokens:],
        hidden_states=None if states is None else tuple(state[:, :tokens] for state in states),
        entity_hidden_states=None if states is None else tuple(state[:, tokens:] for state in states),
    )


# Before the name of a head's output.
_OUTPUT = "outputs."


def _to_arrays(modules: Mapping[str, Any], batch: TokenBatch, first_token: bool) -> dict[str, mx.array]:
    """Run the forward pass and return its outputs in one dict, as a compiled function does."""
    output = _forward(modules, batch, first_token, OutputRecorder())
    encoded = None if output.encoder is None else output.encoder.hidden
    found = {"hidden": output.hidden, "pooled": output.pooled, "encoder": encoded}
    named = {_OUTPUT + name: array for name, array in output.outputs.items()}
    return {name: array for name, array in found.items() if array is not None} | named


def _from_arrays(arrays: Mapping[str, mx.array]) -> EncoderOutput:
    """Return what `_to_arrays` was made from."""
    outputs = {name.removeprefix(_OUTPUT): array for name, array in arrays.items() if name.startswith(_OUTPUT)}
    encoded = arrays.get("encoder")
    encoder = None if encoded is None else EncoderOutput(encoded)
    return EncoderOutput(arrays["hidden"], arrays.get("pooled"), outputs, encoder=encoder)


def _output(
    hidden: mx.array,
    recorder: OutputRecorder,
    pooled: mx.array | None = None,
    outputs: Mapping[str, mx.array] | None = None,
) -> EncoderOutput:
    """Return hidden states and what was recorded on the way to them."""
    encoded, encoder = recorder.encoded, recorder.encoder
    return EncoderOutput(
        hidden,
        pooled,
        outputs or {},
        tuple(recorder.hidden_states) if recorder.output_hidden_states else None,
        tuple(recorder.attentions) or None,
        tuple(recorder.global_attentions) or None,
        tuple(recorder.cross_attentions) or None,
        None if encoded is None or encoder is None else _output(encoded, encoder),
    )


def build_model(family: Family, config: EncoderConfig, task: str, pooler: bool) -> Model:
    """Build a model whose weights are zeros of the right shapes; they are lazy and never computed.

    Args:
        family: The model type.
        config: Its config.
        task: A task of the family's heads, or BASE_TASK for the bare encoder.
        pooler: Whether a bare encoder has a pooler with weights; poolers without weights are always added.

    Returns:
        The model, ready to be filled with weights.

    Raises:
        ConfigError: If a size is beyond 32 bits.
    """
    head = head_of(family, config, task)
    # A pooler without weights can always be built: no checkpoint can lack it.
    pooler = pooler or not config.pooler_has_weights or not family.returns_hidden_state
    reads_pooler = pooler and family.base_model_has_pooler if task == BASE_TASK or head is None else head.reads_pooler
    with_pooler = family.pooler is not None and reads_pooler
    try:
        return Model(
            ((head and head.encoder) or family.encoder)(config),
            family.pooler(config) if with_pooler and family.pooler else None,
            head.build(config) if head else None,
            partial(head.prepare_batch, config) if head and head.prepare_batch else None,
        )
    except OverflowError as error:  # twice a size, for a table of positions on both sides
        raise ConfigError(
            f"config.json of a {config.model_type!r} has a size that no array can have ({error}). "
            "Take the file of the original checkpoint."
        ) from error


def set_activation_dtype(model: Model, dtype: mx.Dtype) -> None:
    """Set the dtype that quantized embedding tables return; everything after them follows.

    Args:
        model: The model.
        dtype: Dtype of the activations.
    """
    for module in model.modules():
        if isinstance(module, QuantizedEmbedding):
            module.dtype = dtype
