"""The forward pass as one compiled function for each shape, which GPUs are kept busier by.

mx.compile replays a graph without running the Python code that describes it, and joins elementwise functions into one
kernel. Batches are padded, so that texts of varied lengths need few traces (runtime/compiled.py).

Axes: B texts, L tokens, D hidden size.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_hf_bridge.layers.linear import dequantizing_once
from mlx_hf_bridge.layers.token_batch import TokenBatch
from mlx_hf_bridge.runtime.compiled import CompiledCalls, arrays_of, called_with, rounded_up

Outputs = dict[str, mx.array]
# The model's modules, the batch, and whether only position 0 is read -> the outputs by name, (B, ...) each.
Forward = Callable[[Mapping[str, nn.Module], TokenBatch, bool], Outputs]


class CompiledForward:
    """Runs a model's forward pass compiled, with the batch padded to one of few shapes.

    Args:
        forward: The forward pass.
        pad_token_id: Id to pad texts with.
        independent_length: Longest batch, in tokens, in which padding changes no text's outputs.
    """

    def __init__(self, forward: Forward, pad_token_id: int, independent_length: int) -> None:
        self._forward = forward
        self._pad_token_id, self._independent_length = pad_token_id, independent_length
        self._calls = CompiledCalls()
        # Names of outputs of shape (B, L, ...), by what was compiled.
        self._per_token: dict[tuple[Any, ...], frozenset[str]] = {}

    @property
    def shapes(self) -> int:
        """How many shapes are compiled in this thread."""
        return len(self._calls)

    @staticmethod
    def takes(batch: TokenBatch) -> bool:
        """Return whether a batch is one of token ids only; inputs of other kinds are computed without compilation.

        Args:
            batch: The batch.

        Returns:
            True if it is.
        """
        given = (batch.inputs_embeds, batch.attention_bias)
        return all(one is None for one in given) and not batch.extra_inputs and not batch.has_empty_rows

    def __call__(self, modules: Mapping[str, nn.Module], batch: TokenBatch, first_token: bool) -> Outputs:
        """Run the forward pass.

        Args:
            modules: The modules of the model by name.
            batch: The batch, for which `takes` holds.
            first_token: Whether only position 0 of the hidden states is read.

        Returns:
            What the forward pass returns for the batch.
        """
        texts, tokens = batch.ids.shape
        length = self._padded_length(tokens)
        padded = batch.padded_to(rounded_up(texts), length, self._pad_token_id)
        arrays = {name: array for name in _ARRAYS if (array := getattr(padded, name)) is not None}
        # Read on the host, where batches come from.
        known = batch.mask is not None and bool(np.asarray(batch.mask).any(axis=1).all())
        # Identities are safe keys: the compiled functions hold the modules.
        model = (*(id(module) for module in modules.values()), first_token)
        call = self._calls.get(
            (*model, known, padded.ids.shape, *arrays),
            partial(_traced, self._forward, modules, tuple(arrays), known, first_token),
        )
        try:
            outputs: Outputs = call(arrays_of(modules), *arrays.values())
        except ValueError as error:
            # A layer that reads the values of an array, which a trace does not have.
            if not str(error).startswith("[eval]"):
                raise
            return self._forward(modules, batch, first_token)
        if padded is batch:
            return outputs
        per_token = self._outputs_per_token(model, modules, tokens, outputs) if length > tokens else frozenset()
        return {name: array[:texts, :tokens] if name in per_token else array[:texts] for name, array in outputs.items()}

    def __getstate__(self) -> dict[str, Any]:
        # A copy has other modules, with other identities.
        return {**self.__dict__, "_per_token": {}}

    def _padded_length(self, tokens: int) -> int:
        length = rounded_up(tokens)
        # A longer batch than the model takes, or one in which padding shows, keeps its length.
        return length if length <= self._independent_length else tokens

    def _outputs_per_token(
        self, model: tuple[Any, ...], modules: Mapping[str, nn.Module], tokens: int, outputs: Outputs
    ) -> frozenset[str]:
        """Return which outputs have an axis of tokens: those that are shorter for a shorter text."""
        if model not in self._per_token:
            # Described only, to see its shapes, and never computed.
            shorter = self._forward(modules, TokenBatch(mx.zeros((1, tokens), mx.int32)), model[-1])
            self._per_token[model] = frozenset(
                name for name, array in outputs.items() if array.shape[1:2] != shorter[name].shape[1:2]
            )
        return self._per_token[model]


# The inputs of a batch that a compiled function takes.
_ARRAYS = ("ids", "mask", "token_type_ids", "position_ids")


def _traced(
    forward: Forward,
    modules: Mapping[str, nn.Module],
    names: tuple[str, ...],
    has_no_empty_rows: bool,
    first_token: bool,
    weights: list[mx.array],
    *arrays: mx.array,
) -> Outputs:
    batch = TokenBatch(**dict[str, Any](zip(names, arrays, strict=True)), has_no_empty_rows=has_no_empty_rows)
    # Weights that are dequantized in a trace belong to it.
    with dequantizing_once():
        return called_with(modules, weights, forward, modules, batch, first_token)  # type: ignore[no-any-return]
