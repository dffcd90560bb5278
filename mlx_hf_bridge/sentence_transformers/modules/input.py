"""What reads texts: the first module of a model, or of a route."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from mlx_hf_bridge.inference.tokenizer import Text, Tokenizer, Tokens
from mlx_hf_bridge.sentence_transformers.modules.base import Features, Module


@dataclass(frozen=True)
class EncodeOptions:
    """What one call asks of its modules, beside the texts.

    overlong: "truncate" or "error"; None = as the model was told when it was made.
    """

    prompt: str = ""
    task: str | None = None
    processing_kwargs: Mapping[str, Mapping[str, Any]] | None = None
    max_active_dims: int | None = None
    overlong: str | None = None


class InputModule(Module):
    """A module that also has a tokenizer: texts -> tokens -> features."""

    modalities: ClassVar[list[str]] = ["text"]
    tokenizer: Tokenizer
    length_dependent: bool = False
    """Whether padding changes the answer, so that texts go together only with others of their length."""

    @abstractmethod
    def tokens(self, texts: Sequence[Text], options: EncodeOptions) -> list[Tokens]:
        """Texts with the prompt before each -> their tokens, no longer than the module takes."""

    @abstractmethod
    def features(self, tokens: list[Tokens], options: EncodeOptions) -> Features:
        """The tokens of a batch, padded, ready to be computed on."""


def add_prompt(texts: Sequence[Text], prompt: str) -> list[Text]:
    """The prompt before each text; of a pair before its first."""
    return [prompt + text if isinstance(text, str) else (prompt + text[0], text[1]) for text in texts]
