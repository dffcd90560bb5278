"""`mlx-hf-bridge serve`: answer embeddings, rerank and classification requests over HTTP."""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from threading import Thread
from typing import Any

from mlx_hf_bridge.cli.console import show
from mlx_hf_bridge.errors import InputError
from mlx_hf_bridge.runtime.environment import api_key
from mlx_hf_bridge.serving.engine import AsyncEngine
from mlx_hf_bridge.serving.limits import Limits
from mlx_hf_bridge.serving.settings import LOOPBACK, Settings
from mlx_hf_bridge.serving.units import install, unit

_GIB, _MIB = 2**30, 2**20
# Options of the command that a service does not repeat; the key would be seen in lists of processes.
_NOT_IN_UNITS = ("--install", "--print-unit", "--api-key")


def run(args: argparse.Namespace) -> int:
    """Load the models and serve them until a signal ends the process; or print or install a service that does."""
    if args.print_unit or args.install:
        return _unit(args)
    # Here, so that a missing package is an error before a model is loaded.
    from mlx_hf_bridge.serving.server import Server

    engine = AsyncEngine(
        dict_of(args.models),
        task=tasks_of(args.task),
        quantization_config=args.quantization,
        limits=_limits(args),
        max_models=args.max_models,
        max_model_bytes=round(args.max_model_gb * _GIB) if args.max_model_gb else None,
    )
    server = Server(engine, _settings(args), args.host, args.port)
    if not args.lazy:
        _load_all(engine)
    if args.access_log:
        _log_access()
    names = ", ".join(name for spec in engine.models.specs for name in spec.names)
    show(f"serving {names} at http://{args.host}:{args.port}")
    server.run()
    return 0 if server.started else 1


def dict_of(models: list[str]) -> dict[str, str] | list[str]:
    """Return models given as MODEL or ALIAS=MODEL."""
    pairs = [_split(one) for one in models]
    if not any(alias for alias, _ in pairs):
        return models
    # A model without an alias is named after its id.
    named = {alias or Path(model).name: model for alias, model in pairs}
    if len(named) < len(pairs):
        raise InputError(f"two of the models {', '.join(models)} have one name. Give them as ALIAS=MODEL.")
    return named


def tasks_of(given: Sequence[str]) -> str | dict[str, str] | None:
    """Return tasks given as TASK, for all models, or as NAME=TASK."""
    if not given:
        return None
    if len(given) == 1 and "=" not in given[0]:
        return given[0]
    if wrong := [one for one in given if "=" not in one]:
        raise InputError(f"got --task {wrong[0]!r:.80} among several, expected NAME=TASK, such as splade=sparse.")
    return {name: task for name, _, task in (one.rpartition("=") for one in given)}


def _split(given: str) -> tuple[str, str]:
    alias, equals, model = given.partition("=")
    is_alias = equals and "/" not in alias and not Path(given).is_dir()
    return (alias, model) if is_alias else ("", given)


def _load_all(engine: AsyncEngine) -> None:
    """Load all models in another thread, since MLX keeps to the thread that used it first; raise what that raises."""
    errors: list[BaseException] = []

    def work() -> None:
        try:
            for spec in engine.models.specs:
                engine.models.load(spec.id)
        except BaseException as error:  # raised again below
            errors.append(error)

    thread = Thread(target=work)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]


def _limits(args: argparse.Namespace) -> Limits:
    given: dict[str, Any] = {
        "max_concurrent_requests": args.max_concurrent_requests,
        "max_batch_tokens": args.max_batch_tokens,
        "max_client_batch_size": args.max_client_batch_size,
        "max_body_bytes": round(args.max_body_mb * _MIB) if args.max_body_mb else None,
        "request_seconds": args.timeout,
    }
    return Limits(**{name: value for name, value in given.items() if value is not None})


def _settings(args: argparse.Namespace) -> Settings:
    hosts = list(args.allowed_host)
    if not hosts and args.host in LOOPBACK:
        # Other sites must not reach a server on this machine by a name of theirs.
        hosts = list(LOOPBACK)
    return Settings(args.api_key or api_key(), args.cors_origin, hosts, args.auto_truncate, args.otel)


def _unit(args: argparse.Namespace) -> int:
    kind = args.print_unit or ("launchd" if sys.platform == "darwin" else "systemd")
    arguments = _arguments(args)
    if args.install:
        path, start = install(kind, arguments)
        show(f"wrote {path}", f"start it by: {start}")
    else:
        sys.stdout.write(unit(kind, arguments))
    return 0


def _arguments(args: argparse.Namespace) -> list[str]:
    """Return the words of the command line without those that ask for a service, and without the key."""
    words, kept = iter(args.words), []
    for word in words:
        name, equals, _ = word.partition("=")
        if name not in _NOT_IN_UNITS:
            kept.append(word)
        elif name != "--install" and not equals:
            next(words, None)
    return kept


def _log_access() -> None:
    """Write one line of JSON for each request to stderr."""
    log = logging.getLogger("mlx_hf_bridge.serving.access")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.handlers, log.propagate = [handler], False
    log.setLevel(logging.INFO)
