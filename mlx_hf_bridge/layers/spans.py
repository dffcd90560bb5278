"""The layers of GLiNER: words from tokens, spans of words, and scores of labels.

Reference: gliner/modeling/span_rep.py, scorers.py and utils.py of gliner 0.2.29.

Axes: B texts, L tokens, W words, S tokens of a word, K widths of a span, C labels, D hidden size.
"""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_hf_bridge.layers.linear import Linear

# How the tokens of a word become one vector; for "first" and "last" a word has one token here.
SUBTOKEN_POOLING = ("first", "last", "mean", "max")


def pool_words(hidden: mx.array, word_tokens: mx.array, mode: str) -> mx.array:
    """Return one vector for each word.

    Args:
        hidden: Hidden states of the tokens, (B, L, D).
        word_tokens: Indices of the tokens of each word, (B, W, S), int32; -1 where there is none.
        mode: A name in SUBTOKEN_POOLING.

    Returns:
        Array of shape (B, W, D); zeros for a word without tokens.
    """
    total = mx.zeros((*word_tokens.shape[:2], hidden.shape[-1]), hidden.dtype)
    # One step for each token of a word, since all of them at once would take S times the memory.
    for step in range(word_tokens.shape[2]):
        index = word_tokens[:, :, step : step + 1]
        found = mx.take_along_axis(hidden, mx.maximum(index, 0), axis=1)
        if mode == "max" and step:
            total = mx.where(index >= 0, mx.maximum(total, found), total)
        else:
            total = mx.where(index >= 0, total + found, total)
    if mode == "mean":
        count = (word_tokens >= 0).astype(hidden.dtype).sum(axis=-1, keepdims=True)
        total = total / mx.maximum(count, 1)
    return total


class Projection(nn.Module):
    """Two linear layers with ReLU between them.

    Takes x (..., I) and returns (..., O).

    Args:
        inputs: I.
        hidden: Width between the layers.
        outputs: O.
    """

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.first = Linear(inputs, hidden)
        self.second = Linear(hidden, outputs)

    def __call__(self, x: mx.array) -> mx.array:
        result: mx.array = self.second(nn.relu(self.first(x)))
        return result


def projection(size: int) -> Projection:
    """Return two linear layers of one width, as gliner's `create_projection_layer` does.

    Args:
        size: D, the width of inputs and outputs; 4 D are between them.

    Returns:
        The layers.
    """
    return Projection(size, 4 * size, size)


def _parts_of(linear: Linear, parts: Sequence[mx.array]) -> list[mx.array]:
    """Return what each part (..., D) of a concatenated input adds to a linear layer's output, without the bias.

    So the layer is computed once for each word instead of once for each span.
    """
    weights = mx.split(linear.weight, len(parts), axis=1)
    return [part @ weight.T for part, weight in zip(parts, weights, strict=True)]


class SpanMarker(nn.Module):
    """Vectors of all spans from their first and last words; `span_mode` "marker", "markerV0", "markerV1", "markerV2".

    Takes words (B, W, D) and their numbers (B,), and returns (B, W, K, D); spans that end beyond the last word of a
    text are meaningless.

    Args:
        size: D.
        max_width: Most words of a span.
        mode: The `span_mode`.
    """

    def __init__(self, size: int, max_width: int, mode: str) -> None:
        super().__init__()
        self.max_width, self._mode = max_width, mode
        inner = 2 if mode == "marker" else 4
        self.start = Projection(size, inner * size, size)
        self.end = Projection(size, inner * size, size)
        if mode == "markerV2":
            self.context = projection(size)
        parts = 3 if mode in ("markerV1", "markerV2") else 2
        marker = mode == "marker"
        self.out: nn.Module = Linear(parts * size, size) if marker else Projection(parts * size, 4 * size, size)

    def __call__(self, words: mx.array, lengths: mx.array) -> mx.array:
        parts = [self.start(words), self.end(words), *self._context(words, lengths)]
        first: Any = self.out if self._mode == "marker" else self.out.first
        from_start, from_end, *others = _parts_of(first, [nn.relu(part) for part in parts])
        count = words.shape[1]
        width = min(self.max_width, count)
        ends = mx.minimum(mx.arange(count)[:, None] + mx.arange(width)[None], count - 1)
        at_ends = from_end[:, ends.reshape(-1)].reshape(len(words), count, width, -1)
        result: mx.array = from_start[:, :, None] + at_ends + first.bias
        for other in others:
            result = result + other[:, None]
        if self._mode != "marker":
            result = self.out.second(nn.relu(result))
        return result

    def _context(self, words: mx.array, lengths: mx.array) -> list[mx.array]:
        """Return the third part of the vectors of all spans of a text, (B, 1, D)."""
        if self._mode == "markerV1":
            real = (mx.arange(words.shape[1])[None] < lengths[:, None])[:, :, None]
            count = mx.maximum(lengths, 1)[:, None, None].astype(words.dtype)
            return [mx.where(real, words, 0).sum(axis=1, keepdims=True) / count]
        if self._mode == "markerV2":
            last = mx.maximum(lengths - 1, 0)[:, None, None]
            return [mx.take_along_axis(self.context(words), last, axis=1)]
        return []


class Scorer(nn.Module):
    """Scores of each word as the start, the end and the inside of an entity with each label.

    Takes words (B, W, D) and labels (B, C, D), and returns logits (B, W, C, 3).

    Args:
        size: D.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.token = Linear(size, 2 * size)
        self.label = Linear(size, 2 * size)
        self.out = Projection(3 * size, 4 * size, 3)

    def __call__(self, words: mx.array, labels: mx.array) -> mx.array:
        word_own, word_shared = mx.split(self.token(words)[:, :, None], 2, axis=-1)
        label_own, label_shared = mx.split(self.label(labels)[:, None], 2, axis=-1)
        first = self.out.first
        parts = _parts_of(first, [word_own, label_own, word_shared * label_shared])
        result: mx.array = self.out.second(nn.relu(parts[0] + parts[1] + parts[2] + first.bias))
        return result
