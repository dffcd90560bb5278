"""MultiVectorMask: which tokens of a query or document take part in late-interaction scoring.

Reference: sentence_transformers/multi_vector_encoder/modules/multi_vector_mask.py. Shapes: B texts, L tokens.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import mlx.core as mx

from mlx_hf_bridge.checkpoints.checkpoint import CONFIG_FILE
from mlx_hf_bridge.errors import ConfigError
from mlx_hf_bridge.inference.tokenizer import Tokenizer
from mlx_hf_bridge.sentence_transformers.modules.base import Features, Module
from mlx_hf_bridge.sentence_transformers.modules.weights import read_module_config

logger = logging.getLogger(__name__)


class MultiVectorMask(Module):
    """Replace the mask (B, L) by that of the tokens to score.

    Tokens that query expansion appended are added to a query's mask; tokens of the skiplist (punctuation, as a rule)
    are removed from a document's.

    Args:
        skiplist_words: Tokens that are not scored; words that the tokenizer splits are ignored with a warning.
        skiplist_tasks: The tasks that the skiplist applies to; None for ["document"].
        keep_only_token_ids: The only token ids of a document that are scored; None for all.
    """

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
        """Read the module from its folder.

        Args:
            folder: The module's folder, with a config.json.

        Returns:
            The module, whose skiplist is looked up in `on_model_ready`.

        Raises:
            ConfigError: If a list is none, or holds values of another type.
        """
        config = read_module_config(folder)
        for key in ("skiplist_words", "keep_only_token_ids"):
            kind = str if key == "skiplist_words" else int
            value = config.get(key)
            if value is not None and (not isinstance(value, list) or not all(isinstance(one, kind) for one in value)):
                raise ConfigError(
                    f"{folder / CONFIG_FILE} has {key}={value!r:.80}, expected a list of {kind.__name__}. "
                    "Take the original file."
                )
        return cls(
            config.get("skiplist_words"),
            skiplist_tasks=config.get("skiplist_tasks"),
            keep_only_token_ids=config.get("keep_only_token_ids"),
        )

    def resolve_with_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Look up the token ids of the skiplist; words that are not single tokens are skipped with a warning.

        Args:
            tokenizer: The tokenizer of the model.
        """
        unknown = tokenizer.special_id("unk_token")
        found = {word: tokenizer.convert_tokens_to_ids(word) for word in self.skiplist_words}
        self._skipped = [id_ for word, id_ in found.items() if tokenizer.backend.token_to_id(word) == id_ is not None]
        if unresolved := [word for word, id_ in found.items() if id_ in (None, unknown) and id_ not in self._skipped]:
            logger.warning("skiplist words %s are not single tokens of this tokenizer and are ignored", unresolved)

    def on_model_ready(self, tokenizer: Tokenizer) -> None:
        """Look up the token ids of the skiplist.

        Args:
            tokenizer: The tokenizer of the model.
        """
        self.resolve_with_tokenizer(tokenizer)

    def __call__(self, features: Features) -> Features:
        mask, ids = features.mask, features.batch.ids
        if features.task == "query" and features.expansion_mask is not None:
            mask = mx.logical_or(mask, features.expansion_mask)
        if (features.task or "document") in self.skiplist_tasks and self._skipped:
            mask = mx.logical_and(mask, mx.logical_not(_is_among(ids, self._skipped)))
        if features.task != "query" and self.keep_only_token_ids:
            mask = mx.logical_and(mask, _is_among(ids, self.keep_only_token_ids))
        return features.with_mask(mask)

    def get_config_dict(self) -> dict[str, Any]:
        """Return the content of config.json in the module's folder.

        Returns:
            skiplist_words, skiplist_tasks and keep_only_token_ids.
        """
        return {
            "skiplist_words": self.skiplist_words,
            "skiplist_tasks": self.skiplist_tasks,
            "keep_only_token_ids": self.keep_only_token_ids,
        }


def normalize_tasks(tasks: str | Sequence[str] | None) -> list[str]:
    """Return the tasks as a list; documents are the default.

    Args:
        tasks: One task, several, or None for ["document"].

    Returns:
        A new list.
    """
    if tasks is None:
        return ["document"]
    return [tasks] if isinstance(tasks, str) else list(tasks)


def _is_among(ids: mx.array, wanted: Sequence[int]) -> mx.array:
    """Return which of the ids (B, L) are in `wanted`, as bool (B, L)."""
    return (ids[:, :, None] == mx.array(list(wanted), mx.int32)).any(axis=-1)
