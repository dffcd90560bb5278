"""OpenAI's routes: /v1/embeddings and /v1/models.

Reference: github.com/openai/openai-openapi and the `openai` client.
"""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from mlx_hf_bridge.errors import InputError
from mlx_hf_bridge.serving.engine import AsyncEngine
from mlx_hf_bridge.serving.failures import OPENAI
from mlx_hf_bridge.serving.routes.errors import error_responses
from mlx_hf_bridge.serving.routes.json_body import StrictRoute
from mlx_hf_bridge.serving.routes.options import overlong, prompt_options
from mlx_hf_bridge.serving.routes.responses import as_base64, json_response, note
from mlx_hf_bridge.serving.settings import Settings
from mlx_hf_bridge.serving.tasks.embedding import EmbedTexts

TokenId = Annotated[int, Field(ge=0, lt=2**31, strict=True)]
Texts = str | Annotated[list[str], Field(min_length=1)]
Inputs = Texts | Annotated[list[TokenId], Field(min_length=1)] | Annotated[list[list[TokenId]], Field(min_length=1)]


class EmbeddingsRequest(BaseModel):
    """The body of POST /v1/embeddings; input_type, prompt_name and truncate are not OpenAI's."""

    model_config = ConfigDict(extra="forbid", strict=True)
    input: Inputs
    model: str
    dimensions: Annotated[int, Field(ge=1, strict=True)] | None = None
    encoding_format: Literal["float", "base64"] = "float"
    user: str | None = None
    input_type: str | None = None
    prompt_name: str | None = None
    truncate: bool | None = None


class EmbeddingItem(BaseModel):
    """One embedding, as a list of numbers or in base64."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class Usage(BaseModel):
    """How many tokens were computed."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsResponse(BaseModel):
    """The response of POST /v1/embeddings."""

    object: Literal["list"] = "list"
    data: list[EmbeddingItem]
    model: str
    usage: Usage


class ModelItem(BaseModel):
    """One model."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str


class ModelList(BaseModel):
    """The response of GET /v1/models."""

    object: Literal["list"] = "list"
    data: list[ModelItem]


def routes(engine: AsyncEngine, settings: Settings, created: int) -> APIRouter:
    """Return the routes.

    Args:
        engine: The models.
        settings: Whether texts are truncated by default.
        created: When the server was started, in seconds since 1970.

    Returns:
        A router.
    """
    router = APIRouter(tags=["OpenAI"], route_class=StrictRoute, responses=error_responses(OPENAI))

    @router.post("/v1/embeddings", response_model=EmbeddingsResponse)
    async def embeddings(body: EmbeddingsRequest, request: Request) -> Response:
        """Return the embeddings of texts."""
        task = await _embedding_task(engine, settings, body)
        answer = await engine.run(task, body.model)
        write = as_base64 if body.encoding_format == "base64" else (lambda row: row)
        data = [
            {"object": "embedding", "index": index, "embedding": write(row)} for index, row in enumerate(answer.result)
        ]
        usage = {"prompt_tokens": answer.tokens, "total_tokens": answer.tokens}
        content = {"object": "list", "data": data, "model": body.model, "usage": usage}
        return await json_response(content, note(request, answer), answer.result.size)

    @router.get("/v1/models", response_model=ModelList)
    async def models() -> dict[str, Any]:
        """Return the models by all of their names."""
        return {"object": "list", "data": [_item(name, created) for spec in engine.models.specs for name in spec.names]}

    @router.get("/v1/models/{name:path}", response_model=ModelItem)
    async def model(name: str) -> dict[str, Any]:
        """Return one model."""
        engine.models.spec(name)
        return _item(name, created)

    return router


async def _embedding_task(engine: AsyncEngine, settings: Settings, body: EmbeddingsRequest) -> EmbedTexts:
    given: Any = body.input
    # One text, or the ids of one.
    texts = [given] if isinstance(given, str) or isinstance(given[0], int) else given
    if any(not one for one in texts):
        raise InputError("input has an empty text, which OpenAI's API does not take. Leave it out.")
    normalize = False
    if body.dimensions is not None:
        # As OpenAI's: truncated embeddings of a model whose embeddings have length 1 are scaled to it again.
        model = (await engine.load(body.model, EmbedTexts.kinds)).model_of(EmbedTexts.kinds)
        normalize = ends_with_normalize(model)
    return EmbedTexts(
        texts=texts,
        truncate_dim=body.dimensions,
        normalize=normalize,
        overlong=overlong(body.truncate, settings),
        **prompt_options(body.input_type, body.prompt_name),
    )


def ends_with_normalize(model: Any) -> bool:
    """Return whether a model's embeddings have length 1."""
    return type(model._modules[-1]).__name__ == "Normalize"


def _item(name: str, created: int) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created, "owned_by": "mlx-hf-bridge"}
