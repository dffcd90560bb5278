"""Entities with labels of the request, as MLXGLiNER.inference returns them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np

from mlx_hf_bridge.errors import EmptyInputError, InputError
from mlx_hf_bridge.gliner.decoding import Decoding, decode
from mlx_hf_bridge.gliner.entities import Entity, entity_of
from mlx_hf_bridge.gliner.labels import LabelSet, read_labels
from mlx_hf_bridge.gliner.model import MLXGLiNER, check_threshold
from mlx_hf_bridge.gliner.scoring import (
    check_text_lengths,
    embed_labels,
    score_pipeline,
    with_labels,
    without_padding,
)
from mlx_hf_bridge.gliner.words import Words, WordTokens, tokenize
from mlx_hf_bridge.pipelines.tokenizer import tokenizer_lock
from mlx_hf_bridge.runtime.executor import hold
from mlx_hf_bridge.serving.limits import Limits
from mlx_hf_bridge.serving.tasks.base import ERROR, Prepared, Task, check_overlong

ENTITY_FINDER = "zero-shot-ner"
_LABELS_AT_ONCE = 8


class EntityFinder:
    """A GLiNER model with the embeddings of the labels that were asked for last, where it has an encoder of labels.

    Args:
        model: The model.

    Attributes:
        model: The same.
    """

    def __init__(self, model: MLXGLiNER) -> None:
        self.model = model
        self._last: tuple[tuple[str, ...], np.ndarray] | None = None

    def label_table(self, prompts: tuple[str, ...]) -> np.ndarray | None:
        """Return the embeddings of labels, (C, D); None for a model that reads labels before the text.

        Args:
            prompts: The labels.

        Returns:
            The table.
        """
        if self.model.loaded.labels is None:
            return None
        last = self._last
        if last is None or last[0] != prompts:
            self._last = last = prompts, embed_labels(self.model.loaded, prompts, _LABELS_AT_ONCE)
        return last[1]


@dataclass(frozen=True, kw_only=True)
class FindLabeledEntities(Task):
    """The entities of each text, with labels of the request: lists of dicts, as of MLXGLiNER.inference.

    Args:
        texts: The texts.
        labels: The labels, or labels with descriptions that the model reads instead.
        threshold: The score that an entity must exceed.
        flat_ner: Whether entities may not overlap.
        multi_label: Whether a span may have several labels.
        overlong: "error" or "truncate".
    """

    kinds: ClassVar[tuple[str, ...]] = (ENTITY_FINDER,)
    texts: Sequence[str]
    labels: Sequence[str] | Mapping[str, str]
    threshold: float = 0.5
    flat_ner: bool = True
    multi_label: bool = False
    overlong: str = ERROR

    def prepare(self, model: EntityFinder, limits: Limits) -> Prepared:
        """Split the texts into words, and tokenize them after their labels."""
        labels, options = self._check(limits)
        loaded = model.model.loaded
        # As in gliner: nothing is found in an empty text.
        chosen = [index for index, text in enumerate(self.texts) if text.strip()]
        words = [Words.of(self.texts[index], loaded.config.max_len) for index in chosen]
        with hold(tokenizer_lock):
            prompts = [labels.prompts] * len(words)
            tokens = list(tokenize(loaded.text.tokenizer, loaded.config, words, prompts, loaded.class_token))
        table = model.label_table(labels.prompts)
        if table is not None:
            tokens = [with_labels(one, range(len(table))) for one in tokens]
        _check_labels(tokens, labels)
        check_text_lengths(loaded, tokens)
        limits.check_tokens(sum(map(len, tokens)))
        marked = [_marked(one, split) for one, split in zip(tokens, words, strict=True)]
        return Prepared(
            tokens,
            type(self).__name__ if table is None else labels.prompts,
            score_pipeline(loaded, table),
            partial(self._finish, model.model, labels, options, chosen, words, tokens),
            check_overlong(marked, self.overlong),
        )

    def _check(self, limits: Limits) -> tuple[LabelSet, Decoding]:
        """Return the labels and the options once they and the texts are checked."""
        if not self.texts or not self.labels:
            raise EmptyInputError("the request has no texts or no labels, expected at least one of each.")
        [labels] = read_labels(self.labels, 1)
        limits.check_count(len(self.texts))
        limits.check_texts([*self.texts, *labels.prompts])
        return labels, Decoding(check_threshold(self.threshold), self.flat_ner, self.multi_label)

    def _finish(
        self,
        model: MLXGLiNER,
        labels: LabelSet,
        options: Decoding,
        chosen: Sequence[int],
        words: Sequence[Words],
        tokens: Sequence[WordTokens],
        rows: list[Any],
    ) -> list[list[Entity]]:
        found: list[list[Entity]] = [[] for _ in self.texts]
        for index, split, one, row in zip(chosen, words, tokens, rows, strict=True):
            logits = without_padding(row, one, model.config)
            spans = decode(logits, model.config.is_token_level, labels.names, options)
            found[index] = [entity_of(self.texts[index], split, labels, span) for span in spans]
        return found


def _check_labels(tokens: Sequence[WordTokens], labels: LabelSet) -> None:
    """Refuse labels that the model cannot read all, since truncation would drop the last ones."""
    if any(max(len(one.label_tokens), len(one.labels)) < len(labels.prompts) for one in tokens):
        raise InputError(
            f"{len(labels.prompts)} labels have more tokens than the model takes. Ask for fewer at a time."
        )


def _marked(tokens: WordTokens, words: Words) -> WordTokens:
    """Return the tokens of a text, as truncated if words of it were left out."""
    return WordTokens(tokens.ids, None, truncated=tokens.truncated or words.truncated)
