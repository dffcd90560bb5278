"""Options that several protocols have: prompts by the type of input, and truncation."""

from typing import Any

from mlx_hf_bridge.errors import InputError
from mlx_hf_bridge.serving.settings import Settings
from mlx_hf_bridge.serving.tasks.base import ERROR, TRUNCATE

# Cohere's, Voyage's, NVIDIA's and Jina's names.
_QUERY = ("query", "search_query", "retrieval.query")
_DOCUMENT = ("document", "passage", "search_document", "retrieval.passage")


def prompt_options(input_type: str | None, prompt_name: str | None) -> dict[str, Any]:
    """Return the prompt of a request as options of a task.

    Args:
        input_type: "query", "document" or another name of these, as encode_query and encode_document; else the name of
            one of the model's prompts.
        prompt_name: The name of one of the model's prompts.

    Returns:
        The options.

    Raises:
        InputError: If both are given.
    """
    if input_type is None:
        return {"prompt_name": prompt_name}
    if prompt_name is not None:
        raise InputError("got both input_type and prompt_name, which choose a prompt. Leave one out.")
    if input_type in _QUERY:
        return {"task": "query"}
    if input_type in _DOCUMENT:
        return {"task": "document"}
    return {"prompt_name": input_type}


def overlong(truncate: bool | None, settings: Settings) -> str:
    """Return what happens to texts that are too long.

    Args:
        truncate: What the request says; None if it says nothing.
        settings: What the server does by default.

    Returns:
        "truncate" or "error".
    """
    return TRUNCATE if (settings.auto_truncate if truncate is None else truncate) else ERROR
