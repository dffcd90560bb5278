"""The model that transformers uses for a task where none is named, read from the installed version without torch."""

import ast
import importlib.util
import logging
from functools import cache
from importlib.abc import InspectLoader
from typing import Any

from mlx_hf_bridge.errors import InputError

logger = logging.getLogger(__name__)

# The file with the table of tasks. Importing it would import torch, so its text is parsed instead.
_MODULE, _TABLE = "transformers.pipelines", "SUPPORTED_TASKS"


def default_model(task: str, revision: str | None) -> tuple[str, str]:
    """Return the default model of a task, and say once for each call which it is.

    Args:
        task: The task by its full name ("text-classification").
        revision: The caller's revision; None for the one that transformers pins.

    Returns:
        The Hub id and the revision.

    Raises:
        InputError: If the installed transformers has no default for the task.
    """
    if task not in (found := _defaults()):
        raise InputError(
            f"no model was given, and transformers has no default for {task}. Pass model=, a Hub id or a folder."
        )
    model, pinned = found[task]
    chosen = pinned if revision is None else revision
    logger.warning(
        "no model was given for %s: using %s (revision %s), transformers' default. Pass model= and revision= in "
        "production.",
        task,
        model,
        chosen,
    )
    return model, chosen


@cache
def _defaults() -> dict[str, tuple[str, str]]:
    """Return task -> Hub id and revision, of every task whose default is one model."""
    spec = importlib.util.find_spec(_MODULE)
    # Frozen applications may have the compiled file alone.
    source = spec.loader.get_source(_MODULE) if spec and isinstance(spec.loader, InspectLoader) else None
    tables = [
        node.value
        for node in ast.parse(source or "").body
        if isinstance(node, ast.Assign) and [getattr(name, "id", None) for name in node.targets] == [_TABLE]
    ]
    defaults = {key: _entry(_entry(task, "default"), "model") for table in tables for key, task in _items(table)}
    # Transformers 4 has one for each framework.
    chosen = {key: _entry(model, "pt") or model for key, model in defaults.items() if model is not None}
    return {key: ast.literal_eval(model) for key, model in chosen.items() if isinstance(model, ast.Tuple)}


def _items(node: Any) -> list[tuple[Any, ast.expr]]:
    """Return the constant keys of a dict in the source with their values; none for another expression."""
    pairs = zip(node.keys, node.values, strict=True) if isinstance(node, ast.Dict) else ()
    return [(key.value, value) for key, value in pairs if isinstance(key, ast.Constant)]


def _entry(node: Any, key: str) -> ast.expr | None:
    return dict(_items(node)).get(key)
