"""An embeddings, rerank and classification server, and AsyncEngine, which it is made of.

A request goes one way:

    bytes -> gate (id, key, size, time) -> routes (a protocol's JSON -> a task) -> engine
    task -> tokens (threads) -> queue (lanes, turns) -> compute thread (batches of all clients) -> result -> JSON

`engine.py` has the whole of the second line and can be used without the first, from any asyncio program. `queue.py`
decides what is computed next, and `computing.py` is the one thread that calls models. `tasks/` says how each task
tokenizes and what it computes, by the pipelines of sentence_transformers and pipelines themselves, so that results are
those of `encode`. `recognition.py` says what a model is by its files, and `registry.py` has the models by name.
`routes/` has a file for each protocol; `failures.py` writes errors in each one's form.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlx_hf_bridge.serving.app import create_app as create_app
    from mlx_hf_bridge.serving.engine import AsyncEngine as AsyncEngine
    from mlx_hf_bridge.serving.limits import Limits as Limits
    from mlx_hf_bridge.serving.settings import Settings as Settings

# Imported on first use: AsyncEngine needs no web framework.
_HOMES = {"AsyncEngine": "engine", "Limits": "limits", "Settings": "settings", "create_app": "app"}
__all__ = ["AsyncEngine", "Limits", "Settings", "create_app"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
