"""The ASGI app: all routes over one engine, behind the gate."""

import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from mlx_hf_bridge.errors import ArgumentTypeError, BackendError, BridgeError
from mlx_hf_bridge.serving.engine import AsyncEngine
from mlx_hf_bridge.serving.failures import Failure, failure_of, protocol_of, render
from mlx_hf_bridge.serving.gate import App, Gate
from mlx_hf_bridge.serving.metrics import Metrics
from mlx_hf_bridge.serving.settings import Settings
from mlx_hf_bridge.serving.telemetry import instrument
from mlx_hf_bridge.version import __version__

try:
    from fastapi import FastAPI, Request, Response
    from fastapi.exceptions import RequestValidationError
    from starlette.exceptions import HTTPException
    from starlette.middleware.cors import CORSMiddleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
except ImportError as error:
    raise BackendError(
        f"serving needs FastAPI, which is not installed ({error}). pip install 'mlx-hf-bridge[serve]'"
    ) from error


def create_app(engine: AsyncEngine, settings: Settings | None = None) -> App:
    """Return an ASGI app that answers by an engine's models.

    Args:
        engine: The models. The app closes it when it is shut down.
        settings: Keys, origins and hosts. Default: Settings(), which asks for no key.

    Returns:
        An app for any ASGI server.

    Raises:
        ArgumentTypeError: If either is of another type.
        BackendError: If FastAPI is not installed.
    """
    if not isinstance(engine, AsyncEngine) or not isinstance(settings, Settings | None):
        raise ArgumentTypeError(
            f"got a {type(engine).__name__} and a {type(settings).__name__}, expected an AsyncEngine and Settings."
        )
    from mlx_hf_bridge.serving.routes import cohere, errors, labels, maps, openai, page, state, tei

    settings, metrics = settings or Settings(), engine.observer
    if not isinstance(metrics, Metrics):
        metrics = engine.observer = Metrics()
    metrics.watch(engine)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await engine.close()

    app = FastAPI(title="mlx-hf-bridge", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    for router in (
        openai.routes(engine, settings, round(time.time())),
        tei.routes(engine, settings),
        cohere.routes(engine),
        labels.routes(engine, settings),
        maps.routes(engine),
        state.routes(engine, settings, metrics),
        page.routes(),
    ):
        app.include_router(router)
    # FastAPI's way to change the description of an API.
    app.openapi = partial(errors.describe, app)  # type: ignore[method-assign]
    app.add_exception_handler(RequestValidationError, _invalid_request)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(BridgeError, _error)
    app.add_exception_handler(Exception, _error)
    if settings.telemetry:
        instrument(app)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type", "x-request-id"],
        )
    if settings.allowed_hosts:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(settings.allowed_hosts), www_redirect=False)
    return Gate(app, settings, engine.limits, lambda: engine.closed, metrics.answered)


def respond_to_failure(request: Request, failure: Failure, headers: Mapping[str, str] | None = None) -> Response:
    """Return the response to a request that failed, in the form of its protocol."""
    status, content = render(failure, protocol_of(request.url.path))
    return Response(json.dumps(content), status, {**(headers or {}), **failure.headers}, "application/json")


async def _error(request: Request, error: Exception) -> Response:
    return respond_to_failure(request, failure_of(error))


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code not in (404, 405):
        # The body, which json_body.py refused.
        reason = "invalid" if error.status_code == 400 else "unread"
        return respond_to_failure(request, Failure(error.status_code, str(error.detail), reason))
    what = f"{error.detail} ({request.method} {request.url.path!s:.80}). /openapi.json lists the routes."
    # Of 405: Allow.
    return respond_to_failure(request, Failure(error.status_code, what, "not_found"), error.headers)


async def _invalid_request(request: Request, error: Exception) -> Response:
    """Say which field is wrong; the value is left out, since it may be a text of the request."""
    assert isinstance(error, RequestValidationError)
    first: dict[str, Any] = error.errors()[0]
    place = [str(part) for part in first["loc"] if part != "body"]
    field = ".".join(place[:1])
    message = f"{field or 'the body'}: {first['msg']}." if first["type"] != "json_invalid" else "the body is not JSON."
    return respond_to_failure(request, Failure(400, message, param=field or None))
