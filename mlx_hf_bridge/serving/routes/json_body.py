"""Bodies of requests as JSON, read strictly: what parsers disagree on is an error rather than a guess."""

import json
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn

from fastapi import HTTPException, Request, Response
from fastapi.routing import APIRoute


class StrictRoute(APIRoute):
    """A route whose JSON body has each key once, and numbers that JSON has."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler, which reads the body by `parse`."""
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            _check_type(request)
            return await handler(_StrictRequest(request.scope, request.receive))

        return handle


class _StrictRequest(Request):
    async def json(self) -> Any:
        """Return the body."""
        return parse(await self.body())


def parse(body: bytes) -> Any:
    """Parse the body of a request.

    Args:
        body: UTF-8.

    Returns:
        What the JSON has.

    Raises:
        HTTPException: If it is not JSON, an object has a key twice, or it has NaN or Infinity, which JSON has not.
    """
    try:
        return json.loads(body, object_pairs_hook=_object, parse_constant=_constant)
    # RecursionError: arrays in arrays; ValueError: also integers of thousands of digits.
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, "the body is not JSON that this server reads. Send valid JSON.") from error


def _check_type(request: Request) -> None:
    """Refuse bodies of other types, which web pages may send to a server on this machine unasked."""
    given = request.headers.get("content-type", "")
    kind = given.partition(";")[0].strip().lower()
    if request.method == "POST" and kind != "application/json" and not kind.endswith("+json"):
        raise HTTPException(415, f"the Content-Type is {given!r:.80}, expected application/json. Send that header.")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise HTTPException(400, f"the body has the key {twice!r:.80} more than once. Send it once.")
    return found


def _constant(name: str) -> NoReturn:
    raise HTTPException(400, f"the body has {name}, which is no number in JSON. Send a finite number.")
