"""The gate: what every request passes before the app sees it, as an ASGI middleware.

It gives the request an id, checks the key, reads the body within bounds of size and time, cancels the work of a client
that has gone, and logs a line without any text of the request.
"""

import asyncio
import json
import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any

from mlx_hf_bridge.serving.failures import Failure, protocol_of, render
from mlx_hf_bridge.serving.limits import Limits
from mlx_hf_bridge.serving.settings import Settings

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

access_log = logging.getLogger("mlx_hf_bridge.serving.access")
# The page, and what says whether the server lives, need no key.
_OPEN = ("/", "/page.css", "/page.js", "/draw.js", "/texts.js", "/health", "/health/live", "/health/ready", "/ping")
_ID = re.compile(rb"[\w.-]{1,128}")
# What proxies write of a client that closed the connection.
CLIENT_GONE = 499


class Refused(Exception):
    """Raised within the gate for a request that is not passed on."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class Gate:
    """Passes requests on to an app.

    Args:
        app: What answers them.
        settings: The key.
        limits: The bounds of the body.
        is_ending: Says whether connections are to be closed after their next response.
        observe: Is called with the method, the route, the status and the seconds of each request.
    """

    def __init__(
        self,
        app: App,
        settings: Settings,
        limits: Limits,
        is_ending: Callable[[], bool] = lambda: False,
        observe: Callable[[str, str, int, float], None] = lambda *_: None,
    ) -> None:
        self._app, self._settings, self._limits = app, settings, limits
        self._is_ending, self._observe = is_ending, observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; the ASGI interface."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, send, self._is_ending)
        try:
            self._check(scope, exchange)
            body = await self._read(scope, exchange, receive)
            await _until_gone(self._app, scope, receive, exchange, body)
        except Refused as refused:
            await exchange.refuse(refused.failure)
        except ConnectionError:
            exchange.status = CLIENT_GONE
        finally:
            seconds = time.monotonic() - exchange.started
            route = scope.get("route")
            self._observe(scope["method"], getattr(route, "path", "other"), exchange.status, seconds)
            exchange.log(seconds)

    def _check(self, scope: Scope, exchange: "_Exchange") -> None:
        if scope["path"] in _OPEN and scope["method"] in ("GET", "HEAD"):
            return
        # Browsers send no key with the question whether they may send one.
        if scope["method"] != "OPTIONS" and not self._settings.admits(exchange.header(b"authorization")):
            raise Refused(
                Failure(401, "no valid API key was given. Send the header Authorization: Bearer KEY.", "unauthorized")
            )

        encoding = (exchange.header(b"content-encoding") or "identity").strip().lower()
        if encoding != "identity":
            what = f"the body has the Content-Encoding {encoding!r:.40}, which is not read here. Send it uncompressed."
            raise Refused(Failure(415, what, "unread"))

    async def _read(self, scope: Scope, exchange: "_Exchange", receive: Receive) -> bytes:
        """Return the body of a request, which must be valid UTF-8."""
        length = exchange.header(b"content-length") or ""
        # No digits: chunked, which is counted as it arrives.
        if length.isdecimal() and int(length) > self._limits.max_body_bytes:
            raise self._too_large()
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                body = await self._chunks(receive)
        except TimeoutError:
            message = f"the body of the request did not arrive within {self._limits.body_seconds:g} seconds."
            raise Refused(Failure(408, f"{message} Send it faster, or in parts.", "timeout")) from None
        exchange.body_bytes = len(body)
        try:
            body.decode()
        except UnicodeDecodeError as error:
            what = f"the body is not valid UTF-8 ({error.reason} at byte {error.start}). Encode it as UTF-8."
            raise Refused(Failure(400, what)) from None
        return body

    async def _chunks(self, receive: Receive) -> bytes:
        found, size, more = [], 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ConnectionResetError
            found.append(message.get("body", b""))
            size += len(found[-1])
            if size > self._limits.max_body_bytes:
                raise self._too_large()
            more = message.get("more_body", False)
        return b"".join(found)

    def _too_large(self) -> Refused:
        what = f"the body has more than {self._limits.max_body_bytes} bytes, the limit here. Send fewer texts at once."
        return Refused(Failure(413, what, "too_large"))


async def _until_gone(app: App, scope: Scope, receive: Receive, exchange: "_Exchange", body: bytes) -> None:
    """Run the app on a body that was read, and cancel it if the client closes the connection meanwhile."""
    messages: asyncio.Queue[Message] = asyncio.Queue()
    messages.put_nowait({"type": "http.request", "body": body, "more_body": False})

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            continue
        messages.put_nowait({"type": "http.disconnect"})

    answering = asyncio.ensure_future(app(scope, messages.get, exchange.send))
    watching = asyncio.ensure_future(watch())
    try:
        await asyncio.wait((answering, watching), return_when=asyncio.FIRST_COMPLETED)
        if not answering.done():
            answering.cancel()
        # Errors of the app pass on; a cancelled one belongs to a client that has gone.
        try:
            await answering
        except asyncio.CancelledError:
            if asyncio.current_task() is not None and watching.done():
                raise ConnectionResetError from None
            raise
    finally:
        for task in (answering, watching):
            task.cancel()
            with suppress(BaseException):
                await task


class _Exchange:
    """One request and its response: its id, status and size."""

    def __init__(self, scope: Scope, send: Send, is_ending: Callable[[], bool]) -> None:
        self._scope, self._send, self._is_ending = scope, send, is_ending
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        self.id = given.decode() if _ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = self.id
        self.started, self.status, self.body_bytes, self.sent_bytes = time.monotonic(), 500, 0, 0
        self._begun = False

    def header(self, name: bytes) -> str | None:
        """Return the value of a header of the request."""
        return next((value.decode("latin-1") for key, value in self._scope["headers"] if key == name), None)

    async def send(self, message: Message) -> None:
        """Send a part of the response, with the id of the request."""
        if message["type"] == "http.response.start":
            self._begun, self.status = True, message["status"]
            headers = [*message.get("headers", ()), (b"x-request-id", self.id.encode())]
            if self._is_ending() and not any(name == b"connection" for name, _ in headers):
                # So that clients send their next request on a new connection, perhaps to another server.
                headers.append((b"connection", b"close"))
            message["headers"] = headers
        else:
            self.sent_bytes += len(message.get("body", b""))
        await self._send(message)

    async def refuse(self, failure: Failure) -> None:
        """Answer with a failure, in the form of the route's protocol; close the connection, whose body was not read."""
        if self._begun:
            return
        status, content = render(failure, protocol_of(self._scope["path"]))
        body = json.dumps(content).encode()
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), "Connection": "close"}
        pairs = [(key.lower().encode(), value.encode()) for key, value in (headers | failure.headers).items()]
        await self.send({"type": "http.response.start", "status": status, "headers": pairs})
        await self.send({"type": "http.response.body", "body": body})

    def log(self, seconds: float) -> None:
        """Log one line of JSON, which has no text of the request."""
        client = self._scope.get("client")
        fields = {
            "request_id": self.id,
            "client": client[0] if client else None,
            "method": self._scope["method"],
            "path": self._scope["path"],
            "status": self.status,
            "ms": round(seconds * 1000, 1),
            "bytes_in": self.body_bytes,
            "bytes_out": self.sent_bytes,
        } | self._scope["state"].get("facts", {})
        access_log.info("%s", json.dumps(fields))
