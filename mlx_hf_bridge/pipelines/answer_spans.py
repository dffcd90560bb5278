"""Which spans of a window's tokens are the likeliest answers, from the scores of every token as start and as end.

Reference: transformers 4.57, transformers/pipelines/question_answering.py (select_starts_ends, decode_spans).
L tokens, S spans.
"""

from dataclasses import dataclass

import numpy as np

# Far below any logit; tokens that may not be part of an answer get it.
_NEVER = -10000.0


@dataclass(frozen=True)
class Spans:
    """starts, ends (S,), places of tokens; scores (S,), best first; null: the score of there being no answer."""

    starts: np.ndarray
    ends: np.ndarray
    scores: np.ndarray
    null: float


def best_spans(logits: np.ndarray, allowed: np.ndarray, count: int, longest: int) -> Spans:
    """logits (L, 2) of start and end, allowed (L,) bool -> at most `count` spans of at most `longest` tokens.

    A span's score is its start's share times its end's. The first token (CLS) stands for "no answer" and is in no span.
    """
    start, end = (_shares(np.where(allowed, one, np.float32(_NEVER))) for one in logits.T)
    null = float(start[0] * end[0])
    start[0] = end[0] = 0.0
    products = np.tril(np.triu(np.outer(start, end)), longest - 1)  # ends not before starts, nor too far behind
    starts, ends = np.unravel_index(_largest(products.ravel(), count), products.shape)
    inside = allowed[starts] & allowed[ends]
    starts, ends = starts[inside], ends[inside]
    return Spans(starts, ends, products[starts, ends], null)


def _shares(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max())
    shares: np.ndarray = powers / powers.sum()
    return shares


def _largest(values: np.ndarray, count: int) -> np.ndarray:
    """Places of the largest values, largest first."""
    if count == 1:
        return np.array([values.argmax()])
    if len(values) <= count:
        return np.argsort(-values)
    chosen = np.argpartition(-values, count)[:count]
    return chosen[np.argsort(-values[chosen])]
