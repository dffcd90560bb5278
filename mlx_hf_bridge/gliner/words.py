"""Texts as words, and words with their labels as tokens.

Reference: gliner/data_processing of gliner 0.2.29 (tokenizer.py, processor.py, utils.py).

Axes: L tokens, W words, S tokens of a word, C labels.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from mlx_hf_bridge.architecture.gliner import GLiNERConfig
from mlx_hf_bridge.inference.tokenizer import Tokenizer, Tokens

# gliner's WhitespaceTokenSplitter.
_WORD = re.compile(r"\w+(?:[-_]\w+)*|\S")
# Texts that are tokenized at a time: the encodings of tokenizers take much more memory than the ids.
_TEXTS_PER_CALL = 64


@dataclass(frozen=True)
class Words:
    """The words of a text.

    Attributes:
        words: The words.
        starts: Where each begins in the text.
        ends: Where each ends.
        truncated: Whether the text had more words than the model takes.
    """

    words: tuple[str, ...]
    starts: tuple[int, ...]
    ends: tuple[int, ...]
    truncated: bool = False

    @classmethod
    def of(cls, text: str, most: int) -> "Words":
        """Split a text into words.

        Args:
            text: The text.
            most: How many words are kept.

        Returns:
            The words with their places.
        """
        found = list(_WORD.finditer(text))
        kept = found[:most]
        places = tuple(match.start() for match in kept), tuple(match.end() for match in kept)
        return cls(tuple(match.group() for match in kept), *places, truncated=len(found) > most)


@dataclass(frozen=True)
class WordTokens(Tokens):
    """The tokens of a text, after those of its labels where the model reads these.

    Args:
        word_tokens: Indices of the tokens of each word that are pooled, (W, S), int32; -1 where there is none.
        label_tokens: Indices of the tokens whose hidden states are the labels' vectors, (C,), int32.
        labels: Rows of the labels' embeddings instead, (C,), int32.
    """

    word_tokens: np.ndarray = field(default_factory=lambda: np.zeros((0, 1), np.int32))
    label_tokens: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    labels: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))

    @property
    def key(self) -> tuple[bytes | None, ...]:
        """A key that is equal for sequences with equal outputs."""
        places = (self.word_tokens, self.label_tokens, self.labels)
        return *super().key, str(self.word_tokens.shape).encode(), *(array.tobytes() for array in places)


def tokenize(
    tokenizer: Tokenizer,
    config: GLiNERConfig,
    texts: Sequence[Words],
    prompts: Sequence[Sequence[str]],
    class_token: int,
) -> Iterator[WordTokens]:
    """Tokenize texts, after their labels unless these have an encoder of their own.

    Args:
        tokenizer: The tokenizer.
        config: The model's config.
        texts: The words of each text.
        prompts: The labels of each text.
        class_token: Id of the token before each label.

    Yields:
        The tokens of each text.
    """
    for start in range(0, len(texts), _TEXTS_PER_CALL):
        chosen = range(start, min(start + _TEXTS_PER_CALL, len(texts)))
        before = [[] if config.is_bi_encoder else _prompt(config, prompts[index]) for index in chosen]
        read = [[*prompt, *texts[index].words] for prompt, index in zip(before, chosen, strict=True)]
        encoded = tokenizer.encode_words(read, tokenizer.model_max_length)
        for index, prompt, (tokens, word_ids) in zip(chosen, before, encoded, strict=True):
            # No id is negative, so a model that does not read labels with the text finds none.
            positions = np.flatnonzero(tokens.ids == class_token)[: len(prompts[index])]
            if not config.embed_ent_token:
                # The token after it, which truncation may have removed.
                positions = np.minimum(positions + 1, len(tokens) - 1)
            yield WordTokens(
                tokens.ids,
                None,
                tokens.truncated,
                _word_tokens(word_ids, len(prompt), len(texts[index].words), config.subtoken_pooling),
                positions.astype(np.int32),
            )


def _prompt(config: GLiNERConfig, labels: Sequence[str]) -> list[str]:
    """Return the words before a text: each label after its token, and the separator."""
    # An empty label has no tokens, and gliner does not count it as a word.
    parts = [part for label in labels for part in (config.ent_token, label) if part]
    return [*parts, config.sep_token]


def _word_tokens(word_ids: Sequence[int | None], skipped: int, count: int, pooling: str) -> np.ndarray:
    """Return the indices of the tokens of each word that are pooled, (W, S).

    Words are counted as gliner counts them: those without tokens have no number, so the next one has it.
    """
    found: list[list[int]] = [[] for _ in range(count)]
    seen, previous = 0, None
    for index, word in enumerate(word_ids):
        if word is not None:
            seen += word != previous
            if skipped < seen <= skipped + count:
                found[seen - skipped - 1].append(index)
        previous = word
    if pooling in ("first", "last"):
        found = [tokens[:1] if pooling == "first" else tokens[-1:] for tokens in found]
    result = np.full((count, max(1, *(len(tokens) for tokens in found))), -1, np.int32)
    for word_index, tokens in enumerate(found):
        result[word_index, : len(tokens)] = tokens
    return result
