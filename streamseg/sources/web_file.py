"""What a web server says about a file, asked for as FFmpeg asks: by GET, with the login of its address."""

from __future__ import annotations

import ssl
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from urllib.error import HTTPError
from urllib.parse import quote, unquote, urlsplit

ANSWER_WITHIN_S = 10.0

_GONE = (404, 410)


@dataclass(frozen=True, slots=True)
class WebFile:
    """A file behind http(s) as its server describes it; empty and None for what it does not say."""

    length: int | None = None
    etag: str = ""
    modified: str = ""
    content_type: str = ""
    ranges: bool = False  # parts of it can be had, so FFmpeg can seek in it
    start: bytes = b""  # of its content, where that was asked for


def ask(address: str, timeout_s: float = ANSWER_WITHIN_S, *, first: int = 0) -> WebFile:
    """Ask for a file's first byte, and read `first` bytes of it at most; what is refused is not known.

    By GET: some servers refuse HEAD, and some addresses are signed for GET alone. Raises OSError where the
    server cannot be reached, or has no such file.
    """
    try:
        with _opened(address, timeout_s, {"Range": f"bytes=0-{max(0, first - 1)}"}) as answer:
            said = answer.headers
            ranges = answer.status == 206
            total = (
                said.get("Content-Range", "").rpartition("/")[2] if ranges else said.get("Content-Length", "")
            )
            return WebFile(
                int(total) if total.isdecimal() else None,
                said.get("ETag", ""),
                said.get("Last-Modified", ""),
                said.get("Content-Type", ""),
                ranges,
                answer.read(first) if first else b"",
            )
    except HTTPError as error:
        error.close()
        if error.code in _GONE:
            raise
        return WebFile()


def read(address: str, most: int, timeout_s: float = ANSWER_WITHIN_S) -> bytes:
    """A file's content, up to `most` bytes; raises OSError."""
    with _opened(address, timeout_s, {}) as answer:
        return answer.read(most)


@contextmanager
def _opened(address: str, timeout_s: float, headers: dict[str, str]) -> Iterator[HTTPResponse]:
    parts = urlsplit(address)
    login, _, host = parts.netloc.rpartition("@")
    # FFmpeg sends letters beyond ASCII and spaces encoded, and what is encoded as it is.
    path, query = (quote(part, safe="%/:=&?~+!$,;'@()*[]") for part in (parts.path or "/", parts.query))
    url = f"{parts.scheme}://{host}{path}" + (f"?{query}" if query else "")
    passwords = urllib.request.HTTPPasswordMgrWithDefaultRealm()
    if login:
        user, _, password = login.partition(":")
        passwords.add_password(None, url, unquote(user), unquote(password))
    # FFmpeg does not ask who signed a certificate, and a NAS signs its own.
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    opener = urllib.request.build_opener(
        urllib.request.HTTPBasicAuthHandler(passwords),
        urllib.request.HTTPDigestAuthHandler(passwords),
        urllib.request.HTTPSHandler(context=trusting),
    )
    try:
        with opener.open(urllib.request.Request(url, headers=headers), timeout=timeout_s) as answer:
            yield answer
    except (HTTPException, ValueError, UnicodeError) as error:
        raise OSError(f"not an answer of a web server ({type(error).__name__})") from None
