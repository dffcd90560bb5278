"""What all tasks share: prepared texts, the answer to a request, and texts that are too long."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from mlx_hf_bridge.errors import OverlongTextError
from mlx_hf_bridge.inference.batching import BatchPipeline
from mlx_hf_bridge.inference.tokenizer import Tokens
from mlx_hf_bridge.serving.limits import Limits

TRUNCATE, ERROR = "truncate", "error"


@dataclass(frozen=True)
class Prepared:
    """The tokens of a request, and what becomes of them.

    Args:
        tokens: The token sequences that are computed; a text may have several.
        lane: What requests have in common whose texts may share a batch, besides the model.
        pipeline: What is computed of the tokens.
        finish: Turns one result for each token sequence into the result of the request; runs in any thread.
        truncated: How many texts were truncated.
    """

    tokens: Sequence[Tokens]
    lane: Hashable
    pipeline: BatchPipeline
    finish: Callable[[list[Any]], Any]
    truncated: int = 0


@dataclass(frozen=True)
class Answer:
    """The answer to a request.

    Args:
        result: What the task gives.
        model: The name of the model.
        tokens: How many tokens were computed.
        truncated: How many texts were truncated.
        tokenization_seconds: How long the texts were tokenized.
        queue_seconds: How long the request waited for its first turn.
        inference_seconds: How long it took from there.
    """

    result: Any
    model: str
    tokens: int = 0
    truncated: int = 0
    tokenization_seconds: float = 0.0
    queue_seconds: float = 0.0
    inference_seconds: float = 0.0


class Task(ABC):
    """One request for one model.

    Attributes:
        kinds: The kinds of models that can do it.
    """

    kinds: ClassVar[tuple[str, ...]]

    @abstractmethod
    def prepare(self, model: Any, limits: Limits) -> Prepared:
        """Check the request and tokenize its texts. Runs in any thread, and computes nothing on MLX.

        Args:
            model: The model, of one of the `kinds`: an object of sentence_transformers or pipelines.
            limits: What the server takes.

        Returns:
            What is to be computed.

        Raises:
            InputError: If a text or option is not valid for the model.
            OverlongTextError: If a text is too long and is not to be truncated.
            RequestLimitError: If the request is larger than the server takes.
        """


def check_overlong(tokens: Sequence[Tokens], overlong: str) -> int:
    """Return how many texts were truncated.

    Args:
        tokens: The tokens of each text.
        overlong: "error" or "truncate".

    Returns:
        Their number.

    Raises:
        OverlongTextError: If there are any, and they are not to be truncated.
    """
    numbers = [number for number, one in enumerate(tokens) if one.truncated]
    if numbers and overlong == ERROR:
        raise OverlongTextError(
            f"{len(numbers)} of {len(tokens)} texts have more tokens than the model takes; text {numbers[0]} is the "
            "first. Split them, or ask for truncation."
        )
    return len(numbers)
