"""Heads in parts: hidden states are pooled and transformed, then passed to a head of layers/heads.py.

Sources: the heads of ModernBERT, ESM, EuroBERT and DeBERTa in transformers; Splinter's question-aware span selection
(Ram et al., arXiv 2101.00438, section 4).

Axes: B texts, L tokens, D hidden size, C classes, V vocabulary size.
"""

from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn

from mlx_hf_bridge.layers.activations import Activation, gelu
from mlx_hf_bridge.layers.heads import (
    EOSPooler,
    HeadOutputs,
    LastPositionPooler,
    TokenTable,
    take_last_position,
)
from mlx_hf_bridge.layers.linear import Linear
from mlx_hf_bridge.layers.norm import LayerNorm
from mlx_hf_bridge.layers.token_batch import TokenBatch

Pool = Callable[[mx.array, TokenBatch], mx.array]


def take_first_position(hidden: mx.array, batch: TokenBatch) -> mx.array:
    """Return the hidden state at position 0, even if it is padding.

    Args:
        hidden: Hidden states, (B, L, D).
        batch: The batch.

    Returns:
        Array of shape (B, D).
    """
    return batch.first_tokens(hidden)


def take_first_unmasked(hidden: mx.array, batch: TokenBatch) -> mx.array:
    """Return the hidden state of the first token that is not padding.

    Args:
        hidden: Hidden states, (B, L, D).
        batch: The batch, whose mask is read.

    Returns:
        Array of shape (B, D).
    """
    if batch.mask is None:
        return batch.first_tokens(hidden)
    # argmax returns the first maximum, so this is right for padding on either side.
    return batch.take(hidden, mx.argmax(batch.mask.astype(mx.int32), axis=1))


def mean_pool(hidden: mx.array, batch: TokenBatch) -> mx.array:
    """Return the mean over real tokens, summed in float32; 0 for a row of padding.

    Args:
        hidden: Hidden states, (B, L, D).
        batch: The batch, whose mask is read.

    Returns:
        Array of shape (B, D) and the dtype of `hidden`.
    """
    mask = batch.token_mask(mx.float32)
    # In float32: a long text's sum exceeds half precision. Chosen and not multiplied: padding may be infinite.
    total = mx.where(mask > 0, hidden.astype(mx.float32), 0).sum(axis=1)
    mean = total / mx.maximum(mask.sum(axis=1), 1)
    return mean.astype(hidden.dtype)


class EndTokenClassifier(nn.Module):
    """BART's classifier: linear layer, tanh and linear layer of the last end token of each text.

    Returns "logits" of shape (B, C).

    Args:
        hidden_size: D.
        classes: C.
        eos_token_id: Id of the end token, which every text contains.
    """

    def __init__(self, hidden_size: int, classes: int, eos_token_id: int) -> None:
        super().__init__()
        self.dense = Linear(hidden_size, hidden_size)
        self.out = Linear(hidden_size, classes)
        self.eos_token_id = eos_token_id

    def __call__(self, hidden: mx.array, pooled: mx.array | None, batch: TokenBatch, table: TokenTable) -> HeadOutputs:
        is_end = (batch.ids == self.eos_token_id).astype(mx.int32)
        last = mx.argmax(is_end * mx.arange(is_end.shape[1], dtype=mx.int32), axis=1)
        return {"logits": self.out(mx.tanh(self.dense(batch.take(hidden, last))))}


def question_mask(ids: mx.array, separator: int) -> mx.array:
    """Return which tokens belong to the question: those up to the first separator, or the first one without any.

    Args:
        ids: Token ids, (B, L).
        separator: Id of the separator.

    Returns:
        Bool array of shape (B, L).
    """
    ends = mx.argmax((ids == separator).astype(mx.int32), axis=1)
    return mx.arange(ids.shape[1], dtype=mx.uint32)[None] <= ends[:, None]


class QuestionSpanClassifier(nn.Module):
    """BigBird's question answering head: a feed-forward block, a norm and a linear layer on every token.

    Returns "start_logits" and "end_logits", (B, L) each; those of the question's tokens, except the first, are lower
    by 1e6.

    Args:
        block: The feed-forward block, (B, L, D) -> (B, L, D).
        norm: Norm of the sum of hidden states and block.
        hidden_size: D.
        separator: Id of the token that ends the question.
    """

    def __init__(self, block: nn.Module, norm: nn.Module, hidden_size: int, separator: int) -> None:
        super().__init__()
        self.block, self.norm = block, norm
        self.out = Linear(hidden_size, 2)
        self.separator = separator

    def __call__(self, hidden: mx.array, pooled: mx.array | None, batch: TokenBatch, table: TokenTable) -> HeadOutputs:
        spans = self.out(self.norm(self.block(hidden) + hidden))  # (B, L, 2)
        if batch.inputs_embeds is None:
            hides = mx.logical_and(question_mask(batch.ids, self.separator), mx.arange(hidden.shape[1]) > 0)
            # In float32, as half precision ends below 1e6.
            spans = spans.astype(mx.float32) - 1e6 * hides[:, :, None]
        return {"start_logits": spans[..., 0], "end_logits": spans[..., 1]}


class Transform(nn.Module):
    """A linear layer, an activation and an optional norm.

    Takes x (..., D) and returns (..., D).

    Args:
        hidden_size: D.
        activation: Function after the linear layer.
        norm: Norm after the activation, or None.
        bias: Whether the linear layer has a bias.
    """

    def __init__(
        self, hidden_size: int, activation: Activation, norm: nn.Module | None = None, bias: bool = True
    ) -> None:
        super().__init__()
        self.dense = Linear(hidden_size, hidden_size, bias)
        self.activation = activation
        if norm is not None:
            self.norm = norm

    def __call__(self, x: mx.array) -> mx.array:
        x = self.activation(self.dense(x))
        return self.norm(x) if "norm" in self else x


