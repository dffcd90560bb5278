"""CANINE's encoder of characters: embeddings by hashing, and a deep stack over groups of characters.

Source: Clark et al., "CANINE", arXiv 2103.06874; names and padding follow transformers/models/canine.

Axes: B texts, L characters, M groups of R characters ("molecules", L / R), D hidden size, H heads, W kernel width.
"""

from collections.abc import Sequence

import mlx.core as mx
import mlx.nn as nn

from mlx_hf_bridge.layers.activations import Activation
from mlx_hf_bridge.layers.attention import Attention, attend_with_weights, merge_heads
from mlx_hf_bridge.layers.encoder import OutputRecorder
from mlx_hf_bridge.layers.linear import Embedding
from mlx_hf_bridge.layers.norm import LayerNorm
from mlx_hf_bridge.layers.single_batch import start_evaluation
from mlx_hf_bridge.layers.token_batch import TokenBatch

# The multipliers of the hash functions (_PRIMES in modeling_canine.py).
PRIMES = (31, 43, 59, 61, 73, 97, 103, 113, 137, 149, 157, 173, 181, 193, 211, 223)


class HashEmbedding(nn.Module):
    """An embedding of code points without a table of them: parts of the vector come from rows at hashes of the id.

    Takes ids (B, L) and returns (B, L, D).

    Args:
        hashes: Number of hash functions, each with a table of D / hashes columns; at most `len(PRIMES)`.
        buckets: Rows of each table.
        width: D.
    """

    def __init__(self, hashes: int, buckets: int, width: int) -> None:
        super().__init__()
        # Not a list, since the checkpoint's names of the tables have no number of their own ("Embedder_0").
        for index in range(hashes):
            setattr(self, f"table_{index}", Embedding(buckets, width // hashes))
        self.hashes, self.buckets = hashes, buckets

    def __call__(self, ids: mx.array) -> mx.array:
        parts = [self[f"table_{index}"]((ids + 1) * PRIMES[index] % self.buckets) for index in range(self.hashes)]
        return mx.concatenate(parts, axis=-1)


class ChunkedAttention(Attention):
    """Self-attention inside chunks of the text, which do not see each other.

    Takes x (B, L, D), mask (B, 1, 1, L) with True for visible keys or None, and no bias. Returns (B, L, D).

    Args:
        hidden_size: D.
        heads: Number of heads, H.
        chunk: Characters of a chunk.
    """

    def __init__(self, hidden_size: int, heads: int, chunk: int) -> None:
        super().__init__(hidden_size, heads)
        self.chunk = chunk

    def __call__(self, x: mx.array, mask: mx.array | None, bias: mx.array | None = None) -> mx.array:
        return self.with_weights(x, mask)[0]

    def with_weights(
        self, x: mx.array, mask: mx.array | None, bias: mx.array | None = None
    ) -> tuple[mx.array, mx.array]:
        """Compute the layer together with its attention weights.

        Args:
            x: Hidden states, (B, L, D).
            mask: True for visible keys, (B, 1, 1, L), or None.
            bias: None.

        Returns:
            The output (B, L, D) and the weights of the first chunk, which are those that transformers returns.
        """
        queries, keys, values = self._heads(x)
        ends = [(start, start + self.chunk) for start in range(0, x.shape[1], self.chunk)]
        # A chunk of padding has no visible key, which this function takes: its weights are all alike then.
        chunks = [
            attend_with_weights(
                queries[:, :, start:end],
                keys[:, :, start:end],
                values[:, :, start:end],
                self.scale,
                None if mask is None else mask[..., start:end],
                None,
            )
            for start, end in ends
        ]
        return self.out(merge_heads(mx.concatenate([one for one, _ in chunks], axis=2))), chunks[0][1]


class Convolution(nn.Module):
    """A 1D convolution over characters, an activation and a norm; its weights have torch's layout.

    Takes x (B, L, inputs) and returns (B, L', outputs) before the norm.

    Args:
        inputs: Input features.
        outputs: Output features.
        width: W.
        stride: Step between windows.
    """

    def __init__(self, inputs: int, outputs: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.weight = mx.zeros((outputs, inputs, width))
        self.bias = mx.zeros((outputs,))
        self.stride = stride

    def __call__(self, x: mx.array) -> mx.array:
        return mx.conv1d(x, self.weight.swapaxes(1, 2), stride=self.stride) + self.bias


class Downsampling(nn.Module):
    """Joins groups of R characters to one vector; the first character, [CLS], replaces the last group.

    Takes x (B, L, D) with L of R or more. Returns (B, M, D).

    Args:
        hidden_size: D.
        rate: R.
        activation: Function after the convolution.
        eps: Epsilon of the norm.
    """

    def __init__(self, hidden_size: int, rate: int, activation: Activation, eps: float) -> None:
        super().__init__()
        self.conv = Convolution(hidden_size, hidden_size, rate, rate)
        self.norm = LayerNorm(hidden_size, eps=eps)
        self.activation = activation

    def __call__(self, x: mx.array) -> mx.array:
        groups = self.activation(self.conv(x))[:, :-1]
        normed: mx.array = self.norm(mx.concatenate([x[:, :1], groups], axis=1))
        return normed


class Upsampling(nn.Module):
    """Joins each character with its group's vector, over a window of W characters.

    Takes characters (B, L, D) and groups (B, M, D), and returns (B, L, D).

    Args:
        hidden_size: D.
        rate: R.
        width: W.
        activation: Function after the convolution.
        eps: Epsilon of the norm.
    """

    def __init__(self, hidden_size: int, rate: int, width: int, activation: Activation, eps: float) -> None:
        super().__init__()
        self.conv = Convolution(2 * hidden_size, hidden_size, width)
        self.norm = LayerNorm(hidden_size, eps=eps)
        self.rate, self.width, self.activation = rate, width, activation

    def __call__(self, characters: mx.array, groups: mx.array) -> mx.array:
        # [CLS] stands in front of the groups; the last one serves what is left over, too.
        rows = mx.minimum(mx.arange(characters.shape[1]) // self.rate + 1, groups.shape[1] - 1)
        joined = mx.concatenate([characters, groups[:, rows]], axis=-1)
        before = (self.width - 1) // 2
        padded = mx.pad(joined, [(0, 0), (before, self.width - 1 - before), (0, 0)])
        normed: mx.array = self.norm(self.activation(self.conv(padded)))
        return normed


class CharacterEncoder(nn.Module):
    """CANINE: a layer over characters, a deep stack over groups of them, and a layer over characters again.

    Takes a TokenBatch, the recorder and `first_token`. Returns hidden states (B, L, D), or (B, 1, D) for `first_token`.
    The recorder keeps the deep stack's output as what the pooler reads.

    Args:
        embeddings: TokenBatch -> (B, L, D).
        first: Layer over characters, with attention inside chunks.
        downsampling: Characters to groups.
        layers: Layers of the deep stack.
        upsampling: Groups to characters.
        last: Layer over characters.
    """

    def __init__(
        self,
        embeddings: nn.Module,
        first: nn.Module,
        downsampling: Downsampling,
        layers: Sequence[nn.Module],
        upsampling: Upsampling,
        last: nn.Module,
    ) -> None:
        super().__init__()
        self.embeddings = embeddings
        self.first, self.last = [first], [last]
        self.downsampling, self.upsampling = downsampling, upsampling
        self.layers = list(layers)

    def __call__(self, batch: TokenBatch, recorder: OutputRecorder, first_token: bool = False) -> mx.array:
        length, rate = batch.ids.shape[1], self.upsampling.rate
        # transformers cannot compute less than one group; in a batch with longer texts it pads.
        batch = batch.padded(rate)
        mask = batch.key_mask()
        characters = _run(self.first, self.embeddings(batch), mask, recorder)
        groups = _run(self.layers, self.downsampling(characters), _group_mask(mask, rate), recorder)
        recorder.pooler_input = groups
        hidden = _run(self.last, self.upsampling(characters, groups), mask, recorder)
        return hidden[:, : 1 if first_token else length]


def _run(layers: Sequence[nn.Module], x: mx.array, mask: mx.array | None, recorder: OutputRecorder) -> mx.array:
    """Run layers, and record their input and each output."""
    recorder.record_hidden_state(x)
    for layer in layers:
        x = layer(x, mask, None, recorder)
        start_evaluation(x)
        recorder.record_hidden_state(x)
    return x


def _group_mask(mask: mx.array | None, rate: int) -> mx.array | None:
    """Return the mask of groups, (B, 1, 1, M): a group is visible if one of its characters is."""
    if mask is None:
        return None
    groups = mask.shape[-1] // rate
    # A maximum, since the mask of a batch with a text of padding only is one of floats.
    return mask[..., : groups * rate].reshape(*mask.shape[:-1], groups, rate).max(axis=-1)
