"""Who may use the console: the token, and the checks against pages of other sites. Pure.

A page of another site can send requests to our address from an operator's browser. It cannot set Host or
Origin: a request for a foreign name is DNS rebinding, one from a foreign origin is cross-site.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

COOKIE = "streamseg_session"


@dataclass(frozen=True, slots=True)
class Access:
    """The rules for one token; with an empty one, everybody who can reach the port has access."""

    token: str

    def host_is_ours(self, host: str) -> bool:
        """Whether a request with this Host header is answered.

        With a token every name is fine: the browser sends a cookie only to the name that set it. Without one,
        only names that others cannot point at us: addresses, localhost, the machine's own name.
        """
        if self.token:
            return True
        name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
        if name in ("localhost", socket.gethostname().lower()) or name.endswith(".localhost"):
            return True
        try:
            ipaddress.ip_address(name.partition("%")[0])
        except ValueError:
            return False
        return True

    def origin_is_ours(self, headers: Mapping[str, str]) -> bool:
        """Whether our own page sent the request, or no page at all."""
        if headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            return False
        origin = headers.get("Origin")
        return origin is None or urlsplit(origin).netloc == headers.get("Host", "")

    def knows(self, headers: Mapping[str, str], cookies: Mapping[str, str]) -> bool:
        """Whether the request shows the token, as Bearer or by the cookie that a login set."""
        if not self.token:
            return True
        kind, _, shown = headers.get("Authorization", "").partition(" ")
        if kind.lower() == "bearer" and self.is_token(shown.strip()):
            return True
        return hmac.compare_digest(cookies.get(COOKIE, "").encode(), self.session().encode())

    def is_token(self, shown: str) -> bool:
        return hmac.compare_digest(shown.encode(), self.token.encode())

    def session(self) -> str:
        """The cookie's value: not the token itself, but it cannot be made without the token."""
        return hmac.new(self.token.encode(), b"streamseg console", hashlib.sha256).hexdigest()