class TransformedHead(nn.Module):
    """A head whose hidden states are pooled and transformed first.

    Returns what `head` returns.

    Args:
        transform: Applied to the (pooled) hidden states, (..., D) -> (..., D).
        head: The head that follows.
        pool: Pools hidden states (B, L, D) to (B, D) before the transform; None to keep all tokens.
        pool_outputs: Pools the head's outputs of every token, (B, L, C) to (B, C); None to keep them.
    """

    def __init__(
        self, transform: Activation, head: nn.Module, pool: Pool | None = None, pool_outputs: Pool | None = None
    ) -> None:
        super().__init__()
        self.transform = transform
        self.head = head
        self.pool = pool
        self.pool_outputs = pool_outputs

    def __call__(self, hidden: mx.array, pooled: mx.array | None, batch: TokenBatch, table: TokenTable) -> HeadOutputs:
        x = hidden if self.pool is None else self.pool(hidden, batch)
        outputs: HeadOutputs = self.head(self.transform(x), pooled, batch, table)
        if self.pool_outputs is None:
            return outputs
        return {name: self.pool_outputs(output, batch) for name, output in outputs.items()}


class LMHead(nn.Module):
    """The scores of all tokens, by the token embedding table or by a decoder.

    Returns "logits" of shape (B, L, V).

    Args:
        width: Width of hidden states and embeddings, D.
        vocabulary: V.
        tied: Whether scores are dot products with the token embedding table; otherwise the head has a decoder.
        bias: Whether scores have a bias.
        separate_bias: Whether the bias belongs to the head even if there is a decoder (ESM).
    """

    def __init__(self, width: int, vocabulary: int, tied: bool, bias: bool = True, separate_bias: bool = False) -> None:
        super().__init__()
        if not tied:
            self.decoder = Linear(width, vocabulary, bias and not separate_bias)
        if bias and (tied or separate_bias):
            self.bias = mx.zeros((vocabulary,))

    def __call__(self, hidden: mx.array, pooled: mx.array | None, batch: TokenBatch, table: TokenTable) -> HeadOutputs:
        scores = self.decoder(hidden) if "decoder" in self else table.scores(hidden)
        return {"logits": scores + self.bias if "bias" in self else scores}


class QuestionAwareBoundary(nn.Module):
    """The scores of every token as the start, or as the end, of a question's answer.

    Takes the question's representation (B, D) and hidden states (B, L, D). Returns (B, L).

    Args:
        hidden_size: D.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.question = Transform(hidden_size, gelu, LayerNorm(hidden_size))
        self.tokens = Transform(hidden_size, gelu, LayerNorm(hidden_size))
        self.out = Linear(hidden_size, hidden_size, bias=False)

    def __call__(self, question: mx.array, hidden: mx.array) -> mx.array:
        return (self.tokens(hidden) @ self.out(self.question(question))[:, :, None])[:, :, 0]


class QuestionAwareSpans(nn.Module):
    """Splinter's span head: the first [QUESTION] token scores where its answer starts and ends.

    Returns "start_logits" and "end_logits", both of shape (B, L); padded positions have the dtype's lowest number, as
    in transformers. A text without a [QUESTION] token uses position 0.

    Args:
        hidden_size: D.
        question_token_id: Id of the [QUESTION] token.
    """

    def __init__(self, hidden_size: int, question_token_id: int) -> None:
        super().__init__()
        self.start = QuestionAwareBoundary(hidden_size)
        self.end = QuestionAwareBoundary(hidden_size)
        self.question_token_id = question_token_id

    def __call__(self, hidden: mx.array, pooled: mx.array | None, batch: TokenBatch, table: TokenTable) -> HeadOutputs:
        question = batch.take(hidden, self._question_positions(batch))  # (B, D)
        outputs = {"start_logits": self.start(question, hidden), "end_logits": self.end(question, hidden)}
        if batch.mask is None:
            return outputs
        # transformers' value for padded positions, which is finite.
        lowest = mx.array(mx.finfo(hidden.dtype).min, hidden.dtype)
        return {name: mx.where(batch.mask, scores, lowest) for name, scores in outputs.items()}

    def _question_positions(self, batch: TokenBatch) -> mx.array:
        if batch.inputs_embeds is not None:
            # Embeddings have no [QUESTION] id to look for; transformers takes position 0 then.
            return mx.zeros(batch.ids.shape[0], mx.int32)
        return mx.argmax((batch.ids == self.question_token_id).astype(mx.int32), axis=1)


# Ids that heads and poolers look for among the ids of a text, by attribute.
_SOUGHT = ("eos_token_id", "question_token_id")


def depends_on_padding(part: nn.Module, pad_token_id: int) -> bool:
    """Return whether padding at the end of a text may change the outputs of a pooler or head.

    Args:
        part: The pooler or head.
        pad_token_id: The id of the padding.

    Returns:
        True if the last position is read, even if it is padding, or an id is looked for that padding may have.
    """
    for module in part.modules():
        if isinstance(module, LastPositionPooler) or getattr(module, "pool", None) is take_last_position:
            return True
        if any(getattr(module, name, None) == pad_token_id for name in _SOUGHT):
            return True
        # For old configs of CLIP, the largest id of a text is looked for.
        if isinstance(module, EOSPooler) and module.takes_highest_id:
            return True
    return False
