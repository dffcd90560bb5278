"""The errors of each protocol as schemas, for the description of the API at /openapi.json."""

from typing import Any, Literal

from fastapi import FastAPI
from pydantic import BaseModel

from mlx_hf_bridge.serving.failures import COHERE, OPENAI, TEI

_REASONS = {
    400: "The request is not valid",
    401: "No valid API key was given",
    404: "There is no such model",
    408: "The body did not arrive in time",
    413: "The request, or a text, is too large",
    415: "The body is not JSON, or is compressed",
    422: "The request is not valid",
    424: "The model cannot do this",
    429: "The server is busy; Retry-After says when to try again",
    503: "The server is shutting down, or the model cannot be loaded",
    504: "The request took too long",
}
_STATUSES = {
    OPENAI: (400, 401, 404, 408, 413, 415, 429, 503, 504),
    COHERE: (400, 401, 404, 408, 413, 415, 429, 503, 504),
    TEI: (400, 401, 408, 413, 415, 422, 424, 429, 503, 504),
}


class OpenAIErrorDetail(BaseModel):
    """What is wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIError(BaseModel):
    """An error in OpenAI's form."""

    error: OpenAIErrorDetail


class TEIError(BaseModel):
    """An error in the form of Text Embeddings Inference."""

    error: str
    error_type: Literal["Unhealthy", "Backend", "Overloaded", "Validation", "Tokenizer", "Empty"]


class CohereError(BaseModel):
    """An error in Cohere's form."""

    message: str


_FORMS: dict[str, type[BaseModel]] = {OPENAI: OpenAIError, TEI: TEIError, COHERE: CohereError}


def error_responses(protocol: str) -> dict[int | str, dict[str, Any]]:
    """Return the errors of a protocol's routes, as FastAPI describes responses.

    Args:
        protocol: OPENAI, TEI or COHERE.

    Returns:
        Status -> form and description.
    """
    return {status: {"model": _FORMS[protocol], "description": _REASONS[status]} for status in _STATUSES[protocol]}


def describe(app: FastAPI) -> dict[str, Any]:
    """Return the description of an app's API without FastAPI's own form of errors, which no route here has.

    Args:
        app: The app.

    Returns:
        OpenAPI.
    """
    if app.openapi_schema is None:
        schema = FastAPI.openapi(app)
        for operations in schema["paths"].values():
            for operation in operations.values():
                responses = operation["responses"]
                if "HTTPValidationError" in str(responses.get("422")):
                    del responses["422"]
        for name in ("HTTPValidationError", "ValidationError"):
            schema.get("components", {}).get("schemas", {}).pop(name, None)
        app.openapi_schema = schema
    return app.openapi_schema
