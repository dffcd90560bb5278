"""What a server takes: limits on each request, and on all that wait together."""

from dataclasses import dataclass, fields

from mlx_hf_bridge.errors import InputError, RequestLimitError
from mlx_hf_bridge.inference.plain_values import plain_scalar
from mlx_hf_bridge.runtime.device import STREAMS, TOKENS_PER_TEXT

# Texts of a default batch of encode, and how many such batches each stream gets in a turn, at least and at most. More
# texts are sorted by length into batches with less padding: of 2,000 titles and articles, turns of 4 batches have 1.24
# padded tokens per token and turns of 16 have 1.14. But a request that arrives during a turn waits for its end.
_BATCH_SIZE, _FEWEST_BATCHES, _MOST_BATCHES = 32, 4, 16
_BATCH_TOKENS = _BATCH_SIZE * TOKENS_PER_TEXT * STREAMS
# A turn has a batch for each stream for so many waiting requests, within these bounds.
_REQUESTS_PER_BATCH = 4


@dataclass(frozen=True)
class Limits:
    """The limits of a server.

    Args:
        max_concurrent_requests: Requests that are accepted and not yet answered; further ones are refused (429).
            Default: 512.
        max_queued_tokens: Tokens that wait for the model; a request that finds others waiting and would exceed this is
            refused (429). Default: 1,000,000.
        max_batch_tokens: Tokens that are taken from the queue at a time, of all clients. A quarter of it while few
            requests wait. Default: 16 batches of 32 texts for each stream of this machine.
        max_client_batch_size: Texts of one request. Default: 2048, as OpenAI's.
        max_request_tokens: Tokens of one request. Default: 300,000, as OpenAI's.
        max_text_characters: Characters of one text. Default: 1,000,000.
        max_body_bytes: Bytes of the body of one request. Default: 8 MiB.
        request_seconds: Time from the arrival of a request to its answer. Default: 300.
        body_seconds: Time in which the body of a request must arrive. Default: 30.
    """

    max_concurrent_requests: int = 512
    max_queued_tokens: int = 1_000_000
    max_batch_tokens: int = _MOST_BATCHES * _BATCH_TOKENS
    max_client_batch_size: int = 2048
    max_request_tokens: int = 300_000
    max_text_characters: int = 1_000_000
    max_body_bytes: int = 8 * 2**20
    request_seconds: float = 300.0
    body_seconds: float = 30.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = plain_scalar(getattr(self, field.name))
            kinds = (int, float) if field.name.endswith("seconds") else (int,)
            if isinstance(value, bool) or not isinstance(value, kinds) or not value > 0:
                raise InputError(f"{field.name}={value!r}, expected a number greater than 0.")

    def turn_tokens(self, waiting: int) -> int:
        """Return how many tokens the next turn has at most.

        Args:
            waiting: How many requests wait. With many of them it takes longer anyway until each had its turn, and
                larger turns have less padding; with few, small turns keep the next request from waiting.

        Returns:
            From a quarter of `max_batch_tokens`, up to 16 requests, to all of it, from 64 requests on.
        """
        batches = min(max(_FEWEST_BATCHES, waiting // _REQUESTS_PER_BATCH), _MOST_BATCHES)
        return max(1, self.max_batch_tokens * batches // _MOST_BATCHES)

    def check_texts(self, texts: list[str]) -> None:
        """Check the lengths of the texts of a request.

        Args:
            texts: Every text of the request.

        Raises:
            RequestLimitError: If one is too long.
        """
        for index, text in enumerate(texts):
            if len(text) > self.max_text_characters:
                raise RequestLimitError(
                    f"text {index} has {len(text)} characters, and this server takes at most "
                    f"{self.max_text_characters} in a text. Split it."
                )

    def check_count(self, count: int) -> None:
        """Check the number of texts of a request.

        Args:
            count: How many there are.

        Raises:
            RequestLimitError: If there are too many.
        """
        self._check(count, self.max_client_batch_size, "texts", "them")

    def check_tokens(self, count: int) -> None:
        """Check the number of tokens of a request.

        Args:
            count: How many there are.

        Raises:
            RequestLimitError: If there are too many.
        """
        self._check(count, self.max_request_tokens, "tokens", "the texts")

    def _check(self, count: int, most: int, what: str, parts: str) -> None:
        if count > most:
            raise RequestLimitError(
                f"the request has {count} {what}, and this server takes at most {most} in a request. Send {parts} in "
                "several requests."
            )
