"""Errors as the protocols write them: OpenAI's, Text Embeddings Inference's and Cohere's."""

import logging
from dataclasses import dataclass
from typing import Any

from mlx_hf_bridge.errors import (
    ArgumentTypeError,
    BridgeError,
    EmptyInputError,
    InputError,
    ModelLoadError,
    NonFiniteError,
    OverlongTextError,
    QueueFullError,
    RequestLimitError,
    RequestTimeoutError,
    ShuttingDownError,
    TokenRangeError,
    UnknownNameError,
    UnservedModelError,
)

logger = logging.getLogger(__name__)

OPENAI, TEI, COHERE = "openai", "tei", "cohere"
_TEI_PATHS = (
    *("/embed", "/embed_all", "/embed_sparse", "/rerank", "/predict", "/similarity", "/tokenize", "/decode"),
    *("/info", "/health", "/ping", "/metrics", "/"),
)
_COHERE_PATHS = ("/v1/rerank", "/v2/rerank")
# How long clients of a server that is shutting down may wait before they try again.
_SECONDS_TO_RESTART = 10


@dataclass(frozen=True)
class Failure:
    """Why a request is not answered.

    Args:
        status: The HTTP status where a protocol has no other one.
        message: What was given, what was expected, what to do.
        reason: What kind of error it is, by a name that all protocols map to their own.
        param: The field of the request; None if it is none.
        retry_after: In how many seconds to try again; None for never.
    """

    status: int
    message: str
    reason: str = "invalid"
    param: str | None = None
    retry_after: int | None = None

    @property
    def headers(self) -> dict[str, str]:
        """Headers that go with it."""
        found = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        return found | ({"WWW-Authenticate": "Bearer"} if self.status == 401 else {})


# The first that matches: status, reason.
_KINDS: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], int, str], ...] = (
    (QueueFullError, 429, "overloaded"),
    (ShuttingDownError, 503, "unavailable"),
    (RequestTimeoutError, 504, "timeout"),
    (UnservedModelError, 404, "model"),
    (RequestLimitError, 413, "too_large"),
    ((OverlongTextError, TokenRangeError), 400, "overlong"),
    (EmptyInputError, 400, "empty"),
    (NonFiniteError, 500, "inference"),
    ((InputError, ArgumentTypeError, UnknownNameError), 400, "invalid"),
)


def failure_of(error: BaseException) -> Failure:
    """Return what a client learns about an error.

    Args:
        error: What was raised for a request.

    Returns:
        The failure. An error that is not this package's own is described by its type only.
    """
    if isinstance(error, ModelLoadError):
        # Its message may have paths of this machine.
        logger.error("%s", error)
        return Failure(503, f"the model {error.model!r} cannot be loaded. The server's log says why.", "load")
    for kinds, status, reason in _KINDS:
        if isinstance(error, kinds):
            after = getattr(error, "retry_after", _SECONDS_TO_RESTART if reason == "unavailable" else None)
            return Failure(status, str(error), reason, retry_after=after)
    if isinstance(error, BridgeError):
        return Failure(500, str(error), "inference")
    return Failure(500, f"the server failed ({type(error).__name__}). Its log says more.", "inference")


def protocol_of(path: str) -> str:
    """Return the protocol of a route.

    Args:
        path: The path of the request.

    Returns:
        OPENAI, TEI or COHERE.
    """
    if path in _COHERE_PATHS:
        return COHERE
    return TEI if path in _TEI_PATHS else OPENAI


# OpenAI: type and code; TEI: error_type, and its status where it is another one.
_OPENAI = {
    "invalid": ("invalid_request_error", None),
    "empty": ("invalid_request_error", None),
    "overlong": ("invalid_request_error", "context_length_exceeded"),
    "too_large": ("invalid_request_error", "request_too_large"),
    "model": ("invalid_request_error", "model_not_found"),
    "unauthorized": ("invalid_request_error", "invalid_api_key"),
    "overloaded": ("rate_limit_exceeded", "rate_limit_exceeded"),
    "not_found": ("invalid_request_error", None),
}
_TEI: dict[str, tuple[str, int | None]] = {
    "invalid": ("Validation", 422),
    "empty": ("Empty", 400),
    "overlong": ("Validation", 413),
    "too_large": ("Validation", 413),
    "model": ("Backend", 424),
    "load": ("Backend", 424),
    "overloaded": ("Overloaded", 429),
    "inference": ("Backend", 424),
    "unavailable": ("Unhealthy", 503),
    "timeout": ("Backend", None),
}


def render(failure: Failure, protocol: str) -> tuple[int, dict[str, Any]]:
    """Return the status and the body of a failure, as a protocol writes them.

    Args:
        failure: Why a request is not answered.
        protocol: OPENAI, TEI or COHERE.

    Returns:
        The HTTP status, and what becomes JSON.
    """
    if protocol == TEI:
        kind, status = _TEI.get(failure.reason, ("Validation", None))
        return status or failure.status, {"error": failure.message, "error_type": kind}
    if protocol == COHERE:
        return failure.status, {"message": failure.message}
    kind, code = _OPENAI.get(failure.reason, ("server_error", None))
    body = {"message": failure.message, "type": kind, "param": failure.param, "code": code}
    return failure.status, {"error": body}
