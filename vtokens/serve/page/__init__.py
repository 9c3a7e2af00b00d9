"""The page at `/`: a picture, a question, strategies side by side; it speaks to the server as any client does."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}
"""What every part of the page is sent with: it runs its own scripts alone, and asks its own server alone."""
_KINDS = {"css": "text/css", "html": "text/html", "js": "text/javascript", "webp": "image/webp"}
_OWN = ("api.js", "card.js", "draw.js", "example.webp", "page.js", "pictures.js")


def parts() -> dict[str, tuple[bytes, str]]:
    """The page by path: content and media type. Style and theme are those of the report and of comparisons."""
    from vtokens.report.side_by_side import STYLE

    here, templates = files(__name__), files("vtokens.report") / "templates"
    style = (templates / "style.css").read_bytes() + STYLE.encode() + (here / "page.css").read_bytes()
    found = {"/": (here / "index.html").read_bytes(), "/page/style.css": style}
    found["/page/theme.js"] = (templates / "theme.js").read_bytes()
    found |= {f"/page/{name}": (here / name).read_bytes() for name in _OWN}
    return {
        path: (content, _KINDS[path.rpartition(".")[2] if path != "/" else "html"]) for path, content in found.items()
    }


def add_page(app: Starlette) -> None:
    """Give an application the page: GET and HEAD of `/` and of what lies under `/page/`, for everybody.

    Nothing in it is secret, so that none of it asks for a key; the page asks its user for one where `/v1/models` does.
    """
    for path, (content, kind) in parts().items():
        app.router.add_route(path, _sender(content, kind), methods=["GET", "HEAD"], include_in_schema=False)


def _sender(content: bytes, kind: str) -> Callable[[Request], Response]:
    from starlette.responses import Response

    def send(request: Request) -> Response:
        return Response(content, media_type=kind, headers=HEADERS)

    return send
