"""Poolers, and task heads that turn hidden states into named outputs.

Sources: the poolers and heads of BERT, RoBERTa, ELECTRA, XLM and CLIP in transformers.

Axes: B texts, L tokens, D hidden size, C classes, E embedding width, V vocabulary size, P width of a projection.

A pooler takes hidden states (B, L, D) and the TokenBatch. A head takes hidden states (B, L, D), the pooler's output
(B, D) or None, the TokenBatch, and the token embedding table; it returns outputs by their names in transformers.
"""

import mlx.core as mx
import mlx.nn as nn

from mlx_hf_bridge.layers.activations import Activation
from mlx_hf_bridge.layers.linear import Embedding, Linear, QuantizedEmbedding
from mlx_hf_bridge.layers.norm import LayerNorm
from mlx_hf_bridge.layers.token_batch import TokenBatch

HeadOutputs = dict[str, mx.array]
TokenTable = Embedding | QuantizedEmbedding

# Before pull request 24773 of transformers, CLIP's config.json said eos_token_id 2, whatever the tokenizer's id was.
LEGACY_EOS = 2


class Pooler(nn.Module):
    """BERT's pooler: the tanh of a linear layer of position 0.

    Takes hidden states (B, L, D) and the batch. Returns (B, D).

    Args:
        hidden_size: D.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.dense = Linear(hidden_size, hidden_size)

    def __call__(self, hidden: mx.array, batch: TokenBatch) -> mx.array:
        return mx.tanh(self.dense(batch.first_tokens(hidden)))


class FirstTokenPooler(nn.Module):
    """DPR's pooler: the hidden state of position 0, projected by a linear layer if there is one.

    Takes hidden states (B, L, D) and the batch. Returns (B, D), or (B, P).

    Args:
        hidden_size: D.
        projection: Width of the linear layer, P; 0 for no layer.
    """

    def __init__(self, hidden_size: int, projection: int = 0) -> None:
        super().__init__()
        if projection:
            self.dense = Linear(hidden_size, projection)

    def __call__(self, hidden: mx.array, batch: TokenBatch) -> mx.array:
        first = batch.first_tokens(hidden)
        projected: mx.array = self.dense(first) if "dense" in self else first
        return projected


class EOSPooler(nn.Module):
    """CLIP's pooler: the hidden state of the first end-of-text token, or of position 0 if a text has none.

    Takes hidden states (B, L, D) and the batch. Returns (B, D).

    Args:
        eos_token_id: Id of the end-of-text token.
        has_legacy_id: Whether an id of 2 is the wrong one of CLIP's old files, for which the token with the highest id
            of the text is taken, as in transformers; False for MetaCLIP 2, whose id is 2.
    """

    def __init__(self, eos_token_id: int, has_legacy_id: bool = True) -> None:
        super().__init__()
        self.eos_token_id = eos_token_id
        self.takes_highest_id = has_legacy_id and eos_token_id == LEGACY_EOS

    def __call__(self, hidden: mx.array, batch: TokenBatch) -> mx.array:
        # For old configs transformers takes the largest id of a row, which is the end token in CLIP's vocabulary.
        is_end = batch.ids if self.takes_highest_id else (batch.ids == self.eos_token_id).astype(mx.int32)
        # argmax returns the first maximum: the first end token, or 0 if there is none.
        return batch.take(hidden, mx.argmax(is_end, axis=1))


class LastPositionPooler(nn.Module):
    """SigLIP's pooler: a linear layer of the last position, even if it is padding.

    Takes hidden states (B, L, D) and the batch. Returns (B, P).

    Args:
        hidden_size: D.
        width: Width of the projection, P.
    """

    def __init__(self, hidden_size: int, width: int) -> None:
        super().__init__()
        self.out = Linear(hidden_size, width)

    def __call__(self, hidden: mx.array, batch: TokenBatch) -> mx.array:
        return self.out(take_last_position(hidden, batch))


def take_last_position(hidden: mx.array, batch: TokenBatch) -> mx.array:
    """Return the hidden state at the last position, even if it is padding.

    Args:
        hidden: Hidden states, (B, L, D).
        batch: The batch; not used.

    Returns:
        Array of shape (B, D).
    """
    # SigLIP is trained on texts padded to one length, so its last position is often padding on purpose.
    return hidden[:, -1]


class PooledClassifier(nn.Module):
    """A linear layer on the pooler's output, for sequence classification and similar tasks.

    Returns one output of shape (B, C).

    Args:
        hidden_size: D.
        classes: C.
        output_name: Name of the output.
    """

    def __init__(self, hidden_size: int, classes: int, output_name: str = "logits") -> None:
        super().__init__()
        self.out = Linear(hidden_size, classes)
        self.output_name = output_name

    def __call__(self, hidden: mx.array, pooled: mx.array | None, batch: TokenBatch, table: TokenTable) -> HeadOutputs:
        assert pooled is not None  # build_model() adds a pooler to every head that reads one
        return {self.output_name: self.out(pooled)}


class PooledProjection(nn.Module):
    """CLIP's projection of the pooler's output, without a bias, into the space that texts and images share.

    Returns "text_embeds" of shape (B, P).

    Args:
        hidden_size: D.
        width: P.
    """

    def __init__(self, hidden_size: int, width: int) -> None:
        super().__init__()
        self.out = Linear(hidden_size, width, bias=False)

    def __call__(self, hidden: mx.array, pooled: mx.array | None, batch: TokenBatch, table: TokenTable) -> HeadOutputs:
        # None where a caller has left out the pooler.
        return {} if pooled is None else {"text_embeds": self.out(pooled)}


class FirstTokenClassifier(nn.Module):
    """RoBERTa's classifier on position 0: linear layer, activation, linear layer.

    Returns "logits" of shape (B, C).

    Args:
        hidden_size: D.
        classes: C.
        activation: Function between the two layers.
    """

    def __init__(self, hidden_size: int, classes: int, activation: Activation) -> None:
        super().__init__()
        self.dense = Linear(hidden_size, hidden_size)
        self.out = Linear(hidden_size, classes)
        self.activation = activation

    def __call__(self, hidden: mx.array, pooled: mx.array | None, batch: TokenBatch, table: TokenTable) -> HeadOutputs:
        return {"logits": self.out(self.activation(self.dense(batch.first_tokens(hidden))))}


def reads_first_token(head: nn.Module, pooler: nn.Module | None) -> bool:
    """Return whether a head needs only position 0 of each text, so that the last layer may skip the others.

    Args:
        head: The head.
        pooler: The pooler that the head reads, or None.

    Returns:
        True if outputs of the head, and of the pooler that it reads, depend on position 0 only.
    """
    # A PooledClassifier may also read a pooler of another kind, such as one that looks for the end of the text.
    if isinstance(head, PooledClassifier):
        return isinstance(pooler, Pooler)
    return isinstance(head, FirstTokenClassifier)


class TokenClassifier(nn.Module):
    """A linear layer on every token, for token classification.

    Returns "logits" of shape (B, L, C).

    Args:
        hidden_size: D.
        classes: C.
    """

    def __init__(self, hidden_size: int, classes: int) -> None:
        super().__init__()
        self.out = Linear(hidden_size, classes)

    def __call__(self, hidden: mx.array, pooled: mx.array | None, batch: TokenBatch, table: TokenTable) -> HeadOutputs:
        return {"logits": self.out(hidden)}


class SpanClassifier(nn.Module):
    """A linear layer on every token, for extractive question answering.

    Returns "start_logits" and "end_logits", both of shape (B, L).

    Args:
        hidden_size: D.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.out = Linear(hidden_size, 2)

    def __call__(self, hidden: mx.array, pooled: mx.array | None, batch: TokenBatch, table: TokenTable) -> HeadOutputs:
        spans = self.out(hidden)  # (B, L, 2)
        return {"start_logits": spans[..., 0], "end_logits": spans[..., 1]}


