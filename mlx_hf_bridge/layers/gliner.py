"""GLiNER's head: scores of labels for spans of words, or for words, from the hidden states of an encoder.

Reference: gliner/modeling/base.py and layers.py of gliner 0.2.29.

Axes: B texts, L tokens, W words, S tokens of a word, K widths of a span, C labels, D hidden size of the head, H heads.
"""

from collections.abc import Sequence

import mlx.core as mx
import mlx.nn as nn

from mlx_hf_bridge.layers.linear import Linear
from mlx_hf_bridge.layers.lstm import BidirectionalLSTM
from mlx_hf_bridge.layers.norm import LayerNorm
from mlx_hf_bridge.layers.spans import Projection, Scorer, SpanMarker, pool_words
from mlx_hf_bridge.layers.token_batch import TokenBatch

# Names of the extra inputs of a batch: the tokens of each word (B, W, S) and the number of words (B,); the positions of
# the labels' tokens (B, C), or the labels' embeddings (B, C, D) of another encoder; which labels are real (B, C).
WORD_TOKENS, WORD_COUNTS = "word_tokens", "word_counts"
LABEL_TOKENS, LABEL_EMBEDDINGS, LABEL_MASK = "label_tokens", "label_embeddings", "label_mask"
# torch.nn.LayerNorm's default.
_NORM_EPS = 1e-5


class FusionAttention(nn.Module):
    """Attention of a sequence to itself or to another, between two norms.

    Takes queries (B, Q, D), keys (B, N, D) or None for the queries themselves, and a mask (B, N); returns (B, Q, D).

    Args:
        size: D.
        heads: H.
        is_self: Whether the sequence attends to itself, with linear layers of its own before those of the attention.
    """

    def __init__(self, size: int, heads: int, is_self: bool) -> None:
        super().__init__()
        self._heads = heads
        self.pre_norm, self.post_norm = LayerNorm(size, eps=_NORM_EPS), LayerNorm(size, eps=_NORM_EPS)
        self.query, self.key, self.value = (Linear(size, size) for _ in range(3))
        self.value_input = Linear(size, size)
        if is_self:
            self.query_input, self.key_input = Linear(size, size), Linear(size, size)

    def __call__(self, x: mx.array, others: mx.array | None, mask: mx.array) -> mx.array:
        x = self.pre_norm(x)
        if others is None:
            queries, keys, values = self.query_input(x), self.key_input(x), self.value_input(x)
        else:
            queries, keys, values = x, others, self.value_input(others)
        attended = mx.fast.scaled_dot_product_attention(
            self._split(self.query(queries)),
            self._split(self.key(keys)),
            self._split(self.value(values)),
            scale=(x.shape[-1] // self._heads) ** -0.5,
            mask=mask[:, None, None, :],
        )
        joined = attended.swapaxes(1, 2).reshape(x.shape)
        result: mx.array = self.post_norm(x + joined)
        return result

    def _split(self, x: mx.array) -> mx.array:
        return x.reshape(*x.shape[:2], self._heads, -1).swapaxes(1, 2)


class CrossFuser(nn.Module):
    """Labels and words that attend to themselves and to each other, as `post_fusion_schema` says.

    Takes labels (B, C, D), words (B, W, D) and the masks of both, and returns both.

    Args:
        size: D.
        heads: H.
        num_layers: How many times the steps are repeated, with weights of their own.
        steps: "l2l", "t2t", "l2t" or "t2l" each: who attends to whom, "l" the labels and "t" the text.
    """

    def __init__(self, size: int, heads: int, num_layers: int, steps: Sequence[str]) -> None:
        super().__init__()
        self._steps = [
            (step, f"layer{layer}_{index}") for layer in range(num_layers) for index, step in enumerate(steps)
        ]
        for step, name in self._steps:
            self[name] = FusionAttention(size, heads, is_self=step[0] == step[-1])

    def __call__(
        self, labels: mx.array, words: mx.array, label_mask: mx.array, word_mask: mx.array
    ) -> tuple[mx.array, mx.array]:
        for step, name in self._steps:
            attention = self[name]
            if step == "l2l":
                labels = attention(labels, None, label_mask)
            elif step == "t2t":
                words = attention(words, None, word_mask)
            elif step == "l2t":
                labels = attention(labels, words, word_mask)
            else:
                words = attention(words, labels, label_mask)
        return labels, words


class GLiNERHead(nn.Module):
    """The head of a GLiNER model.

    Takes hidden states (B, L, D) and the batch with the extra inputs named above; the pooled output and the token table
    are not used. Returns {"logits"}: (B, W, K, C) for spans that start at a word and are 1 to K words long, or
    (B, W, C, 3) for the start, the end and the inside of an entity. What is beyond the words or labels of a text is
    meaningless.

    Args:
        pooling: How the tokens of a word become one vector, a name in SUBTOKEN_POOLING.
        scorer: Scores words; None where spans are scored.
        spans: Vectors of spans, for which `prompt` is needed too; None where words are scored.
        prompt: Layers after the labels' vectors.
        projection: Layer after the hidden states, where the encoder has another width than the head.
        labels_projection: The same for embeddings of labels from an encoder of their own.
        rnn: LSTM over the words.
        fuser: Attention between words and labels.
    """

    def __init__(
        self,
        pooling: str,
        scorer: Scorer | None = None,
        spans: SpanMarker | None = None,
        prompt: Projection | None = None,
        projection: Linear | None = None,
        labels_projection: Linear | None = None,
        rnn: BidirectionalLSTM | None = None,
        fuser: CrossFuser | None = None,
    ) -> None:
        super().__init__()
        self._pooling = pooling
        parts = {
            "scorer": scorer,
            "spans": spans,
            "prompt": prompt,
            "projection": projection,
            "labels_projection": labels_projection,
            "rnn": rnn,
            "fuser": fuser,
        }
        for name, part in parts.items():
            if part is not None:
                self[name] = part

    def __call__(
        self, hidden: mx.array, pooled: mx.array | None, batch: TokenBatch, table: nn.Module
    ) -> dict[str, mx.array]:
        extra = batch.extra_inputs
        if "projection" in self:
            hidden = self.projection(hidden)
        words, counts = pool_words(hidden, extra[WORD_TOKENS], self._pooling), extra[WORD_COUNTS]
        if (labels := extra.get(LABEL_EMBEDDINGS)) is None:
            labels = mx.take_along_axis(hidden, extra[LABEL_TOKENS][:, :, None], axis=1)
        labels = labels.astype(words.dtype)
        if "rnn" in self:
            words = self.rnn(words, counts)
        if "fuser" in self:
            word_mask = mx.arange(words.shape[1])[None] < counts[:, None]
            labels, words = self.fuser(labels, words, extra[LABEL_MASK], word_mask)
        if "scorer" in self:
            return {"logits": self.scorer(words, labels)}
        spans = self.spans(words, counts)
        flat = spans.reshape(len(spans), -1, spans.shape[-1])
        scores = flat @ self.prompt(labels).swapaxes(1, 2)
        return {"logits": scores.reshape(*spans.shape[:3], -1)}

    def embed_labels(self, pooled: mx.array) -> mx.array:
        """Return the embeddings of labels in the head's width.

        Args:
            pooled: Embeddings of the labels' own encoder, (C, width of that encoder).

        Returns:
            Array of shape (C, D).
        """
        projected: mx.array = self.labels_projection(pooled) if "labels_projection" in self else pooled
        return projected
