"""Scores of pairs of texts, as MLXCrossEncoder.predict returns them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np

from mlx_hf_bridge.errors import UnservedModelError
from mlx_hf_bridge.sentence_transformers import MLXCrossEncoder
from mlx_hf_bridge.sentence_transformers.modules.activations import NamedActivation
from mlx_hf_bridge.serving.limits import Limits
from mlx_hf_bridge.serving.tasks.base import ERROR, Prepared, Task, check_overlong
from mlx_hf_bridge.serving.tasks.embedding import lane_of, list_rows, tokenize

RERANKER = "reranker"


@dataclass(frozen=True, kw_only=True)
class ScorePairs(Task):
    """Scores of pairs of texts, float32 (N,).

    Args:
        pairs: Pairs of texts, such as a query with each document.
        activation: "model" for the model's own activation function, as `predict`; "sigmoid" for scores from 0 to 1;
            "none" for logits.
        overlong: "error", or "truncate", which shortens the longer text of a pair.
        max_document_tokens: The most tokens that are read of the second text of a pair; None for no limit.
    """

    kinds: ClassVar[tuple[str, ...]] = (RERANKER,)
    pairs: Sequence[tuple[str, ...]]
    activation: str = "model"
    overlong: str = ERROR
    max_document_tokens: int | None = None

    def prepare(self, model: MLXCrossEncoder, limits: Limits) -> Prepared:
        """Tokenize the pairs."""
        if model.num_labels != 1:
            raise UnservedModelError(
                f"the model has {model.num_labels} labels, and a reranker has 1. Name another one."
            )
        limits.check_count(len(self.pairs))
        # The text that all pairs have in common is looked at once.
        limits.check_texts(list(dict.fromkeys(text for pair in self.pairs for text in pair)))
        pairs = [self._shortened(model, pair) for pair in self.pairs]
        read, pipeline = model._text_pipeline(pairs, prompt=model._resolve_prompt(None, None), overlong=self.overlong)
        tokens = tokenize(pipeline, read) if read else []
        limits.check_tokens(sum(map(len, tokens)))
        shortened = sum(pair is not given for pair, given in zip(pairs, self.pairs, strict=True))
        truncated = max(shortened, check_overlong(tokens, self.overlong))
        finish = partial(self._scores, model)
        return Prepared(tokens, lane_of(pipeline), list_rows(pipeline), finish, truncated)

    def _scores(self, model: MLXCrossEncoder, rows: list[np.ndarray]) -> np.ndarray:
        if not rows:
            return np.zeros(0, np.float32)
        names = {"sigmoid": "Sigmoid", "none": "Identity"}
        activation = NamedActivation(names[self.activation]) if self.activation in names else model.activation_fn
        return np.array(model._scores(rows, activation, False), np.float32)

    def _shortened(self, model: MLXCrossEncoder, pair: tuple[str, ...]) -> tuple[str, ...]:
        """Return a pair whose second text has at most `max_document_tokens` tokens; the pair itself if it has."""
        most = self.max_document_tokens
        if most is None or len(pair[1]) <= most:
            return pair
        offsets: list[Any] = model.tokenizer.backend.encode(pair[1], add_special_tokens=False).offsets
        return pair if len(offsets) <= most else (pair[0], pair[1][: offsets[most - 1][1]])
