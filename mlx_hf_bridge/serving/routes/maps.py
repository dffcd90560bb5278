"""The route for maps, which the page draws: texts as points in two dimensions, close to those that they are like."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from mlx_hf_bridge.errors import BackendError, InputError, RequestLimitError, RequestTimeoutError
from mlx_hf_bridge.serving.engine import AsyncEngine
from mlx_hf_bridge.serving.failures import OPENAI
from mlx_hf_bridge.serving.projection import choose_method, project
from mlx_hf_bridge.serving.routes.errors import error_responses
from mlx_hf_bridge.serving.routes.json_body import StrictRoute
from mlx_hf_bridge.serving.routes.openai import Usage
from mlx_hf_bridge.serving.routes.responses import json_response
from mlx_hf_bridge.serving.tasks.base import TRUNCATE, Answer
from mlx_hf_bridge.serving.tasks.embedding import EmbedTexts

# Texts that are embedded at a time, so that requests of others are computed between them.
_TEXTS_AT_ONCE = 256
_MOST = 5000


class MapRequest(BaseModel):
    """The body of POST /v1/map."""

    model_config = ConfigDict(extra="forbid", strict=True)
    input: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]
    model: str | None = None
    method: Literal["umap", "pca"] | None = None


class MapResponse(BaseModel):
    """The response of POST /v1/map: a point for each text."""

    object: Literal["map"] = "map"
    model: str
    method: str
    data: list[list[float]]
    usage: Usage


def routes(engine: AsyncEngine) -> APIRouter:
    """Return the routes.

    Args:
        engine: The models.

    Returns:
        A router.
    """
    router = APIRouter(tags=["Map"], route_class=StrictRoute, responses=error_responses(OPENAI))
    # One at a time: UMAP of a few thousand texts takes seconds.
    projecting = ThreadPoolExecutor(1, thread_name_prefix="mlx-hf-bridge-map")

    @router.post("/v1/map", response_model=MapResponse)
    async def map_texts(body: MapRequest, request: Request) -> Response:
        """Return texts as points in two dimensions, by their embeddings; texts that are too long are truncated."""
        if len(body.input) > _MOST:
            raise RequestLimitError(f"the request has {len(body.input)} texts, and a map has at most {_MOST}.")
        try:
            method = choose_method(body.method, len(body.input))
        except BackendError as error:
            raise InputError(str(error)) from error
        answers = await _embed(engine, body)
        tokens, name = sum(one.tokens for one in answers), answers[-1].model
        rows = np.concatenate([one.result for one in answers])
        seconds = engine.limits.request_seconds
        try:
            async with asyncio.timeout(seconds):
                points = await asyncio.get_running_loop().run_in_executor(projecting, project, rows, method)
        except TimeoutError as error:
            raise RequestTimeoutError(f"the map was not drawn within {seconds:g} seconds. Use pca.") from error
        request.state.facts = {"model": name, "tokens": tokens}
        content: dict[str, Any] = {
            "object": "map",
            "model": body.model or name,
            "method": method,
            "data": points,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }
        return await json_response(content, numbers=points.size)

    return router


async def _embed(engine: AsyncEngine, body: MapRequest) -> list[Answer]:
    """Embed the texts of a request in parts."""
    size = min(_TEXTS_AT_ONCE, engine.limits.max_client_batch_size)
    answers: list[Answer] = []
    for start in range(0, len(body.input), size):
        task = EmbedTexts(texts=body.input[start : start + size], overlong=TRUNCATE)
        answers.append(await engine.run(task, body.model))
    return answers
