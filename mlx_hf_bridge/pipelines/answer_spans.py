"""Find the most likely answer spans of a context window from the start and end logits of its tokens.

Reference: transformers 4.57, transformers/pipelines/question_answering.py (select_starts_ends, decode_spans).
L tokens, S spans.
"""

from dataclasses import dataclass

import numpy as np

# The logit of tokens that cannot be part of an answer, far below any real one; transformers' value.
_EXCLUDED_LOGIT = -10000.0


@dataclass(frozen=True)
class Spans:
    """Candidate answers of one window, best first.

    starts, ends: positions of their first and last tokens, (S,). scores: their probabilities, (S,). null: the
    probability that the window has no answer.
    """

    starts: np.ndarray
    ends: np.ndarray
    scores: np.ndarray
    null: float


def best_spans(logits: np.ndarray, allowed: np.ndarray, count: int, max_length: int) -> Spans:
    """Return the most likely answer spans of one window.

    A span's score is the softmax of its start times the softmax of its end. The first token (CLS) stands for "no
    answer" and is in no span.

    Args:
        logits: Start and end logits of every token, (L, 2).
        allowed: Which tokens can be part of an answer, (L,) bool; the first token counts for "no answer".
        count: The most spans to return.
        max_length: The most tokens that a span can have.

    Returns:
        At most `count` spans, best first.
    """
    start, end = (_softmax(np.where(allowed, column, np.float32(_EXCLUDED_LOGIT))) for column in logits.T)
    # Position 0 is the CLS token, whose probability is that of "no answer".
    null = float(start[0] * end[0])
    start[0] = end[0] = 0.0
    # Row = start, column = end. triu drops ends before their starts, tril those too far behind.
    scores = np.tril(np.triu(np.outer(start, end)), max_length - 1)
    starts, ends = np.unravel_index(_largest(scores.ravel(), count), scores.shape)
    inside = allowed[starts] & allowed[ends]
    starts, ends = starts[inside], ends[inside]
    return Spans(starts, ends, scores[starts, ends], null)


def _softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max())
    probabilities: np.ndarray = exponentials / exponentials.sum()
    return probabilities


def _largest(values: np.ndarray, count: int) -> np.ndarray:
    """Return the indices of the largest values, largest first."""
    # argmax: a partition of all spans would cost more than a pass over them.
    if count == 1:
        return np.array([values.argmax()])
    if len(values) <= count:
        return np.argsort(-values)
    chosen = np.argpartition(-values, count)[:count]
    return chosen[np.argsort(-values[chosen])]
