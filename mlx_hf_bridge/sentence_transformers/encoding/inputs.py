"""Reading the inputs of encode and predict: texts, pairs of texts, and dicts of them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mlx_hf_bridge.errors import InputError
from mlx_hf_bridge.inference.plain_values import plain_scalar
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


def as_text(item: Any, index: int) -> Text:
    """Return one input as a text or a pair of texts.

    Args:
        item: A text, a pair of texts, or a dict {"text": ...} of either.
        index: Its place among the inputs, for the error message.

    Returns:
        A str, or a tuple of two.

    Raises:
        InputError: If it is anything else, or not valid Unicode.
    """
    if isinstance(item, dict) and set(item) == {"text"}:
        item = item["text"]
    if isinstance(item, str):
        # str() turns subclasses such as numpy.str_ into plain strings.
        return _unicode(str(item), index)
    if isinstance(item, (list, tuple)) and len(item) == 2 and all(isinstance(part, str) for part in item):
        return _unicode(str(item[0]), index), _unicode(str(item[1]), index)
    hint = ""
    if isinstance(item, dict):
        hint = f" A dict may only have the key 'text', but this one has {sorted(map(str, item))}."
    raise InputError(
        f"item {index} to encode is a {type(item).__name__} ({item!r:.80}), expected a text or a pair of texts.{hint}"
    )


def _unicode(text: str, index: int) -> str:
    # Almost all texts are ASCII, for which this is a look at a flag.
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InputError(
                f"text {index} is {text!r:.80}, which is not a text in Unicode ({error}). Decode it with "
                "errors='replace', or remove it."
            ) from error
    return text


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
    value = plain_scalar(value)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise InputError(f"{name}={value!r}, expected an integer of 1 or more, or None.")
    return value
