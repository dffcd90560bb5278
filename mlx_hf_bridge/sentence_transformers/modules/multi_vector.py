"""MultiVectorMask: which tokens of a query or document are scored.

Reference: sentence_transformers/multi_vector_encoder/modules/multi_vector_mask.py. B texts, L tokens.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import mlx.core as mx

from mlx_hf_bridge.inference.tokenizer import Tokenizer
from mlx_hf_bridge.sentence_transformers.modules.base import Features, Module
from mlx_hf_bridge.sentence_transformers.modules.weights import read_module_config

logger = logging.getLogger(__name__)


class MultiVectorMask(Module):
    """The mask (B, L) that scoring sees: expanded tokens of a query too, listed words of a document not."""

    reference: ClassVar[str] = "sentence_transformers.multi_vector_encoder.modules.multi_vector_mask.MultiVectorMask"
    forward_kwargs: ClassVar[frozenset[str]] = frozenset({"task"})

    def __init__(
        self,
        skiplist_words: Sequence[str] | None = None,
        *,
        skiplist_tasks: str | Sequence[str] | None = None,
        keep_only_token_ids: Sequence[int] | None = None,
    ) -> None:
        self.skiplist_words = list(skiplist_words or ())
        self.skiplist_tasks = normalize_tasks(skiplist_tasks)
        self.keep_only_token_ids = None if keep_only_token_ids is None else list(keep_only_token_ids)
        self._skipped: list[int] = []

    @classmethod
    def read(cls, folder: Path) -> Self:
        config = read_module_config(folder)
        return cls(
            config.get("skiplist_words"),
            skiplist_tasks=config.get("skiplist_tasks"),
            keep_only_token_ids=config.get("keep_only_token_ids"),
        )

    def resolve_with_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Look the words up; those that are not single tokens are left out with a warning."""
        unknown = tokenizer.special_id("unk_token")
        found = {word: tokenizer.convert_tokens_to_ids(word) for word in self.skiplist_words}
        self._skipped = [id_ for word, id_ in found.items() if tokenizer.backend.token_to_id(word) == id_ is not None]
        if left_out := [word for word, id_ in found.items() if id_ in (None, unknown) and id_ not in self._skipped]:
            logger.warning("skiplist words %s are not single tokens of this tokenizer and are left out", left_out)

    def on_model_ready(self, tokenizer: Tokenizer) -> None:
        self.resolve_with_tokenizer(tokenizer)

    def __call__(self, features: Features) -> Features:
        mask, ids = features.mask, features.batch.ids
        if features.task == "query" and features.expansion_mask is not None:
            mask = mx.logical_or(mask, features.expansion_mask)
        if (features.task or "document") in self.skiplist_tasks and self._skipped:
            mask = mx.logical_and(mask, mx.logical_not(_among(ids, self._skipped)))
        if features.task != "query" and self.keep_only_token_ids:
            mask = mx.logical_and(mask, _among(ids, self.keep_only_token_ids))
        return features.with_mask(mask)

    def get_config_dict(self) -> dict[str, Any]:
        return {
            "skiplist_words": self.skiplist_words,
            "skiplist_tasks": self.skiplist_tasks,
            "keep_only_token_ids": self.keep_only_token_ids,
        }


def normalize_tasks(given: str | Sequence[str] | None) -> list[str]:
    """One task, several, or the usual one: documents."""
    if given is None:
        return ["document"]
    return [given] if isinstance(given, str) else list(given)


def _among(ids: mx.array, wanted: Sequence[int]) -> mx.array:
    """ids (B, L) -> bool (B, L)."""
    return (ids[:, :, None] == mx.array(list(wanted), mx.int32)).any(axis=-1)
