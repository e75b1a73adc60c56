"""The console's files, held in memory, and the headers that each answer has."""

from __future__ import annotations

import hashlib
import mimetypes
from pathlib import Path

from aiohttp import web

STATIC = Path(__file__).parent / "static"

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob: data:; frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # with no-referrer, forms have the Origin "null"
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Server": "streamseg",
}
"""Of every answer. Only the files, which anybody may know, are kept by browsers."""


class Pages:
    """Answers with the files of the static folder, read once: a peer that does not read holds no file."""

    def __init__(self) -> None:
        self._files = {path.name: path.read_bytes() for path in STATIC.iterdir() if path.is_file()}

    def answer(self, request: web.Request, name: str, status: int = 200) -> web.Response:
        """The file of this name, or that the browser's copy is still right; raises HTTPNotFound."""
        body = self._files.get(name)
        if body is None:
            raise web.HTTPNotFound
        etag = hashlib.sha256(body).hexdigest()[:32]
        known = request.if_none_match or ()
        if status == 200 and etag in [one.value for one in known]:
            response = web.Response(status=304)
        else:
            content_type = mimetypes.guess_type(name)[0] or "application/octet-stream"
            charset = "utf-8" if content_type.startswith("text/") else None
            response = web.Response(status=status, body=body, content_type=content_type, charset=charset)
        response.etag = etag
        response.headers["Cache-Control"] = "no-cache" if status == 200 else "no-store"
        return response
