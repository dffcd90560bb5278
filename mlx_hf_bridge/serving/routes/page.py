"""The page at /: files of this package, which load nothing from elsewhere."""

from collections.abc import Awaitable, Callable
from pathlib import Path

from fastapi import APIRouter, Response

_FOLDER = Path(__file__).parent.parent / "page"
# Path -> file, type.
FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    **{f"/{name}": (name, "text/javascript; charset=utf-8") for name in ("page.js", "draw.js", "texts.js")},
}
_HEADERS = {
    # Cells of the similarity matrix have colors of their own, which is a style.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def routes() -> APIRouter:
    """Return the routes."""
    router = APIRouter(include_in_schema=False)
    for path, (name, kind) in FILES.items():
        router.add_api_route(path, _file(name, kind), methods=["GET", "HEAD"])
    return router


def _file(name: str, kind: str) -> Callable[[], Awaitable[Response]]:
    content = (_FOLDER / name).read_bytes()

    async def answer() -> Response:
        return Response(content, headers=_HEADERS, media_type=kind)

    return answer
