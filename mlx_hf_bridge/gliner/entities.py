"""Entities in the form of the gliner package."""

from typing import Any

from mlx_hf_bridge.gliner.decoding import Span
from mlx_hf_bridge.gliner.labels import LabelSet
from mlx_hf_bridge.gliner.words import Words

Entity = dict[str, Any]


def entity_of(text: str, words: Words, labels: LabelSet, span: Span) -> Entity:
    """Return an entity as a dict.

    Args:
        text: The text.
        words: Its words.
        labels: The labels of the text.
        span: The entity.

    Returns:
        "start" and "end" (character positions), "text", "label" and "score"; "class_probs" where they were asked for.
    """
    start, end = words.starts[span.start], words.ends[span.end]
    found = {
        "start": start,
        "end": end,
        "text": text[start:end],
        "label": labels.names[span.label],
        "score": span.score,
    }
    return found if span.class_probs is None else {**found, "class_probs": span.class_probs}
