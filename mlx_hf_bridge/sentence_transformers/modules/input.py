"""The base class of modules that read texts: the first module of a model, or of a route."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from mlx_hf_bridge.errors import InputError
from mlx_hf_bridge.inference.plain_values import plain_scalar
from mlx_hf_bridge.inference.tokenizer import Text, Tokenizer, Tokens
from mlx_hf_bridge.sentence_transformers.modules.base import Features, Module


@dataclass(frozen=True)
class EncodeOptions:
    """The options of one `encode` call that its modules read.

    Args:
        prompt: The text put before each input; "" for none.
        task: "query", "document" or another task; it chooses a route, lengths and query expansion. None for no task.
        processing_kwargs: Tokenizer arguments of this call by group ("text", "common"), over those of the model.
        max_active_dims: How many dimensions of a sparse embedding may be nonzero; None for the module's own number.
        overlong: What happens to texts that are too long, "truncate" or "error"; None for what the model was loaded
            with.
    """

    prompt: str = ""
    task: str | None = None
    processing_kwargs: Mapping[str, Mapping[str, Any]] | None = None
    max_active_dims: int | None = None
    overlong: str | None = None


class InputModule(Module):
    """A module that also has a tokenizer: texts -> tokens -> features.

    Attributes:
        modalities: What it reads; always ["text"].
        tokenizer: The tokenizer of its folder.
    """

    modalities: ClassVar[list[str]] = ["text"]
    tokenizer: Tokenizer
    save_in_root: ClassVar[bool] = True
    """Whether a model's first module of this class is saved in the folder of the model."""

    @abstractmethod
    def tokens(self, texts: Sequence[Text], options: EncodeOptions) -> list[Tokens]:
        """Tokenize texts with the prompt before each, truncated to the module's maximum length.

        Args:
            texts: Texts, or pairs of texts.
            options: The options of the call; prompt, task, processing_kwargs and overlong are read.

        Returns:
            The tokens of each text, in order, without padding.
        """

    @abstractmethod
    def features(self, tokens: list[Tokens], options: EncodeOptions) -> Features:
        """Pad the tokens of one batch and pack them into features, ready for the first module.

        Args:
            tokens: The tokens of B texts, as `tokens` returns them.
            options: The options of the same call.

        Returns:
            Features whose ids and mask have the shape (B, L), where L is the longest of the texts.
        """


def check_optional_length(length: Any) -> int | None:
    """Return a maximum length once it is checked.

    Args:
        length: An integer of 1 or more, or None for no limit.

    Returns:
        The length.

    Raises:
        InputError: If it is anything else.
    """
    length = plain_scalar(length)
    if length is not None and (isinstance(length, bool) or not isinstance(length, int) or length < 1):
        raise InputError(f"max_seq_length={length!r}, expected an integer of 1 or more, or None for no limit.")
    return length


def add_prompt(texts: Sequence[Text], prompt: str) -> list[Text]:
    """Return the texts with the prompt before each; of a pair, before its first text.

    Args:
        texts: Texts, or pairs of texts.
        prompt: The text to put before them; "" changes nothing.

    Returns:
        As many texts or pairs as were given.
    """
    return [prompt + text if isinstance(text, str) else (prompt + text[0], text[1]) for text in texts]
