"""A model whose first layers are not computed again: they give what they gave for the same batch before."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_hf_bridge.inference.model import Model
from mlx_hf_bridge.layers.token_batch import TokenBatch
from mlx_hf_bridge.quantization.statistics import StopForward

_LAYER_PATH = "encoder.layers."


class _Given(nn.Module):
    """A layer that gives an answer it was given."""

    def __init__(self, answer: mx.array) -> None:
        super().__init__()
        self._answer = answer

    def __call__(self, *_: Any, **__: Any) -> mx.array:
        return self._answer


class _Last(nn.Module):
    """A layer that keeps its answer and ends the pass."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self._layer = layer
        self.answers: list[mx.array] = []

    def __call__(self, *args: Any, **kwargs: Any) -> mx.array:
        self.answers.append(self._layer(*args, **kwargs))
        raise StopForward


class Replay:
    """A model's passes over fixed batches, its first `done` layers given. Ends with `restore`."""

    def __init__(self, model: Model, batches: Sequence[TokenBatch]) -> None:
        self.model, self.batches = model, batches
        self.done = 0
        self._layers: list[nn.Module] = list(model.encoder.layers) if is_stack(model, batches[0]) else []
        self._answers: list[mx.array] = []

    def reach(self, path: str) -> None:
        """Compute and keep the layers before the one that a module's path lies in."""
        number = path.removeprefix(_LAYER_PATH).partition(".")[0]
        if not self._layers or not path.startswith(_LAYER_PATH):
            return
        while self.done < int(number):
            self._answers = [self._answer(index) for index in range(len(self.batches))]
            self.done += 1

    def batch(self, index: int) -> TokenBatch:
        """One of the batches, the model made ready for it."""
        for place in range(self.done):
            self.model.encoder.layers[place] = _Given(self._answers[index])
        return self.batches[index]

    def restore(self) -> None:
        """Put the layers back."""
        if self._layers:
            self.model.encoder.layers = self._layers

    def _answer(self, index: int) -> mx.array:
        batch = self.batch(index)
        last = _Last(self._layers[self.done])
        self.model.encoder.layers[self.done] = last
        with suppress(StopForward):
            self.model(batch)
        self.model.encoder.layers[self.done] = self._layers[self.done]
        mx.eval(last.answers)
        return last.answers[0]


def is_stack(model: Model, batch: TokenBatch) -> bool:
    """Whether `encoder.layers` is run through once, in order, each layer's answer being all that goes on to the next.

    Seen by trying: with every layer but the last two given the answer of the last given one, nothing may change.
    """
    layers: Any = model.encoder.get("layers")
    if not isinstance(layers, list) or len(layers) < 2:
        return False
    whole = model(batch).hidden
    kept: list[tuple[int, mx.array]] = []

    class Keeping(nn.Module):
        def __init__(self, place: int) -> None:
            super().__init__()
            self._place = place

        def __call__(self, *args: Any, **kwargs: Any) -> mx.array:
            answer: mx.array = layers[self._place](*args, **kwargs)
            kept.append((self._place, answer))
            return answer

    try:
        model.encoder.layers = [Keeping(place) for place in range(len(layers))]
        model(batch)
        if [place for place, _ in kept] != list(range(len(layers))) or not isinstance(kept[0][1], mx.array):
            return False
        for done in {1, len(layers) - 1}:
            model.encoder.layers = [_Given(kept[done - 1][1])] * done + layers[done:]
            if not bool(mx.array_equal(model(batch).hidden, whole)):
                return False
        return True
    finally:
        model.encoder.layers = layers
