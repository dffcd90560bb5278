"""The labels of a call: shared by all texts or given for each, with or without descriptions.

Reference: gliner/model.py of gliner 0.2.29 (_normalize_labels).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlx_hf_bridge.errors import ArgumentTypeError, InputError


@dataclass(frozen=True)
class LabelSet:
    """The labels of a text.

    Attributes:
        prompts: What the model reads, each once: the labels, or their descriptions.
        names: The names of the labels in results.
    """

    prompts: tuple[str, ...]
    names: tuple[str, ...]


def read_labels(labels: Any, count: int) -> list[LabelSet]:
    """Return the label set of each text.

    Args:
        labels: A label, a list of labels or a mapping of labels to descriptions, for all texts; or a list of such lists
            and mappings, one for each text.
        count: The number of texts.

    Returns:
        One label set for each text.

    Raises:
        ArgumentTypeError: If something is not a label.
        InputError: If there is not one set for each text, or two labels have one description.
    """
    per_text = isinstance(labels, Sequence) and any(isinstance(one, (list, tuple, Mapping)) for one in labels)
    if not per_text:
        return [_label_set(labels)] * count
    if len(labels) != count:
        raise InputError(f"labels has {len(labels)} sets of labels for {count} texts, expected one set for each text.")
    if wrong := next((one for one in labels if not isinstance(one, (list, tuple, Mapping))), None):
        raise ArgumentTypeError(f"labels has {wrong!r:.80} among sets of labels, expected lists or mappings only.")
    return [_label_set(one) for one in labels]


def _label_set(labels: Any) -> LabelSet:
    if isinstance(labels, str):
        labels = [labels]
    try:
        names = tuple(labels) if isinstance(labels, Mapping) else tuple(dict.fromkeys(labels))
        prompts = tuple(labels.values()) if isinstance(labels, Mapping) else names
    except TypeError as error:  # not iterable, or a label that cannot be a key
        raise ArgumentTypeError(f"labels is {labels!r:.80}, expected a list of texts.") from error
    if wrong := [one for one in (*names, *prompts) if not isinstance(one, str)]:
        raise ArgumentTypeError(f"labels has {wrong[0]!r:.80}, expected texts only.")
    if len(set(prompts)) != len(prompts):
        raise InputError(
            "two labels have one description, so the model cannot tell them apart. Describe them differently."
        )
    return LabelSet(prompts, names)
