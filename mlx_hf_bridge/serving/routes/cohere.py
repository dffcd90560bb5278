"""Cohere's and Jina's routes for reranking: /v1/rerank and /v2/rerank.

Reference: docs.cohere.com/reference/rerank and jina.ai/reranker. The response has what both clients read. Documents
that are too long are truncated, as the protocol says, and a warning in `meta` counts them.
"""

from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from mlx_hf_bridge.errors import InputError
from mlx_hf_bridge.serving.engine import AsyncEngine
from mlx_hf_bridge.serving.failures import COHERE
from mlx_hf_bridge.serving.routes.errors import error_responses
from mlx_hf_bridge.serving.routes.json_body import StrictRoute
from mlx_hf_bridge.serving.routes.responses import json_response, note
from mlx_hf_bridge.serving.tasks.base import TRUNCATE, Answer
from mlx_hf_bridge.serving.tasks.scoring import ScorePairs

# Cohere counts a search for every 100 documents.
_DOCUMENTS_A_SEARCH = 100
_MAX_TOKENS = 4096
Document = str | dict[str, Any]


class RerankRequest(BaseModel):
    """The body of POST /v2/rerank; return_documents is Jina's and of /v1/rerank."""

    model_config = ConfigDict(extra="forbid", strict=True)
    model: str
    query: str
    documents: Annotated[list[Document], Field(min_length=1)]
    top_n: Annotated[int, Field(ge=1, strict=True)] | None = None
    return_documents: bool = False
    max_tokens_per_doc: Annotated[int, Field(ge=1, strict=True)] = _MAX_TOKENS
    priority: int | None = None


class RerankRequestV1(RerankRequest):
    """The body of POST /v1/rerank."""

    rank_fields: list[str] | None = None
    max_chunks_per_doc: int | None = None


class RankedDocument(BaseModel):
    """The text of a document."""

    text: str


class RankedItem(BaseModel):
    """The score of one document, from 0 to 1."""

    index: int
    relevance_score: float
    document: RankedDocument | None = None


class RerankResponse(BaseModel):
    """The response of both routes."""

    id: str
    model: str
    object: Literal["list"] = "list"
    results: list[RankedItem]
    meta: dict[str, Any]
    usage: dict[str, int]


def routes(engine: AsyncEngine) -> APIRouter:
    """Return the routes.

    Args:
        engine: The models.

    Returns:
        A router.
    """
    router = APIRouter(tags=["Cohere and Jina"], route_class=StrictRoute, responses=error_responses(COHERE))

    async def rank(body: RerankRequest, request: Request, version: str, fields: list[str] | None) -> Response:
        documents = [_text(document, index, fields) for index, document in enumerate(body.documents)]
        task = ScorePairs(
            pairs=[(body.query, document) for document in documents],
            activation="sigmoid",
            overlong=TRUNCATE,
            max_document_tokens=body.max_tokens_per_doc,
        )
        answer = await engine.run(task, body.model)
        order = np.argsort(-answer.result, kind="stable")[: body.top_n]
        results: list[dict[str, Any]] = [
            {"index": int(index), "relevance_score": float(answer.result[index])} for index in order
        ]
        if body.return_documents:
            results = [{**one, "document": {"text": documents[one["index"]]}} for one in results]
        content = {
            "id": request.state.request_id,
            "model": body.model,
            "object": "list",
            "results": results,
            "meta": _meta(version, answer, len(documents)),
            "usage": {"total_tokens": answer.tokens, "prompt_tokens": answer.tokens},
        }
        return await json_response(content, note(request, answer))

    @router.post("/v1/rerank", response_model=RerankResponse, response_model_exclude_none=True)
    async def rerank_v1(body: RerankRequestV1, request: Request) -> Response:
        """Return documents in the order of their relevance to a query."""
        if body.max_chunks_per_doc is not None and body.max_chunks_per_doc != 1:
            raise InputError("max_chunks_per_doc is not supported: a document is read once. Leave it out.")
        return await rank(body, request, "1", body.rank_fields)

    @router.post("/v2/rerank", response_model=RerankResponse, response_model_exclude_none=True)
    async def rerank_v2(body: RerankRequest, request: Request) -> Response:
        """Return documents in the order of their relevance to a query."""
        return await rank(body, request, "2", None)

    return router


def _text(document: Document, index: int, fields: list[str] | None) -> str:
    """Return the text of a document: itself, its "text", or its rank_fields in their order."""
    if isinstance(document, str):
        return document
    names = fields or ["text"]
    values = [document.get(name) for name in names]
    if not all(isinstance(value, str) for value in values):
        raise InputError(f"document {index} lacks a text in the fields {names}. Send texts, or documents with them.")
    return "\n".join(map(str, values))


def _meta(version: str, answer: Answer, documents: int) -> dict[str, Any]:
    searches = -(-documents // _DOCUMENTS_A_SEARCH)
    meta: dict[str, Any] = {"api_version": {"version": version}, "billed_units": {"search_units": searches}}
    if answer.truncated:
        meta["warnings"] = [f"{answer.truncated} of {documents} documents were too long and were truncated."]
    return meta
