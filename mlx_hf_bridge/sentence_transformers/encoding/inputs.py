"""What encode takes, as texts and pairs of texts."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mlx_hf_bridge.errors import InputError
from mlx_hf_bridge.inference.tokenizer import Text

_MODALITIES = ("text", "image", "audio", "video")


def is_batch(inputs: Any) -> bool:
    """Whether these are several texts: a list, a tuple, an array of texts, a column of a datasets.Dataset."""
    if isinstance(inputs, np.ndarray):
        return inputs.ndim >= 1 and inputs.dtype.kind in "UO"
    return isinstance(inputs, (list, tuple)) or type(inputs).__module__.startswith("datasets.")


def as_list(inputs: Any) -> list[Any]:
    """Several inputs as a list."""
    return inputs.tolist() if isinstance(inputs, np.ndarray) else list(inputs)


def as_text(item: Any, where: str) -> Text:
    """A text, a pair of texts, or a dict {"text": ...} of either; InputError for anything else."""
    if isinstance(item, dict) and set(item) == {"text"}:
        item = item["text"]
    if isinstance(item, str):
        return str(item)
    if isinstance(item, (list, tuple)) and len(item) == 2 and all(isinstance(part, str) for part in item):
        return str(item[0]), str(item[1])
    hint = ""
    if isinstance(item, dict):
        hint = f" A dict may have the key 'text' alone, and this one has {sorted(map(str, item))}."
    raise InputError(f"{where} is a {type(item).__name__} ({item!r:.80}), expected a text or a pair of texts.{hint}")


def split_task_dicts(inputs: Sequence[Any]) -> tuple[str | None, list[Any]]:
    """Texts that are wrapped in dicts by task ({"query": text}) -> the task, and the texts; None for others."""
    keys = {key for item in inputs if isinstance(item, dict) for key in item}
    if not keys or keys & set(_MODALITIES) or not all(isinstance(item, dict) for item in inputs):
        return None, list(inputs)
    if len(keys) > 1:
        raise InputError(
            f"the texts are dicts with the tasks {sorted(keys)}, and a call has one. Encode each task by itself, or "
            "give plain texts and pass task."
        )
    task = keys.pop()
    return task, [item[task] for item in inputs]
