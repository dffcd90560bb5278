"""LongT5's attention: to the tokens nearby, and in one variant to the sums of blocks of tokens too.

Source: Guo et al., arXiv 2112.07916; reference: transformers/models/longt5/modeling_longt5.py.

Axes: B texts, L tokens, D hidden size, H heads, K head width, R tokens of a block, N blocks of a text, G global tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_hf_bridge.layers.attention import Attention, buckets_of, relative_buckets
from mlx_hf_bridge.layers.encoder import Encoder
from mlx_hf_bridge.layers.linear import Embedding
from mlx_hf_bridge.layers.token_batch import TokenBatch

# What transformers adds to the scores of hidden keys. A padded query sees none, so that its weights are equal.
_HIDDEN = -1e10


@dataclass(frozen=True)
class LongContext:
    """What all layers share of a batch.

    Args:
        bias: Added to the scores, (B, N, H, R, 3 R + G), float32.
        members: 1 for the tokens of each global token's block, (B, G, L), or None without global tokens.
    """

    bias: mx.array
    members: mx.array | None


class LongBias(nn.Module):
    """Position biases and masks of LongT5's attention.

    Takes a TokenBatch and returns a LongContext.

    Args:
        heads: H.
        buckets: Buckets of distances, half of them for later keys.
        max_distance: Distance from which on all keys share the last bucket of their side.
        radius: How far a token sees; a block has one token more.
        block: Tokens that one global token sums up; 0 for no global tokens.
    """

    def __init__(self, heads: int, buckets: int, max_distance: int, radius: int, block: int = 0) -> None:
        super().__init__()
        self.table = Embedding(buckets, heads)
        if block:
            self.global_table = Embedding(buckets, heads)
        self._buckets, self._max_distance = buckets, max_distance
        self._size, self._block = radius + 1, block

    def __call__(self, batch: TokenBatch) -> LongContext:
        mask = np.ones(batch.ids.shape, bool) if batch.mask is None else np.array(batch.mask)
        size = self._size
        rows = relative_buckets(3 * size, self._buckets, self._max_distance)[size : 2 * size]
        near = self.table(rows).transpose(2, 0, 1)[None, None] + mx.array(_local_mask(mask, size))
        if not self._block or mask.shape[1] < self._block:
            return LongContext(near, None)
        ids = block_ids(mask, self._block)
        numbers = np.arange(mask.shape[1] // self._block)
        far = self.global_table(buckets_of(mx.array(ids[..., None] - numbers), self._buckets, self._max_distance))
        # As in transformers, padding sees the global tokens that texts do not have.
        exists = numbers <= ids.max(axis=1, keepdims=True)
        hidden = np.where(mask[:, :, None] == exists[:, None], np.float32(0), np.float32(_HIDDEN))
        far = far + mx.array(hidden)[..., None]  # (B, L, G, H)
        bias = _to_blocks(far.transpose(0, 3, 1, 2), size).swapaxes(1, 2)
        near = mx.broadcast_to(near, (*bias.shape[:-1], near.shape[-1]))
        members = mx.array((ids[:, None] == numbers[:, None]).astype(np.float32))
        return LongContext(mx.concatenate([near, bias], axis=-1), members)


def block_ids(mask: np.ndarray, block: int) -> np.ndarray:
    """Return the global token of each token, as `_make_global_fixed_block_ids` does.

    Args:
        mask: True for tokens, (B, L).
        block: Tokens of a block.

    Returns:
        int32 array (B, L); -1 for padding, and for texts without a whole block. Tokens after the last whole block
        belong to that.
    """
    length = mask.shape[1]
    # In the order of torch's sums, which are rounded to float32.
    step = np.float32(1 / block)
    numbers = np.floor(np.cumsum(np.full(length, step, np.float64)).astype(np.float32) - step).astype(np.int32)
    found = np.where(mask, numbers, -1)
    whole = ((np.arange(length) % block == block - 1) & (found >= 0)).sum(axis=1, keepdims=True) - 1
    blocks: np.ndarray = np.minimum(found, whole)
    return blocks.astype(np.int32)


def _local_mask(mask: np.ndarray, size: int) -> np.ndarray:
    """Return 0 for the keys that a query sees, and _HIDDEN for others, (B, N, 1, R, 3 R)."""
    texts, length = mask.shape
    blocks = -(-length // size)
    padded = np.zeros((texts, (blocks + 2) * size), bool)
    padded[:, size : size + length] = mask
    queries = padded[:, size:-size].reshape(texts, blocks, size)
    keys = np.stack([padded[:, start * size : (start + 3) * size] for start in range(blocks)], axis=1)
    distance = np.arange(3 * size)[None] - np.arange(size, 2 * size)[:, None]
    visible = queries[..., None] & keys[:, :, None] & (np.abs(distance) < size)
    hidden: np.ndarray = np.where(visible, np.float32(0), np.float32(_HIDDEN))
    return hidden[:, :, None]


def _to_blocks(x: mx.array, size: int) -> mx.array:
    """Return (B, H, L, K) as (B, H, N, R, K), with zeros after the last token."""
    length = x.shape[2]
    padded = mx.pad(x, [(0, 0), (0, 0), (0, -length % size), (0, 0)])
    return padded.reshape(*x.shape[:2], -1, size, x.shape[-1])


def _with_neighbors(blocks: mx.array) -> mx.array:
    """Return each block with the one before and the one after it, (B, H, N, 3 R, K)."""
    padded = mx.pad(blocks, [(0, 0), (0, 0), (1, 1), (0, 0), (0, 0)])
    return mx.concatenate([padded[:, :, :-2], padded[:, :, 1:-1], padded[:, :, 2:]], axis=3)


class LongAttention(Attention):
    """Attention to the tokens nearby and to global tokens, the normalized sums of blocks of the layer's inputs.

    Takes x (B, L, D), a mask that is ignored, and a LongContext. Returns (B, L, D).

    Args:
        hidden_size: D.
        heads: H.
        head_dim: K.
        size: R.
        global_norm: Norm of global tokens; None for no global tokens.
    """

    def __init__(self, hidden_size: int, heads: int, head_dim: int, size: int, global_norm: nn.Module | None) -> None:
        super().__init__(hidden_size, heads, head_dim, bias=False, scaled=False)
        self._size = size
        if global_norm is not None:
            self.global_norm = global_norm

    def __call__(self, x: mx.array, mask: mx.array | None, context: LongContext) -> mx.array:  # type: ignore[override]
        return self.with_weights(x, mask, context)[0]

    def with_weights(  # type: ignore[override]
        self, x: mx.array, mask: mx.array | None, context: LongContext
    ) -> tuple[mx.array, mx.array]:
        """Compute the layer together with its attention weights.

        Args:
            x: Hidden states, (B, L, D).
            mask: Not used.
            context: Biases, masks and global tokens.

        Returns:
            The output (B, L, D) and the attention weights by block (B, N, H, R, 3 R + G), as in transformers.
        """
        queries, keys, values = (_to_blocks(part, self._size) for part in self._heads(x))
        keys, values = _with_neighbors(keys), _with_neighbors(values)
        if context.members is not None:
            sums = self.global_norm(context.members.astype(x.dtype) @ x).astype(x.dtype)
            keys, values = (
                mx.concatenate([near, mx.broadcast_to(far[:, :, None], (*near.shape[:3], *far.shape[2:]))], axis=3)
                for near, far in zip((keys, values), self._heads(sums)[1:], strict=True)
            )
        scores = (queries @ keys.swapaxes(-1, -2)).astype(mx.float32) + context.bias.swapaxes(1, 2)
        weights = mx.softmax(scores, axis=-1).astype(values.dtype)
        attended = (weights @ values).swapaxes(1, 2).swapaxes(2, 3)  # (B, N, R, H, K)
        joined = attended.reshape(x.shape[0], -1, attended.shape[3] * attended.shape[4])
        return self.out(joined[:, : x.shape[1]]), weights.swapaxes(1, 2)


class LongEncoder(Encoder):
    """An encoder whose layers get a LongContext.

    Takes a TokenBatch and the recorder, and returns (B, L, D).

    Args:
        embeddings: The embeddings.
        layers: The layers.
        context: Makes the LongContext of a batch.
        final_norm: Norm after the last layer.
    """

    def __init__(
        self, embeddings: nn.Module, layers: Sequence[nn.Module], context: LongBias, final_norm: nn.Module
    ) -> None:
        super().__init__(embeddings, layers, final_norm=final_norm, attention_mask=lambda batch: None)
        self.context = context

    def _bias(self, batch: TokenBatch, length: int) -> LongContext:
        found: LongContext = self.context(batch)
        return found
