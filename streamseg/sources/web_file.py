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

from streamseg.sources.explain import head_problem

ANSWER_WITHIN_S = 10.0

_GONE = (404, 410)


class UnclearError(OSError):
    """The server answers in a way that only FFmpeg may understand."""


@dataclass(frozen=True, slots=True)
class WebFile:
    """A file behind http(s) as its server describes it; empty and None for what it does not say."""

    length: int | None = None
    etag: str = ""
    modified: str = ""
    content_type: str = ""
    ranges: bool = False  # parts of it are available, so FFmpeg can seek in it
    start: bytes = b""  # of its content, where that was asked for

    @property
    def jpegs(self) -> bool:
        """Whether it begins with a JPEG; others may follow."""
        return self.start.startswith(b"\xff\xd8")

    @property
    def problem(self) -> str | None:
        """What this shows itself to be instead of a video, in one line."""
        if b"\xff\xd8\xff" in self.start and self.content_type.startswith("multipart/"):
            return (
                "sends JPEGs without the boundary line in front of the first, so FFmpeg does not know them; "
                "use the camera's RTSP address, or that of single pictures"
            )
        what = head_problem(self.start)
        return f"{what.partition(';')[0]}; check the path in the address" if what else None


def described(address: str, timeout_s: float) -> WebFile | None:
    """What is behind an address that FFmpeg could not open, with its first bytes; None where nobody says."""
    try:
        return ask(address, timeout_s, first=4096)
    except OSError:
        return None


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
                _beginning(answer, first),
            )
    except UnclearError:
        return WebFile()
    except HTTPError as error:
        error.close()
        if error.code in _GONE:
            raise
        return WebFile()


def _beginning(answer: HTTPResponse, most: int) -> bytes:
    """What comes first, up to `most` bytes, from a server that may send for ever."""
    data = b""
    while len(data) < most and (more := answer.read1(most - len(data))):
        data += more
        if b"\xff\xd8" in data:  # as much as a slow camera has sent
            break
    return data


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
    user, colon, password = login.partition(":")
    if colon:  # as FFmpeg does, which shows no user without a password to anybody
        passwords.add_password(None, url, unquote(user), unquote(password))
    # FFmpeg does not ask who signed a certificate, and a NAS signs its own.
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=trusting))
    if colon:  # without a login these raise ValueError for each other's kind
        opener.add_handler(urllib.request.HTTPDigestAuthHandler(passwords))
        opener.add_handler(urllib.request.HTTPBasicAuthHandler(passwords))
    try:
        with opener.open(urllib.request.Request(url, headers=headers), timeout=timeout_s) as answer:
            yield answer
    except (HTTPException, ValueError, UnicodeError) as error:
        raise UnclearError(f"the server's answer is not understood ({type(error).__name__})") from None
