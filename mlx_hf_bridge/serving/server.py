"""Runs an app by uvicorn: bounds for slow clients, and an end on SIGTERM that answers what was accepted."""

import asyncio
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from mlx_hf_bridge.errors import BackendError
from mlx_hf_bridge.serving.app import create_app
from mlx_hf_bridge.serving.engine import AsyncEngine
from mlx_hf_bridge.serving.settings import Settings

try:
    import h11
    import uvicorn
    from uvicorn.protocols.http.h11_impl import H11Protocol
except ImportError as error:
    raise BackendError(
        f"serving needs uvicorn, which is not installed ({error}). pip install 'mlx-hf-bridge[serve]'"
    ) from error

# A client that opens a connection, or has sent the first byte of a request, has this long for the rest of its headers.
HEADER_SECONDS = 10.0
_KEEP_ALIVE_SECONDS = 30
_SPARE_CONNECTIONS = 64


class _BoundedProtocol(H11Protocol):
    """HTTP/1.1 that closes connections whose headers do not arrive; uvicorn itself waits for them without end."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._arm()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:
            self._arm()
        elif self.conn.their_state is not h11.IDLE:
            self._disarm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def _arm(self) -> None:
        # One limit for the whole body: a limit per byte would let a slow client send forever.
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(HEADER_SECONDS, self.transport.close)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Server(uvicorn.Server):
    """uvicorn's server, which ends with exit code 0 on SIGTERM.

    Args:
        engine: The models.
        settings: Keys, origins and hosts.
        host: The address to listen on.
        port: The port to listen on; 0 for any that is free.
    """

    def __init__(self, engine: AsyncEngine, settings: Settings, host: str, port: int) -> None:
        config = uvicorn.Config(
            create_app(engine, settings),
            host=host,
            port=port,
            http=_BoundedProtocol,
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=round(engine.limits.request_seconds),
            limit_concurrency=2 * engine.limits.max_concurrent_requests + _SPARE_CONNECTIONS,
        )
        super().__init__(config)
        self._engine = engine

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take no new requests from now on, and end when the others have been answered."""
        self._engine.refuse()
        super().handle_exit(sig, frame)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Finish requests on SIGINT and SIGTERM; uvicorn's own method raises the signal again afterwards."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {one: signal.signal(one, self.handle_exit) for one in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)
