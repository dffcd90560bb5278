"""Entities from the probabilities of spans or words.

Reference: gliner/decoding/decoder.py of gliner 0.2.29. Axes: W words, K widths of a span, C labels.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

# How many labels `return_class_probs` gives, as in gliner.
_TOP_LABELS = 5


@dataclass(frozen=True)
class Span:
    """An entity: its first and last word, its label's index, its score, and the probabilities of labels or None."""

    start: int
    end: int
    label: int
    score: float
    class_probs: dict[str, float] | None = None


@dataclass(frozen=True)
class Decoding:
    """How probabilities become entities, under the names of gliner's arguments.

    Attributes:
        threshold: The probability that an entity must exceed.
        flat_ner: Whether entities may not overlap; else they may be nested.
        multi_label: Whether one span may have several labels.
        return_class_probs: Whether to add the probabilities of the best labels.
    """

    threshold: float = 0.5
    flat_ner: bool = True
    multi_label: bool = False
    return_class_probs: bool = False


def decode(
    logits: np.ndarray,
    is_token_level: bool,
    names: Sequence[str],
    options: Decoding,
    allowed: Collection[tuple[int, int]] | None = None,
) -> list[Span]:
    """Return the entities of a text, in the order of their first words.

    Args:
        logits: Scores at the words and labels of the text only: (W, K, C) for spans, or (W, C, 3) for the start, the
            end and the inside of an entity.
        is_token_level: Whether they are of the second kind.
        names: The names of the labels.
        options: The options of the call.
        allowed: First and last words of the spans to choose among; None for all.

    Returns:
        The entities.
    """
    # The float32 logistic function, without overflow.
    probabilities = np.exp(-np.logaddexp(np.float32(0), -logits.astype(np.float32)))
    found = _from_words(probabilities, options) if is_token_level else _from_spans(probabilities, names, options)
    return _without_overlaps([span for span in found if allowed is None or (span.start, span.end) in allowed], options)


def _from_spans(probabilities: np.ndarray, names: Sequence[str], options: Decoding) -> Iterator[Span]:
    """Yield the spans that exceed the threshold and end within the text."""
    threshold = np.float32(options.threshold)
    for start, width, label in np.argwhere(probabilities > threshold).tolist():
        if start + width < len(probabilities):
            of_span = probabilities[start, width]
            best = _best_labels(of_span, names) if options.return_class_probs else None
            yield Span(start, start + width, label, float(of_span[label]), best)


def _best_labels(probabilities: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    order = np.argsort(-probabilities, kind="stable")[:_TOP_LABELS]
    return {names[label]: float(probabilities[label]) for label in order.tolist()}


def _from_words(probabilities: np.ndarray, options: Decoding) -> Iterator[Span]:
    """Yield the spans whose first word is a start, whose last is an end, and whose words are all inside."""
    starts, ends, inside = (probabilities[..., kind] for kind in range(3))
    threshold = np.float32(options.threshold)
    is_end, is_inside = ends > threshold, inside >= threshold
    for start, label in np.argwhere(starts > threshold).tolist():
        outside = np.flatnonzero(~is_inside[start:, label])
        after = start + int(outside[0]) if len(outside) else len(probabilities)
        for end in (start + np.flatnonzero(is_end[start:after, label])).tolist():
            lowest = inside[start : end + 1, label].min()
            yield Span(start, end, label, float(min(lowest, starts[start, label], ends[end, label])))


def _without_overlaps(spans: list[Span], options: Decoding) -> list[Span]:
    """Choose spans by their scores, each that does not overlap one before it."""
    kept: list[Span] = []
    for span in sorted(spans, key=lambda one: -one.score):
        if not any(_excludes(other, span, options) for other in kept):
            kept.append(span)
    return sorted(kept, key=lambda one: one.start)


def _excludes(kept: Span, span: Span, options: Decoding) -> bool:
    """Whether a span cannot be kept next to another."""
    if (kept.start, kept.end) == (span.start, span.end):
        return not options.multi_label
    if kept.start > span.end or span.start > kept.end:
        return False
    is_nested = (kept.start <= span.start and span.end <= kept.end) or (
        span.start <= kept.start and kept.end <= span.end
    )
    return options.flat_ner or not is_nested
