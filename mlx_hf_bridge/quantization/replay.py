"""A model whose finished layers are not computed again: they return what they returned for the same batch before."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_hf_bridge.inference.model import Model
from mlx_hf_bridge.layers.token_batch import TokenBatch
from mlx_hf_bridge.quantization.statistics import StopForward

# Paths of the modules whose `layers` run one after the other: the encoder, then the decoder that some models end with.
_STACKS = ("encoder", "encoder.decoder")


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


class _Stack:
    """The layers of the encoder or decoder, of which the first `done` are cached.

    Args:
        path: The path of the module that has the layers.
        owner: That module.
    """

    def __init__(self, path: str, owner: nn.Module) -> None:
        self.prefix, self.owner = f"{path}.layers.", owner
        # A list of its own: the owner's is replaced entry by entry while replaying.
        self.layers: list[nn.Module] = list(owner.layers)
        self.done = 0
        # The output of the last cached layer, for each batch.
        self.outputs: list[mx.array] = []

    def prepare(self, index: int) -> None:
        """Set the cached layers to their outputs for a batch."""
        for layer in range(self.done):
            self.owner.layers[layer] = _CachedLayer(self.outputs[index])

    def restore(self) -> None:
        """Put the layers back."""
        self.owner.layers = self.layers


class Replay:
    """Forward passes of a model over fixed batches, whose first layers are cached. Call `restore` at the end.

    Args:
        model: The model; its lists of layers are changed until `restore`.
        batches: The batches that passes are run on.
    """

    def __init__(self, model: Model, batches: Sequence[TokenBatch]) -> None:
        self.model, self.batches = model, batches
        modules = dict(model.named_modules())
        owners = {path: modules[path] for path in _STACKS if path in modules}
        self._stacks = [
            _Stack(path, owner) for path, owner in owners.items() if is_sequential(model, owner, batches[0])
        ]

    def advance_to(self, path: str) -> None:
        """Compute and cache the layers before the one that a module path lies in."""
        reached = next((stack for stack in self._stacks if path.startswith(stack.prefix)), None)
        for stack in self._stacks if reached is not None else ():
            number = path.removeprefix(stack.prefix).partition(".")[0]
            # A stack before the one that is reached has finished.
            until = int(number) if stack is reached else len(stack.layers)
            while stack.done < until:
                stack.outputs = [self._layer_output(stack, index) for index in range(len(self.batches))]
                stack.done += 1
            if stack is reached:
                return

    def prepare(self, index: int) -> TokenBatch:
        """Return one of the batches, after setting the model's cached layers to their outputs for it."""
        for stack in self._stacks:
            stack.prepare(index)
        return self.batches[index]

    def restore(self) -> None:
        """Put the layers back."""
        for stack in self._stacks:
            stack.restore()

    def _layer_output(self, stack: _Stack, index: int) -> mx.array:
        """Return the output of the first layer that is not cached yet."""
        batch = self.prepare(index)
        last = _LastLayer(stack.layers[stack.done])
        stack.owner.layers[stack.done] = last
        with suppress(StopForward):
            self.model(batch)
        stack.owner.layers[stack.done] = stack.layers[stack.done]
        # Otherwise the graph would keep all layers before it in memory, for every batch.
        mx.eval(last.outputs)
        return last.outputs[0]


def is_sequential(model: Model, owner: nn.Module, batch: TokenBatch) -> bool:
    """Whether the layers of a module run once, in order, each one's output being all of them that the next one reads.

    Found out by trying: with the first layer, and with all but the last one, replaced by stored outputs, the result
    must be equal to the bit.
    """
    layers: Any = owner.get("layers")
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
        owner.layers = [RecordingLayer(number) for number in range(len(layers))]
        model(batch)
        if [number for number, _ in outputs] != list(range(len(layers))) or not isinstance(outputs[0][1], mx.array):
            return False
        # One cached layer and all but one: a layer that reads more than its predecessor's output shows in either.
        for done in {1, len(layers) - 1}:
            owner.layers = [_CachedLayer(outputs[done - 1][1])] * done + layers[done:]
            # Exactly equal: the same operations on the same arrays. A tolerance would hide a layer that reads something
            # else.
            if not bool(mx.array_equal(model(batch).hidden, expected)):
                return False
        return True
    finally:
        owner.layers = layers
