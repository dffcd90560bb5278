"""Add `backend="mlx"` to sentence-transformers' own classes when `mlx_hf_bridge.sentence_transformers` is imported.

One method of sentence-transformers is replaced, the one that chooses which backend loads a model.
"""

import functools
from types import ModuleType
from typing import Any

from mlx_hf_bridge.runtime.import_hooks import AfterImport

BACKEND = "mlx"
_HOME = "sentence_transformers.base.modules.transformer"


def install() -> None:
    """Add the backend to sentence-transformers if it is imported, else as soon as it is."""
    AfterImport({_HOME: _add_backend}).install()


def _add_backend(module: ModuleType) -> None:
    original = module.Transformer._load_model

    @functools.wraps(original)
    def _load_model(
        self: Any,
        model_name_or_path: str,
        transformer_task: str,
        config: Any,
        backend: str,
        is_peft_model: bool,
        **model_kwargs: Any,
    ) -> Any:
        if backend != BACKEND:
            return original(self, model_name_or_path, transformer_task, config, backend, is_peft_model, **model_kwargs)
        # Imported late, because it imports torch and transformers.
        from mlx_hf_bridge.sentence_transformers.backend.model import load_backend

        return load_backend(model_name_or_path, transformer_task, config, model_kwargs)

    module.Transformer._load_model = _load_model
