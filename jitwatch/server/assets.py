"""The files of the live page: read once and served as they are; the page loads nothing from elsewhere."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Final

_FOLDER: Final = Path(__file__).with_name("page")
_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
}
#: Content from this port only, no inline script or style; the icon is a data URL.
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
#: Paths of the page's parts; the page itself is `/`.
ASSETS: Final = tuple(
    f"/page/{name}"
    for name in ("page.css", "main.js", "api.js", "format.js", "charts.js", "functions.js", "detail.js", "parts.js")
)


@cache
def read_asset(path: str) -> tuple[bytes, str]:
    """Return content and content type of a part of the page."""
    file = _FOLDER / (path.rpartition("/")[2] or "index.html")
    return file.read_bytes(), _TYPES[file.suffix]