class PassageReader(SpanClassifier):
    """DPR's reader: where the answer is in a passage, and whether it is there.

    Returns "start_logits" and "end_logits", both of shape (B, L), and "relevance_logits" of shape (B,).

    Args:
        hidden_size: D.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__(hidden_size)
        self.relevance = Linear(hidden_size, 1)

    def __call__(self, hidden: mx.array, pooled: mx.array | None, batch: TokenBatch, table: TokenTable) -> HeadOutputs:
        spans = super().__call__(hidden, pooled, batch, table)
        return {**spans, "relevance_logits": self.relevance(batch.first_tokens(hidden))[:, 0]}


class TokenDiscriminator(nn.Module):
    """ELECTRA's discriminator, which detects replaced tokens: linear layer, activation, linear layer to one number.

    Returns "logits" of shape (B, L).

    Args:
        hidden_size: D.
        activation: Function between the two layers.
    """

    def __init__(self, hidden_size: int, activation: Activation) -> None:
        super().__init__()
        self.dense = Linear(hidden_size, hidden_size)
        self.out = Linear(hidden_size, 1)
        self.activation = activation

    def __call__(self, hidden: mx.array, pooled: mx.array | None, batch: TokenBatch, table: TokenTable) -> HeadOutputs:
        return {"logits": self.out(self.activation(self.dense(hidden)))[..., 0]}


class MaskedLMHead(nn.Module):
    """BERT's masked-LM head: linear layer to the embedding width, activation, norm, and the scores of all tokens.

    Returns one output of shape (B, L, V).

    Args:
        hidden_size: D.
        width: Embedding width, E.
        vocabulary: V.
        activation: Function after the linear layer.
        eps: Epsilon of the layer norm.
        tied: Whether scores are dot products with the token embedding table, plus a bias; otherwise the head has a
            decoder.
        output_name: Name of the output.
        bias: Whether the linear layer and the scores have biases.
        decoder_bias: Whether the bias of the scores is the decoder's where there is one, and not the head's.
    """

    def __init__(
        self,
        hidden_size: int,
        width: int,
        vocabulary: int,
        activation: Activation,
        eps: float,
        tied: bool = True,
        output_name: str = "logits",
        bias: bool = True,
        decoder_bias: bool = True,
    ) -> None:
        super().__init__()
        self.dense = Linear(hidden_size, width, bias)
        self.norm = LayerNorm(width, eps=eps)
        self.activation = activation
        self.output_name = output_name
        if not tied:
            self.decoder = Linear(width, vocabulary, bias and decoder_bias)
        if bias and (tied or not decoder_bias):
            self.bias = mx.zeros((vocabulary,))

    def __call__(self, hidden: mx.array, pooled: mx.array | None, batch: TokenBatch, table: TokenTable) -> HeadOutputs:
        features = self.norm(self.activation(self.dense(hidden)))  # (B, L, E)
        scores = self.decoder(features) if "decoder" in self else table.scores(features)
        return {self.output_name: scores + self.bias if "bias" in self else scores}


class PreTrainingHeads(nn.Module):
    """BERT's pre-training heads: a masked-LM head and a sentence head.

    Returns the outputs of both.

    Args:
        masked_lm: The masked-LM head.
        sentence: The classifier of the pooled output.
    """

    def __init__(self, masked_lm: nn.Module, sentence: nn.Module) -> None:
        super().__init__()
        self.masked_lm = masked_lm
        self.sentence = sentence

    def __call__(self, hidden: mx.array, pooled: mx.array | None, batch: TokenBatch, table: TokenTable) -> HeadOutputs:
        return {**self.masked_lm(hidden, pooled, batch, table), **self.sentence(hidden, pooled, batch, table)}


class LastTokenClassifier(nn.Module):
    """A linear layer on the last token that is not padding (Qwen's and Gemma's sequence classifiers).

    Returns "logits" of shape (B, C).

    Args:
        hidden_size: D.
        classes: C.
        pad_token_id: Id by which padding is recognized, as in transformers; None to use the attention mask.
        bias: Whether the linear layer has a bias.
    """

    def __init__(self, hidden_size: int, classes: int, pad_token_id: int | None, bias: bool = False) -> None:
        super().__init__()
        self.out = Linear(hidden_size, classes, bias)
        self.pad_token_id = pad_token_id

    def __call__(self, hidden: mx.array, pooled: mx.array | None, batch: TokenBatch, table: TokenTable) -> HeadOutputs:
        if self.pad_token_id is None:
            last = last_token_positions(batch.token_mask(mx.int32)[:, :, 0])
        else:
            # For inputs_embeds the ids are placeholders other than padding, so every position counts as a token.
            last = last_token_positions((batch.ids != self.pad_token_id).astype(mx.int32))
        return {"logits": self.out(batch.take(hidden, last))}


class NextTokenScores(nn.Module):
    """The scores of all tokens as the one that follows each text's last token (causal language models).

    Returns "logits" of shape (B, 1, V): scores after every other token would take L times the memory.

    Args:
        hidden_size: D.
        vocabulary: V.
        tied: Whether scores are dot products with the token embedding table; otherwise the head has a decoder.
    """

    def __init__(self, hidden_size: int, vocabulary: int, tied: bool) -> None:
        super().__init__()
        if not tied:
            self.decoder = Linear(hidden_size, vocabulary, bias=False)

    def __call__(self, hidden: mx.array, pooled: mx.array | None, batch: TokenBatch, table: TokenTable) -> HeadOutputs:
        last = batch.take(hidden, last_token_positions(batch.token_mask(mx.int32)[:, :, 0]))
        return {"logits": (self.decoder(last) if "decoder" in self else table.scores(last))[:, None]}


def last_token_positions(is_token: mx.array) -> mx.array:
    """Return the largest position of each text that holds a token: right for padding on either side.

    Args:
        is_token: 1 for tokens, 0 for padding, (B, L), int32.

    Returns:
        Positions, (B,), int32; 0 for a text without tokens.
    """
    return mx.argmax(is_token * mx.arange(is_token.shape[1], dtype=mx.int32), axis=1)


class SummaryClassifier(nn.Module):
    """XLM's classifier (SequenceSummary): activation of a linear layer of position 0.

    Returns "logits" of shape (B, C), or (B, 1) for multiple choice.

    Args:
        hidden_size: D.
        classes: C.
        activation: Function after the linear layer.
        is_choice: Whether a second linear layer turns the classes into one score, for multiple choice.
    """

    def __init__(self, hidden_size: int, classes: int, activation: Activation, is_choice: bool = False) -> None:
        super().__init__()
        self.summary = Linear(hidden_size, classes)
        self.activation = activation
        if is_choice:
            self.out = Linear(classes, 1)

    def __call__(self, hidden: mx.array, pooled: mx.array | None, batch: TokenBatch, table: TokenTable) -> HeadOutputs:
        summary = self.activation(self.summary(batch.first_tokens(hidden)))
        return {"logits": self.out(summary) if "out" in self else summary}
