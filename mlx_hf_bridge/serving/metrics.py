"""Metrics in the format of Prometheus: requests, queue, batches, tokens, times and memory."""

from collections.abc import Iterator

import mlx.core as mx

from mlx_hf_bridge.errors import BackendError
from mlx_hf_bridge.serving.engine import AsyncEngine
from mlx_hf_bridge.serving.observers import Observer

try:
    from prometheus_client import (
        CollectorRegistry,
        Counter,
        Histogram,
        PlatformCollector,
        ProcessCollector,
        generate_latest,
    )
    from prometheus_client.core import GaugeMetricFamily, Metric
    from prometheus_client.registry import Collector
except ImportError as error:
    raise BackendError(
        f"serving needs prometheus-client, which is not installed ({error}). pip install 'mlx-hf-bridge[serve]'"
    ) from error

_PREFIX = "mlx_hf_bridge_"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_SIZES = tuple(2**power for power in range(18))
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics(Observer):
    """Counts what an engine and an app do, apart from those of other engines in the process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self._requests = Counter(
            f"{_PREFIX}requests", "HTTP requests", ("method", "route", "status"), registry=self.registry
        )
        self._request_seconds = self._histogram("request_seconds", "Time to answer an HTTP request", _SECONDS, "route")
        self._texts = Counter(f"{_PREFIX}texts", "Texts computed", ("model",), registry=self.registry)
        self._tokens = Counter(f"{_PREFIX}tokens", "Tokens computed", ("model",), registry=self.registry)
        self._batch_texts = self._histogram("batch_texts", "Texts computed together", _SIZES, "model")
        self._batch_tokens = self._histogram("batch_tokens", "Tokens computed together", _SIZES, "model")
        self._batch_seconds = self._histogram("batch_seconds", "Time to compute a batch", _SECONDS, "model")

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], label: str) -> Histogram:
        return Histogram(f"{_PREFIX}{name}", text, (label,), buckets=buckets, registry=self.registry)

    def watch(self, engine: AsyncEngine) -> None:
        """Report the queue and the memory of an engine too, as they are when metrics are read."""
        self.registry.register(_State(engine))

    def turn(self, model: str, texts: int, tokens: int, seconds: float) -> None:
        """Count a turn."""
        self._texts.labels(model).inc(texts)
        self._tokens.labels(model).inc(tokens)
        self._batch_texts.labels(model).observe(texts)
        self._batch_tokens.labels(model).observe(tokens)
        self._batch_seconds.labels(model).observe(seconds)

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count an HTTP request."""
        self._requests.labels(method, route, str(status)).inc()
        self._request_seconds.labels(route).observe(seconds)

    def render(self) -> bytes:
        """Return all metrics as text."""
        return generate_latest(self.registry)


class _State(Collector):
    """What is read when it is asked for, rather than counted."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        """Yield gauges."""
        requests, tokens = self._engine.waiting
        for name, text, value in (
            ("active_requests", "Requests that are accepted and not yet answered", self._engine.active),
            ("queue_requests", "Requests that wait to be computed", requests),
            ("queue_tokens", "Tokens that wait to be computed", tokens),
            ("mlx_active_bytes", "Memory of arrays of MLX", mx.get_active_memory()),
            ("mlx_cache_bytes", "Memory that MLX keeps to use again", mx.get_cache_memory()),
            ("mlx_peak_bytes", "Highest memory of arrays of MLX", mx.get_peak_memory()),
        ):
            yield GaugeMetricFamily(f"{_PREFIX}{name}", text, value=value)
        weights = GaugeMetricFamily(f"{_PREFIX}model_bytes", "Memory of weights", labels=("model",))
        for model in self._engine.models.in_memory:
            weights.add_metric((model.id,), model.loaded.nbytes)
        yield weights
