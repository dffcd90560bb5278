"""Traces of requests for OpenTelemetry, by its instrumentation of FastAPI; without any text of a request."""

from typing import Any

from mlx_hf_bridge.errors import BackendError
from mlx_hf_bridge.version import __version__

# Asked for often, and of no interest.
_NOT_TRACED = "health,ping,metrics,page"


def instrument(app: Any) -> None:
    """Trace the requests of an app, and send traces to OTEL_EXPORTER_OTLP_ENDPOINT, by default on this machine.

    Args:
        app: The FastAPI app.

    Raises:
        BackendError: If OpenTelemetry is not installed.
    """
    try:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise BackendError(
            f"traces need OpenTelemetry, which is not installed ({error}). pip install 'mlx-hf-bridge[otel]'"
        ) from error
    provider = trace.get_tracer_provider()
    # A program that serves the app may have set one up.
    if not isinstance(provider, TracerProvider):
        # Variables such as OTEL_SERVICE_NAME take precedence.
        name = {"service.name": "mlx-hf-bridge", "service.version": __version__}
        provider = TracerProvider(resource=Resource(name).merge(Resource.create()))
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        trace.set_tracer_provider(provider)
    FastAPIInstrumentor.instrument_app(app, tracer_provider=provider, excluded_urls=_NOT_TRACED)


def annotate(facts: dict[str, Any]) -> None:
    """Add what was computed for a request to its span, if requests are traced.

    Args:
        facts: Names and values.
    """
    try:
        from opentelemetry import trace
    except ImportError:
        return
    span = trace.get_current_span()
    for name, value in facts.items():
        span.set_attribute(f"mlx_hf_bridge.{name}", value)
