"""The routes for labels: /v1/classify, in Jina's form, and /v1/ner."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from mlx_hf_bridge.errors import InputError
from mlx_hf_bridge.serving.calls import find_labeled
from mlx_hf_bridge.serving.engine import AsyncEngine
from mlx_hf_bridge.serving.failures import OPENAI
from mlx_hf_bridge.serving.routes.errors import error_responses
from mlx_hf_bridge.serving.routes.json_body import StrictRoute
from mlx_hf_bridge.serving.routes.openai import Usage
from mlx_hf_bridge.serving.routes.options import overlong
from mlx_hf_bridge.serving.routes.responses import json_response, note
from mlx_hf_bridge.serving.settings import Settings
from mlx_hf_bridge.serving.tasks.base import Answer, Task
from mlx_hf_bridge.serving.tasks.classification import ClassifyTexts, ClassifyZeroShot, FindEntities

# Options of token classifiers, and of models that look for labels of the request.
_OF_MODEL = {"aggregation_strategy", "ignore_labels", "stride"}
_OF_LABELS = {"threshold", "flat_ner", "multi_label"}
Text = Annotated[str, Field(min_length=1)]
Texts = Text | Annotated[list[Text], Field(min_length=1)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    model: str | None = None
    input: Texts
    truncate: bool | None = None


class ClassifyRequest(_Body):
    """The body of POST /v1/classify; with labels, those are scored (zero-shot)."""

    labels: Annotated[list[Text], Field(min_length=1, max_length=256)] | None = None
    hypothesis_template: str | None = None
    multi_label: bool | None = None
    top_k: Annotated[int, Field(ge=1, strict=True)] | None = None


class NerRequest(_Body):
    """The body of POST /v1/ner; with labels, those are looked for, by a GLiNER model."""

    labels: Annotated[list[Text], Field(min_length=1, max_length=256)] | dict[Text, Text] | None = None
    threshold: Annotated[float, Field(ge=0, le=1)] | None = None
    flat_ner: bool | None = None
    multi_label: bool | None = None
    aggregation_strategy: Literal["none", "simple", "first", "average", "max"] | None = None
    ignore_labels: list[str] | None = None
    stride: Annotated[int, Field(ge=1, strict=True)] | None = None


class Label(BaseModel):
    """The score of one label."""

    label: str
    score: float


class Classification(BaseModel):
    """The labels of one text, best first."""

    object: Literal["classification"] = "classification"
    index: int
    prediction: str
    score: float
    predictions: list[Label]


class ClassifyResponse(BaseModel):
    """The response of POST /v1/classify."""

    object: Literal["list"] = "list"
    model: str
    data: list[Classification]
    usage: Usage


class Entities(BaseModel):
    """The entities of one text, as the pipeline token-classification or MLXGLiNER.inference returns them."""

    object: Literal["entities"] = "entities"
    index: int
    entities: list[dict[str, Any]]


class NerResponse(BaseModel):
    """The response of POST /v1/ner."""

    object: Literal["list"] = "list"
    model: str
    data: list[Entities]
    usage: Usage


def routes(engine: AsyncEngine, settings: Settings) -> APIRouter:
    """Return the routes.

    Args:
        engine: The models.
        settings: Whether texts are truncated by default.

    Returns:
        A router.
    """
    router = APIRouter(tags=["Labels"], route_class=StrictRoute, responses=error_responses(OPENAI))

    async def respond(task: Task, body: _Body, request: Request, write: Any) -> Response:
        answer: Answer = await engine.run(task, body.model)
        data = [write(index, one) for index, one in enumerate(answer.result)]
        usage = {"prompt_tokens": answer.tokens, "total_tokens": answer.tokens}
        content = {"object": "list", "model": body.model or answer.model, "data": data, "usage": usage}
        return await json_response(content, note(request, answer))

    @router.post("/v1/classify", response_model=ClassifyResponse)
    async def classify(body: ClassifyRequest, request: Request) -> Response:
        """Return labels of texts with their scores: the model's own, or those of the request (zero-shot)."""
        texts, long = _listed(body.input), overlong(body.truncate, settings)
        if body.labels is None:
            task: Task = ClassifyTexts(texts=texts, overlong=long)
        else:
            options = {"hypothesis_template": body.hypothesis_template, "multi_label": body.multi_label}
            task = ClassifyZeroShot(texts=texts, labels=body.labels, options=options, overlong=long)
        return await respond(task, body, request, lambda index, one: _classification(index, one, body.top_k))

    @router.post("/v1/ner", response_model=NerResponse)
    async def ner(body: NerRequest, request: Request) -> Response:
        """Return the entities of texts."""
        task = _entity_task(body, _listed(body.input), overlong(body.truncate, settings))
        return await respond(
            task, body, request, lambda index, one: {"object": "entities", "index": index, "entities": one}
        )

    return router


def _entity_task(body: NerRequest, texts: list[str], long: str) -> Task:
    of_model, of_labels = (body.model_dump(include=names, exclude_none=True) for names in (_OF_MODEL, _OF_LABELS))
    if body.labels is None:
        if of_labels:
            raise InputError(f"got {', '.join(of_labels)} without labels, which they are for. Leave it out.")
        return FindEntities(texts=texts, options={"aggregation_strategy": "simple", **of_model}, overlong=long)
    if of_model:
        raise InputError(f"got {', '.join(of_model)} with labels, which have no such option. Leave it out.")
    return find_labeled(texts, body.labels, of_labels, long)


def _listed(given: str | list[str]) -> list[str]:
    return [given] if isinstance(given, str) else given


def _classification(index: int, result: Any, top_k: int | None) -> dict[str, Any]:
    if isinstance(result, dict):
        result = [
            {"label": label, "score": score} for label, score in zip(result["labels"], result["scores"], strict=True)
        ]
    best = result[0]
    return {
        "object": "classification",
        "index": index,
        "prediction": best["label"],
        "score": best["score"],
        "predictions": result[:top_k],
    }
