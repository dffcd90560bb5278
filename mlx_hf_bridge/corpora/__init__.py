"""Corpora that are larger than a call: files to files, resumed after an interruption.

A corpus goes one way:

    files -> units (ranges of rows) -> chunks -> results and bad rows -> a part for each unit -> a manifest

`inputs.py` divides files into units, `rows.py` reads them, `tasks.py` says what is computed, `compute.py` makes a part
of a unit, and `job.py` has the files that let another process continue. Who computes which unit is up to the runner:
this process or worker processes (`processes.py`, called by `api.py`), Ray or Spark (mlx_hf_bridge.integrations). No
runner knows how a unit is computed, and no other file knows where.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlx_hf_bridge.corpora.api import CorpusResult as CorpusResult
    from mlx_hf_bridge.corpora.api import classify_files as classify_files
    from mlx_hf_bridge.corpora.api import embed_files as embed_files
    from mlx_hf_bridge.corpora.api import rerank_files as rerank_files

__all__ = ["CorpusResult", "classify_files", "embed_files", "rerank_files"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module(f"{__name__}.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
