"""Check a caller's arguments to a model, and make a batch of them.

B texts, L tokens, N choices, D hidden size.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_hf_bridge.architecture.family import MULTIPLE_CHOICE
from mlx_hf_bridge.errors import ArgumentTypeError, InputError
from mlx_hf_bridge.inference.batching import make_batch
from mlx_hf_bridge.inference.model import EncoderOutput
from mlx_hf_bridge.layers.global_attention import MARKED_AS_GLOBAL
from mlx_hf_bridge.layers.token_batch import TokenBatch
from mlx_hf_bridge.loading.load import LoadedModel
from mlx_hf_bridge.pretrained.arrays import to_array, to_integers
from mlx_hf_bridge.pretrained.attention_mask import CheckedMask, check_attention_mask, mask_numbers
from mlx_hf_bridge.pretrained.extra_inputs import check_extra_inputs
from mlx_hf_bridge.runtime.executor import run
from mlx_hf_bridge.tracing.model import TOKEN_TYPE_IDS


class ModelInputs:
    """The arguments of one call as numpy arrays; the choices of multiple choice are flattened to (B * N, L).

    `reference` is the argument whose array type the output has.

    Args:
        loaded: The model that is called.
        input_ids: Token ids (B, L), for multiple choice (B, N, L), or None.
        attention_mask: 1 for tokens and 0 for padding, in the shape of the ids, or None.
        token_type_ids: Token type ids in the shape of the ids, or None; ignored if the model has none.
        position_ids: Positions in the shape of the ids, or None.
        inputs_embeds: Vectors (B, L, D) instead of input_ids, or None.
        extra_inputs: Arguments that only this model's class has, by name.

    Raises:
        InputError: If an argument is missing, or its shape does not match that of the ids.
        ArgumentTypeError: If an argument is unknown, or its type is not accepted.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        input_ids: Any,
        attention_mask: Any,
        token_type_ids: Any,
        position_ids: Any,
        inputs_embeds: Any,
        extra_inputs: Mapping[str, Any],
    ) -> None:
        if (input_ids is None) == (inputs_embeds is None):
            raise InputError(
                f"got {'both' if input_ids is not None else 'neither'} of input_ids and inputs_embeds, "
                "expected one of them. Pass token ids (B, L), as a tokenizer returns them."
            )
        if inputs_embeds is not None and not loaded.family.accepts_inputs_embeds:
            raise InputError(
                f"got inputs_embeds, and {loaded.family.hf_class_name(loaded.task)} takes only token ids. "
                "Pass input_ids."
            )
        self.loaded = loaded
        self.reference = inputs_embeds if input_ids is None else input_ids
        self._inputs_embeds = None if inputs_embeds is None else self._floats(inputs_embeds)
        if self._inputs_embeds is None:
            self._ids = _token_ids(input_ids)
        else:
            self._ids = self._placeholder_ids(self._inputs_embeds)
        self.choices = self._flatten()
        self._mask = self._check_mask(attention_mask)
        if TOKEN_TYPE_IDS in loaded.config.extra_inputs:
            extra_inputs, token_type_ids = {**extra_inputs, TOKEN_TYPE_IDS: token_type_ids}, None
        # Ignored as in transformers: AutoTokenizer returns token_type_ids for DistilBERT, which has no table for them.
        types = self._like_ids("token_type_ids", token_type_ids)
        self._token_type_ids = types if loaded.family.uses_token_type_ids else None
        self._position_ids = self._like_ids("position_ids", position_ids)
        # Flat ids are refused when the batch is made.
        is_matrix = self._ids.ndim == 2
        self._extra_inputs = (
            check_extra_inputs(extra_inputs, self._ids.shape, self.choices, loaded) if is_matrix else {}
        )

    def batch(self) -> TokenBatch:
        """Make the batch, with every id checked against the embedding tables.

        Returns:
            The batch, (B, L) or (B * N, L).

        Raises:
            TokenRangeError: If an id, token type id or position is outside its embedding table.
            InputError: If the head does not take these texts together.
        """
        head = self.loaded.family.heads.get(self.loaded.task)
        if head is not None and head.check_call is not None:
            head.check_call(self.loaded.config, self._ids)
        batch = make_batch(
            self.loaded.config,
            self._ids,
            self._mask.flags,
            self._token_type_ids,
            self._position_ids,
            self._inputs_embeds,
            self._extra_inputs,
            self._mask.bias,
        )
        if self._mask.is_global is None:
            return batch
        return replace(batch, extra_inputs={**batch.extra_inputs, MARKED_AS_GLOBAL: mx.array(self._mask.is_global)})

    def unflatten_choices(self, encoded: EncoderOutput) -> EncoderOutput:
        """Reshape the logits of multiple choice from (B * N, 1) to (B, N).

        Args:
            encoded: The output of the model.

        Returns:
            The output with reshaped logits; for other tasks `encoded` itself.
        """
        if self.choices is None:
            return encoded
        outputs = {name: array.reshape(-1, self.choices) for name, array in encoded.outputs.items()}
        return replace(encoded, outputs=outputs)

    def _flatten(self) -> int | None:
        """Reshape (B, N, L) to (B * N, L) and return N; None for other tasks."""
        if self.loaded.task != MULTIPLE_CHOICE:
            return None
        if self._ids.ndim != 3:
            raise InputError(f"the input has {self._ids.ndim} axes, expected 3: texts, choices and tokens.")
        choices = int(self._ids.shape[1])
        self._ids = self._ids.reshape(-1, self._ids.shape[-1])
        if self._inputs_embeds is not None:
            self._inputs_embeds = self._inputs_embeds.reshape(-1, *self._inputs_embeds.shape[-2:])
        return choices

    def _check_mask(self, given: Any) -> CheckedMask:
        if given is None:
            return CheckedMask()
        array = mask_numbers(given)
        if self.choices is not None and array.ndim == 3:
            array = array.reshape(-1, array.shape[-1])
        return check_attention_mask(array, self._ids.shape, self.loaded)

    def _like_ids(self, name: str, given: Any) -> np.ndarray | None:
        """Convert an argument to the shape of the ids; (1, L) is broadcast over the texts."""
        if given is None:
            return None
        array = to_integers(name, given)
        if self.choices is not None and array.ndim == 3:
            array = array.reshape(-1, array.shape[-1])
        shape = self._ids.shape
        # As torch broadcasts: one row for all texts, with or without its axis.
        if array.shape not in (shape, (1, *shape[1:]), shape[1:]):
            raise InputError(f"{name} has the shape {array.shape}, expected that of input_ids, {shape}.")
        # A view: nothing is copied.
        return np.broadcast_to(array, shape)

    def _floats(self, vectors: Any) -> mx.array:
        array, embedded = to_array("inputs_embeds", vectors), self._embedded()
        width = embedded.shape[-1]
        if array.ndim < 3 or array.dtype.kind != "f" or array.shape[-1] != width:
            raise InputError(
                f"inputs_embeds has the shape {array.shape} and dtype {array.dtype}, expected floats (texts, tokens, "
                f"{width}), as wide as the model's token embeddings."
            )
        # In the dtype of the model's own embeddings, which everything after them follows.
        return run(lambda: mx.array(array.astype(np.float32)).astype(embedded.dtype))

    def _embedded(self) -> mx.array:
        """Return a token's embedding, lazily, for its dtype and width; the width may differ from the hidden size."""
        embedding: mx.array = self.loaded.model.encoder.embeddings.word(mx.zeros((1, 1), mx.int32))
        return embedding

    def _placeholder_ids(self, vectors: mx.array) -> np.ndarray:
        """Return ids (B, L) for inputs_embeds, none of them padding: transformers numbers their positions so."""
        return np.full(vectors.shape[:-1], 0 if self.loaded.config.pad_token_id else 1, np.int32)


def _token_ids(given: Any) -> np.ndarray:
    """Convert input_ids to numpy; booleans are most likely a mask in the wrong place."""
    ids = to_integers("input_ids", given)
    if ids.dtype == bool:
        raise ArgumentTypeError(
            "input_ids has the dtype bool, expected integers. Pass the mask as attention_mask, and ids as a tokenizer "
            "returns them."
        )
    return ids
