"""The routes about the server itself: /health, /info and /metrics."""

from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse

from mlx_hf_bridge.errors import ShuttingDownError
from mlx_hf_bridge.serving.engine import AsyncEngine
from mlx_hf_bridge.serving.metrics import CONTENT_TYPE, Metrics
from mlx_hf_bridge.serving.registry import ServedModel
from mlx_hf_bridge.serving.settings import Settings
from mlx_hf_bridge.serving.tasks.classification import CLASSIFIER, TOKEN_CLASSIFIER, Classifier
from mlx_hf_bridge.serving.tasks.embedding import SPARSE
from mlx_hf_bridge.serving.tasks.entities import ENTITY_FINDER, EntityFinder
from mlx_hf_bridge.serving.tasks.scoring import RERANKER
from mlx_hf_bridge.version import __version__

# TEI's names of poolings.
_SPARSE_POOLING = "splade"
_LABELED = (CLASSIFIER, RERANKER, TOKEN_CLASSIFIER, ENTITY_FINDER)


def routes(engine: AsyncEngine, settings: Settings, metrics: Metrics) -> APIRouter:
    """Return the routes.

    Args:
        engine: The models.
        settings: Whether texts are truncated by default.
        metrics: What /metrics shows.

    Returns:
        A router.
    """
    router = APIRouter(tags=["Server"])

    @router.get("/health/live")
    async def live() -> dict[str, str]:
        """Say that the process lives."""
        return {"status": "ok"}

    @router.get("/health", response_class=Response)
    @router.head("/health", include_in_schema=False)
    @router.get("/health/ready", include_in_schema=False)
    @router.get("/ping", include_in_schema=False)
    async def ready() -> Response:
        """Say whether requests are answered: not while the server shuts down."""
        if engine.closed:
            raise ShuttingDownError("the server is shutting down.")
        return Response(status_code=200)

    @router.get("/info")
    async def info(model: str | None = None) -> dict[str, Any]:
        """Return facts about a model, the first one by default, and the limits of the server."""
        return _info(await engine.load(model), engine, settings)

    @router.get("/metrics", response_class=PlainTextResponse)
    async def show() -> Response:
        """Return metrics in the format of Prometheus."""
        return Response(metrics.render(), media_type=CONTENT_TYPE)

    return router


def _info(model: ServedModel, engine: AsyncEngine, settings: Settings) -> dict[str, Any]:
    limits, owner = engine.limits, _transformers_model(model)
    loaded = None if owner is None else owner.loaded
    most = getattr(model.loaded.model, "max_seq_length", None)
    if most is None and loaded is not None:
        most = loaded.config.max_length
    return {
        "model_id": model.id,
        "model_sha": None if loaded is None else loaded.source.revision,
        "model_dtype": "float32" if loaded is None else str(loaded.dtype).rpartition(".")[2],
        "model_type": _model_type(model, owner),
        "max_concurrent_requests": limits.max_concurrent_requests,
        "max_input_length": most if isinstance(most, int) else limits.max_request_tokens,
        "max_batch_tokens": limits.max_batch_tokens,
        "max_batch_requests": None,
        "max_client_batch_size": limits.max_client_batch_size,
        "auto_truncate": settings.auto_truncate,
        "tokenization_workers": engine.tokenization_workers,
        "version": __version__,
        "sha": None,
        "docker_label": None,
        "kind": model.kind,
        "warnings": list(model.loaded.warnings),
        "models": [
            {"id": spec.id, "aliases": list(spec.aliases), "kind": engine.models.kind_of(spec)}
            for spec in engine.models.specs
        ],
    }


def _transformers_model(model: ServedModel) -> Any:
    served = model.loaded.model
    if isinstance(served, Classifier):
        return served.labels.model
    if isinstance(served, EntityFinder):
        return served.model.loaded.text
    return served.model if model.kind == TOKEN_CLASSIFIER else served.transformers_model


def _model_type(model: ServedModel, owner: Any) -> dict[str, Any]:
    """Return what Text Embeddings Inference says of a model; it knows embedding models, rerankers and classifiers."""
    if model.kind in _LABELED:
        # A GLiNER model has no labels of its own, and a reranker may be put together from modules.
        config = None if owner is None or model.kind == ENTITY_FINDER else owner.config
        ids = {} if config is None else {"id2label": dict(config.id2label), "label2id": dict(config.label2id)}
        kind = RERANKER if model.kind == RERANKER else CLASSIFIER
        return {kind: {"id2label": {}, "label2id": {}, **ids}}
    if model.kind == SPARSE:
        return {"embedding": {"pooling": _SPARSE_POOLING}}
    modes = [getattr(module, "pooling_mode", None) for module in model.loaded.model._modules]
    return {"embedding": {"pooling": next((str(mode) for mode in modes if mode), "none")}}
