"""What a server takes: limits on each request, and on all that wait together."""

from dataclasses import dataclass, fields

from mlx_hf_bridge.errors import InputError, RequestLimitError
from mlx_hf_bridge.inference.plain_values import plain_scalar
from mlx_hf_bridge.runtime.device import STREAMS, TOKENS_PER_TEXT

# Texts of a default batch of encode, and how many such batches each stream gets in a turn: enough to sort texts by
# length, and few enough that a request which arrives during a turn does not wait long.
_BATCH_SIZE, _BATCHES_PER_STREAM = 32, 4


@dataclass(frozen=True)
class Limits:
    """The limits of a server.

    Args:
        max_concurrent_requests: Requests that are accepted and not yet answered; further ones are refused (429).
            Default: 512.
        max_queued_tokens: Tokens that wait for the model; a request that finds others waiting and would exceed this is
            refused (429). Default: 1,000,000.
        max_batch_tokens: Tokens that are computed together, of all clients. Default: 4 batches of 32 texts for each
            stream of this machine.
        max_client_batch_size: Texts of one request. Default: 2048, as OpenAI's.
        max_request_tokens: Tokens of one request. Default: 300,000, as OpenAI's.
        max_text_characters: Characters of one text. Default: 1,000,000.
        max_body_bytes: Bytes of the body of one request. Default: 8 MiB.
        request_seconds: Time from the arrival of a request to its answer. Default: 300.
        body_seconds: Time in which the body of a request must arrive. Default: 30.
    """

    max_concurrent_requests: int = 512
    max_queued_tokens: int = 1_000_000
    max_batch_tokens: int = _BATCHES_PER_STREAM * _BATCH_SIZE * TOKENS_PER_TEXT * STREAMS
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
