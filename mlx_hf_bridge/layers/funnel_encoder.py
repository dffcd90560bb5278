"""Funnel-Transformer's stack: blocks between which tokens are pooled, and a decoder that brings them back.

Source: Dai et al., arXiv 2006.03236; reference: transformers/models/funnel/modeling_funnel.py.

Axes: B texts, L tokens, M pooled tokens, D hidden size.
"""

from collections.abc import Sequence

import mlx.core as mx
import mlx.nn as nn

from mlx_hf_bridge.layers.encoder import OutputRecorder
from mlx_hf_bridge.layers.funnel import FunnelBlock, FunnelLayer, Pooling, Tokens
from mlx_hf_bridge.layers.heads import HeadOutputs, TokenTable
from mlx_hf_bridge.layers.token_batch import TokenBatch


class FunnelEncoder(nn.Module):
    """Blocks of layers, and a decoder if there is one.

    Takes a TokenBatch, the recorder and `first_token`. Returns hidden states, (B, L, D) with a decoder and (B, M, D)
    without one, or (B, 1, D) for `first_token`. The recorder keeps the last block's output as what the pooler reads.

    Args:
        embeddings: TokenBatch -> (B, L, D).
        blocks: The blocks.
        repeats: How often each layer of a block is run.
        pooling: How tokens are pooled between blocks.
        decoder: Layers of the decoder, or None for an encoder without it.
    """

    def __init__(
        self,
        embeddings: nn.Module,
        blocks: Sequence[FunnelBlock],
        repeats: Sequence[int],
        pooling: Pooling,
        decoder: Sequence[FunnelLayer] | None,
    ) -> None:
        super().__init__()
        self.embeddings = embeddings
        self.blocks = list(blocks)
        if decoder is not None:
            self.decoder = list(decoder)
        self._repeats, self._pooling = tuple(repeats), pooling

    def __call__(self, batch: TokenBatch, recorder: OutputRecorder, first_token: bool = False) -> mx.array:
        length = batch.ids.shape[1]
        # In transformers such a text fails, unless it is in a batch with longer ones.
        batch = batch.padded(self._pooling.shortest(len(self.blocks)))
        states = self._run_blocks(batch, recorder)
        recorder.pooler_input = states[-1]
        if "decoder" not in self:
            return states[-1][:, :1] if first_token else states[-1]
        # The reference takes the state with the number of the first block's layers, also where they are repeated.
        hidden = self._upsample(states[-1], batch.ids.shape[1]) + states[len(self.blocks[0].layers)]
        recorder.record_hidden_state(hidden)
        tokens = Tokens(batch, hidden.shape[-1], self._pooling)
        pairs = tokens.pairs(tokens.places, 0)
        for layer in self.decoder:
            hidden = layer(hidden, hidden, pairs, recorder)
        return hidden[:, : 1 if first_token else length]

    def _run_blocks(self, batch: TokenBatch, recorder: OutputRecorder) -> list[mx.array]:
        """Return the embeddings and the output of each layer."""
        pooling = self._pooling
        hidden: mx.array = self.embeddings(batch)
        recorder.record_hidden_state(hidden)
        states = [hidden]
        tokens = Tokens(batch, hidden.shape[-1], pooling)
        for index, (block, repeats) in enumerate(zip(self.blocks, self._repeats, strict=True)):
            pools = index > 0 and hidden.shape[1] > (2 if pooling.separate_cls else 1)
            if pools:
                places, pooled = pooling.stride(tokens.places), pooling.pool_hidden(hidden)
                real = None if tokens.real is None else pooling.pool(tokens.real, "min")
                if not pooling.queries_only:
                    hidden = pooled
                    tokens.pool(places, real)
            else:
                places, pooled, real = tokens.places, hidden, tokens.real
            pairs = tokens.pairs(places, index)
            for layer in [one for one in block.layers for _ in range(repeats)]:
                hidden = layer(pooled, hidden, pairs, recorder)
                if pooled.shape[1] != len(tokens.places):
                    tokens.pool(places, real)
                    pairs = tokens.pairs(places, index)
                pooled = hidden
                states.append(hidden)
        return states

    def _upsample(self, x: mx.array, length: int) -> mx.array:
        """Repeat pooled tokens (B, M, D) to (B, L, D)."""
        pooling, repeats = self._pooling, 2 ** (len(self.blocks) - 1)
        if repeats == 1:
            return x
        first = 1 if pooling.separate_cls else 0
        rows = mx.repeat(x[:, first:], repeats, axis=1)
        if pooling.separate_cls and pooling.truncates:
            rows = mx.pad(rows, [(0, 0), (0, repeats - 1), (0, 0)])
        return mx.concatenate([x[:, :first], rows[:, : length - first]], axis=1)


class PooledHead(nn.Module):
    """A head that reads the pooled output as if it were a text's only token.

    Returns what `head` returns.

    Args:
        head: The head.
    """

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def __call__(self, hidden: mx.array, pooled: mx.array, batch: TokenBatch, table: TokenTable) -> HeadOutputs:
        outputs: HeadOutputs = self.head(pooled[:, None], None, batch, table)
        return outputs
