"""Responses: JSON that is written in another thread where it is large, and what was computed, in headers and logs."""

import asyncio
import base64
import json
from typing import Any

import numpy as np
from fastapi import Request, Response

from mlx_hf_bridge.serving.tasks.base import Answer
from mlx_hf_bridge.serving.telemetry import annotate

# Numbers from which on writing JSON takes longer than handing it to another thread.
_MANY = 20_000


async def json_response(content: Any, headers: dict[str, str] | None = None, numbers: int = 0) -> Response:
    """Return a JSON response.

    Args:
        content: What becomes JSON; numpy arrays become lists.
        headers: Headers of the response. Default: none.
        numbers: About how many numbers there are. Default: 0.

    Returns:
        The response.
    """
    if numbers > _MANY:
        # Other requests go on meanwhile.
        body = await asyncio.to_thread(_write, content)
    else:
        body = _write(content)
    return Response(body, 200, headers, "application/json")


def _write(content: Any) -> bytes:
    return json.dumps(content, default=_listed, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def _listed(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not JSON")


def as_base64(row: np.ndarray) -> str:
    """Return an embedding as OpenAI's encoding_format "base64": its float32 values, little-endian."""
    return base64.b64encode(np.ascontiguousarray(row, "<f4").tobytes()).decode("ascii")


def note(request: Request, answer: Answer) -> dict[str, str]:
    """Note in the access log what was computed for a request.

    Args:
        request: The request.
        answer: The answer.

    Returns:
        Headers that say so too; of Text Embeddings Inference, and x-truncated-texts where texts were truncated.
    """
    seconds = (answer.tokenization_seconds, answer.queue_seconds, answer.inference_seconds)
    tokenization, queued, inference = (round(one * 1000) for one in seconds)
    request.state.facts = {
        "model": answer.model,
        "tokens": answer.tokens,
        "truncated": answer.truncated,
        "queue_ms": queued,
        "inference_ms": inference,
    }
    annotate(request.state.facts)
    headers = {
        "x-compute-type": "mlx",
        "x-compute-tokens": str(answer.tokens),
        "x-total-time": str(tokenization + queued + inference),
        "x-tokenization-time": str(tokenization),
        "x-queue-time": str(queued),
        "x-inference-time": str(inference),
    }
    return headers | ({"x-truncated-texts": str(answer.truncated)} if answer.truncated else {})
