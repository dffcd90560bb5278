"""Reading the inputs of encode and predict: texts, pairs of texts, and dicts of them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mlx_hf_bridge.errors import InputError
from mlx_hf_bridge.inference.tokenizer import Text

# Keys of sentence-transformers' inputs by modality, which are not tasks.
_MODALITIES = ("text", "image", "audio", "video")


def is_batch(inputs: Any) -> bool:
    """Return whether inputs are several texts rather than one.

    Args:
        inputs: What encode was given.

    Returns:
        True for a list, a tuple, a numpy array of texts, or a column of a datasets.Dataset.
    """
    if isinstance(inputs, np.ndarray):
        # U: text, O: objects. An array of numbers is no batch of texts.
        return inputs.ndim >= 1 and inputs.dtype.kind in "UO"
    return isinstance(inputs, (list, tuple)) or type(inputs).__module__.startswith("datasets.")


def as_list(inputs: Any) -> list[Any]:
    """Return several inputs as a list.

    Args:
        inputs: An iterable of inputs, or a numpy array.

    Returns:
        The inputs in their order.
    """
    return inputs.tolist() if isinstance(inputs, np.ndarray) else list(inputs)


def as_text(item: Any, where: str) -> Text:
    """Return one input as a text or a pair of texts.

    Args:
        item: A text, a pair of texts, or a dict {"text": ...} of either.
        where: What the input is called in an error message, such as "item 3 to encode".

    Returns:
        A str, or a tuple of two.

    Raises:
        InputError: If it is anything else.
    """
    if isinstance(item, dict) and set(item) == {"text"}:
        item = item["text"]
    if isinstance(item, str):
        return str(item)
    if isinstance(item, (list, tuple)) and len(item) == 2 and all(isinstance(part, str) for part in item):
        # str() turns subclasses such as numpy.str_ into plain strings.
        return str(item[0]), str(item[1])
    hint = ""
    if isinstance(item, dict):
        hint = f" A dict may only have the key 'text', but this one has {sorted(map(str, item))}."
    raise InputError(f"{where} is a {type(item).__name__} ({item!r:.80}), expected a text or a pair of texts.{hint}")


def split_task_dicts(inputs: Sequence[Any]) -> tuple[str | None, list[Any]]:
    """Return the task and the texts of inputs that are dicts by task, such as {"query": "a text"}.

    Args:
        inputs: The inputs of one call.

    Returns:
        The task and the texts; None and the inputs as they are if they are not dicts by task.

    Raises:
        InputError: If the dicts have different tasks.
    """
    keys = {key for item in inputs if isinstance(item, dict) for key in item}
    if not keys or keys & set(_MODALITIES) or not all(isinstance(item, dict) for item in inputs):
        return None, list(inputs)
    if len(keys) > 1:
        raise InputError(
            f"the texts are dicts with the tasks {sorted(keys)}, but a call has a single task. Encode each task "
            "separately, or give plain texts and pass task."
        )
    task = keys.pop()
    return task, [item[task] for item in inputs]


def check_optional_count(name: str, value: Any) -> int | None:
    """Return a count that may be None, once it is checked.

    Args:
        name: The argument, for the error message.
        value: An integer of 1 or more, or None.

    Returns:
        The value as it was given.

    Raises:
        InputError: If it is anything else.
    """
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise InputError(f"{name}={value!r}, expected an integer of 1 or more, or None.")
    return value
