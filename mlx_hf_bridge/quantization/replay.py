"""A model whose finished layers are not computed again: they return what they returned for the same batch before."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_hf_bridge.inference.model import Model
from mlx_hf_bridge.layers.token_batch import TokenBatch
from mlx_hf_bridge.quantization.statistics import StopForward

_LAYER_PATH = "encoder.layers."


class _CachedLayer(nn.Module):
    """A layer that returns a stored output."""

    def __init__(self, output: mx.array) -> None:
        super().__init__()
        self._output = output

    def __call__(self, *_: Any, **__: Any) -> mx.array:
        return self._output


class _LastLayer(nn.Module):
    """A layer that stores its output and ends the forward pass."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self._layer = layer
        self.outputs: list[mx.array] = []

    def __call__(self, *args: Any, **kwargs: Any) -> mx.array:
        self.outputs.append(self._layer(*args, **kwargs))
        # The layers after it are not needed yet; an exception is the only way out of an arbitrary forward pass.
        raise StopForward


class Replay:
    """Forward passes of a model over fixed batches, whose first `done` layers are cached. Call `restore` at the end.

    Args:
        model: The model; its list of layers is changed until `restore`.
        batches: The batches that passes are run on.
    """

    def __init__(self, model: Model, batches: Sequence[TokenBatch]) -> None:
        self.model, self.batches = model, batches
        self.done = 0
        # A list of its own: `encoder.layers` is replaced entry by entry while replaying.
        self._layers: list[nn.Module] = list(model.encoder.layers) if is_sequential(model, batches[0]) else []
        self._outputs: list[mx.array] = []

    def advance_to(self, path: str) -> None:
        """Compute and cache the layers before the one that a module path lies in."""
        number = path.removeprefix(_LAYER_PATH).partition(".")[0]
        if not self._layers or not path.startswith(_LAYER_PATH):
            return
        while self.done < int(number):
            self._outputs = [self._layer_output(index) for index in range(len(self.batches))]
            self.done += 1

    def prepare(self, index: int) -> TokenBatch:
        """Return one of the batches, after setting the model's cached layers to their outputs for it."""
        for layer in range(self.done):
            self.model.encoder.layers[layer] = _CachedLayer(self._outputs[index])
        return self.batches[index]

    def restore(self) -> None:
        """Put the layers back."""
        if self._layers:
            self.model.encoder.layers = self._layers

    def _layer_output(self, index: int) -> mx.array:
        """Return the output of the first layer that is not cached yet."""
        batch = self.prepare(index)
        last = _LastLayer(self._layers[self.done])
        self.model.encoder.layers[self.done] = last
        with suppress(StopForward):
            self.model(batch)
        self.model.encoder.layers[self.done] = self._layers[self.done]
        # Otherwise the graph would keep all layers before it in memory, for every batch.
        mx.eval(last.outputs)
        return last.outputs[0]


def is_sequential(model: Model, batch: TokenBatch) -> bool:
    """Whether `encoder.layers` runs once, in order, each layer's output being all that the next one reads.

    Found out by trying: with the first layer, and with all but the last one, replaced by stored outputs, the result
    must be equal to the bit.
    """
    layers: Any = model.encoder.get("layers")
    # A single layer leaves nothing to cache.
    if not isinstance(layers, list) or len(layers) < 2:
        return False
    expected = model(batch).hidden
    outputs: list[tuple[int, mx.array]] = []

    class RecordingLayer(nn.Module):
        def __init__(self, number: int) -> None:
            super().__init__()
            self._number = number

        def __call__(self, *args: Any, **kwargs: Any) -> mx.array:
            output: mx.array = layers[self._number](*args, **kwargs)
            outputs.append((self._number, output))
            return output

    try:
        model.encoder.layers = [RecordingLayer(number) for number in range(len(layers))]
        model(batch)
        if [number for number, _ in outputs] != list(range(len(layers))) or not isinstance(outputs[0][1], mx.array):
            return False
        # One cached layer and all but one: a layer that reads more than its predecessor's output shows in either.
        for done in {1, len(layers) - 1}:
            model.encoder.layers = [_CachedLayer(outputs[done - 1][1])] * done + layers[done:]
            # Exactly equal: the same operations on the same arrays. A tolerance would hide a layer that reads something
            # else.
            if not bool(mx.array_equal(model(batch).hidden, expected)):
                return False
        return True
    finally:
        model.encoder.layers = layers
