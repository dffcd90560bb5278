"""What a caller gives a model, checked and made into a batch.

B texts, L tokens, N choices, D width of the word table.
"""

from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_hf_bridge.architecture.family import MULTIPLE_CHOICE
from mlx_hf_bridge.errors import ArgumentTypeError, InputError
from mlx_hf_bridge.inference.batching import make_batch
from mlx_hf_bridge.inference.model import EncoderOutput
from mlx_hf_bridge.layers.token_batch import TokenBatch
from mlx_hf_bridge.loading.load import LoadedModel
from mlx_hf_bridge.pretrained.arrays import to_integers, to_numpy


class ModelInputs:
    """The arguments of one call as numpy, choices of multiple choice laid out as texts.

    `like` is what the answer's kind follows. InputError for what is missing, or of another shape than the ids.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        ids: Any,
        mask: Any,
        segments: Any,
        places: Any,
        vectors: Any,
        given: Mapping[str, Any],
    ) -> None:
        if (ids is None) == (vectors is None):
            raise InputError(
                f"got {'both' if ids is not None else 'neither'} of input_ids and inputs_embeds, expected one of them. "
                "Pass token ids (B, L), as a tokenizer gives them."
            )
        if vectors is not None and not loaded.family.accepts_inputs_embeds:
            raise InputError(
                f"got inputs_embeds, and {loaded.family.hf_class_name(loaded.task)} takes ids alone. Pass input_ids."
            )
        self.loaded = loaded
        self.like = vectors if ids is None else ids
        self._vectors = None if vectors is None else self._floats(vectors)
        self._ids = to_integers("input_ids", ids) if self._vectors is None else self._filler(self._vectors)
        self.choices = self._flatten()
        self._mask = self._beside("attention_mask", mask)
        # Ignored as in transformers: AutoTokenizer gives DistilBERT's pairs segments that the model has no table for.
        self._segments = self._beside("token_type_ids", segments) if loaded.family.uses_token_type_ids else None
        self._places = self._beside("position_ids", places)
        self._given = self._own(given)

    def batch(self) -> TokenBatch:
        """TokenRangeError for ids, segments or positions outside the model's tables."""
        return make_batch(
            self.loaded.config, self._ids, self._mask, self._segments, self._places, self._vectors, self._given
        )

    def unflattened(self, encoded: EncoderOutput) -> EncoderOutput:
        """Logits of choices (B x N, 1) -> (B, N); others as they are."""
        if self.choices is None:
            return encoded
        answers = {name: array.reshape(-1, self.choices) for name, array in encoded.outputs.items()}
        return EncoderOutput(
            encoded.hidden,
            encoded.pooled,
            answers,
            encoded.hidden_states,
            encoded.attentions,
            encoded.global_attentions,
        )

    def _flatten(self) -> int | None:
        """(B, N, L) -> (B x N, L), and N; None for other tasks."""
        if self.loaded.task != MULTIPLE_CHOICE:
            return None
        if self._ids.ndim != 3:
            raise InputError(f"the input has {self._ids.ndim} axes, expected 3: texts, choices, tokens.")
        choices = int(self._ids.shape[1])
        self._ids = self._ids.reshape(-1, self._ids.shape[-1])
        if self._vectors is not None:
            self._vectors = self._vectors.reshape(-1, *self._vectors.shape[-2:])
        return choices

    def _beside(self, name: str, given: Any) -> np.ndarray | None:
        """An argument in the shape of the ids ((1, L) is spread over the texts)."""
        if given is None:
            return None
        config = self.loaded.config
        real = name == "attention_mask" or name in config.float_extra_inputs
        array = to_numpy(given) if real else to_integers(name, given)
        if self.choices is not None and array.ndim == 3:
            array = array.reshape(-1, array.shape[-1])
        shape = (*self._ids.shape, *config.extra_input_axes.get(name, ()))
        if array.shape != shape and array.shape != (1, *shape[1:]):
            raise InputError(f"{name} has the shape {array.shape}, expected that of input_ids, {shape}.")
        return np.broadcast_to(array, shape)

    def _own(self, given: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The family's own arguments; those that this config.json has no table for may only be 0."""
        name, known = self.loaded.family.hf_class_name(self.loaded.task), self.loaded.config.extra_input_sizes
        if unknown := sorted(set(given) - set(known)):
            own = f"of its own it takes {', '.join(known)}" if known else "it has no arguments of its own"
            raise ArgumentTypeError(f"{name} got {', '.join(unknown)}, which it does not take; {own}. Leave it out.")
        arrays = {argument: self._beside(argument, values) for argument, values in given.items()}
        for argument, array in arrays.items():
            if array is not None and not known[argument] and array.any():
                raise InputError(
                    f"{argument} has values other than 0, and this {name} has no table for them (config.json). "
                    "Leave it out."
                )
        return {argument: array for argument, array in arrays.items() if array is not None and known[argument]}

    def _floats(self, vectors: Any) -> mx.array:
        array = to_numpy(vectors)
        if array.ndim < 3 or array.dtype.kind != "f":
            raise InputError(
                f"inputs_embeds has the shape {array.shape} and dtype {array.dtype}, expected floats (B, L, D)."
            )
        return mx.array(array.astype(np.float32))

    def _filler(self, vectors: mx.array) -> np.ndarray:
        """Ids in the place of vectors: none is padding, so that places are counted as transformers counts them."""
        return np.full(vectors.shape[:-1], 0 if self.loaded.config.pad_token_id else 1, np.int32)
