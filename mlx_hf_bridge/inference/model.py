"""An encoder with what stands on it, run on a batch.

B texts, L tokens, D hidden, H heads, C classes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import mlx.core as mx
import mlx.nn as nn

from mlx_hf_bridge.architecture.config import EncoderConfig
from mlx_hf_bridge.architecture.family import BASE_TASK, Family
from mlx_hf_bridge.layers.encoder import OutputRecorder
from mlx_hf_bridge.layers.heads import reads_first_token
from mlx_hf_bridge.layers.linear import QuantizedEmbedding
from mlx_hf_bridge.layers.token_batch import TokenBatch


@dataclass(frozen=True)
class EncoderOutput:
    """hidden (B, L, D); pooled (B, D) and the head's answers by name where there are any; what the trace kept."""

    hidden: mx.array
    pooled: mx.array | None = None
    outputs: Mapping[str, mx.array] = field(default_factory=dict)
    hidden_states: tuple[mx.array, ...] | None = None
    attentions: tuple[mx.array, ...] | None = None
    global_attentions: tuple[mx.array, ...] | None = None

    @property
    def logits(self) -> mx.array:
        """The answer of a head that gives one; KeyError for a bare encoder."""
        return self.outputs["logits"]


class Model(nn.Module):
    """encoder -> pooler -> head, the last two where there are any."""

    def __init__(
        self,
        encoder: nn.Module,
        pooler: nn.Module | None,
        head: nn.Module | None,
        prepared: Callable[[TokenBatch], TokenBatch] | None = None,
    ) -> None:
        super().__init__()
        self._prepared = prepared
        self.encoder = encoder
        if pooler is not None:
            self.pooler = pooler
        if head is not None:
            self.head = head
        self._reads_first_token = head is not None and reads_first_token(head, pooler)

    def __call__(
        self,
        batch: TokenBatch,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        outputs_only: bool = False,
        first_token: bool = False,
    ) -> EncoderOutput:
        """first_token: of `hidden` no other is read, so that it may be (B, 1, D); outputs_only: nothing of it is."""
        batch = batch if self._prepared is None else self._prepared(batch)
        recorder = OutputRecorder(output_hidden_states, output_attentions)
        first_token = first_token or (outputs_only and self._reads_first_token)
        hidden = self.encoder(batch, recorder, first_token and not (output_hidden_states or output_attentions))
        pooled = self.pooler(hidden, batch) if "pooler" in self else None
        outputs = self.head(hidden, pooled, batch, self.encoder.embeddings.word) if "head" in self else {}
        return EncoderOutput(
            hidden,
            pooled,
            outputs,
            tuple(recorder.hidden_states) if output_hidden_states else None,
            tuple(recorder.attentions) or None,
            tuple(recorder.global_attentions) or None,
        )

    def logits_at(self, batch: TokenBatch, positions: mx.array) -> mx.array:
        """What a head of words says of some slots (B, M) of each text alone -> logits (B, M, V)."""
        batch = batch if self._prepared is None else self._prepared(batch)
        hidden = self.encoder(batch, OutputRecorder())
        chosen = mx.take_along_axis(hidden, positions[:, :, None], axis=1)
        outputs: Mapping[str, mx.array] = self.head(chosen, None, batch, self.encoder.embeddings.word)
        return outputs["logits"]


def build_model(family: Family, config: EncoderConfig, task: str, pooler: bool) -> Model:
    """A model of the right shapes, its weights not yet there (zeros that are never computed)."""
    head = None if task == BASE_TASK else family.heads[task]
    pooler = pooler or not config.pooler_has_weights
    with_pooler = family.pooler is not None and (head.reads_pooler if head else pooler and family.base_model_has_pooler)
    return Model(
        family.encoder(config),
        family.pooler(config) if with_pooler and family.pooler else None,
        head.build(config) if head else None,
        partial(head.prepare_batch, config) if head and head.prepare_batch else None,
    )


def set_activation_dtype(model: Model, dtype: mx.Dtype) -> None:
    """Look-ups in packed tables answer in `dtype`; everything after them follows."""
    for module in model.modules():
        if isinstance(module, QuantizedEmbedding):
            module.dtype = dtype
