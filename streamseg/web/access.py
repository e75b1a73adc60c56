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

PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Access:
    """The rules for one token; with an empty one, everybody who can reach the port has access."""

    token: str
    any_name: bool = False  # the network is trusted whole: whoever is in it may come by any name
    port: int = 0  # of the console

    def host_problem(self, host: str) -> str:
        """Why a request with this Host header is not answered; empty where it is.

        With a token every name is fine: the browser sends a cookie only to the name that set it. Without one,
        only names that others cannot point at us: addresses, localhost, the machine's own name.
        """
        if self.token or self.any_name:
            return ""
        name = (_host_and_port(host)[0] or "").rstrip(".")
        if name in ("localhost", socket.gethostname().lower()) or name.endswith(".localhost"):
            return ""
        try:
            ipaddress.ip_address(name.partition("%")[0])
        except ValueError:
            return (
                f"{host[:80]!a} may be a name that somebody else points at this console; open it by its "
                "address, such as http://127.0.0.1:PORT/, or set web.token_file"
            )
        return ""

    def knows(self, headers: Mapping[str, str], cookies: Mapping[str, str]) -> bool:
        """Whether the request shows the token, as Bearer or by the cookie that a login set."""
        if not self.token:
            return True
        kind, _, shown = headers.get("Authorization", "").partition(" ")
        if kind.lower() == "bearer" and self.is_token(shown.strip()):
            return True
        return _same(cookies.get(self.cookie, ""), self.session)

    def is_token(self, shown: str) -> bool:
        return _same(shown, self.token)

    @property
    def cookie(self) -> str:
        """The cookie's name. Browsers do not tell ports apart, nor consoles behind one proxy."""
        return f"streamseg_{self.port}_{self._hashed('name')[:8]}"

    @property
    def session(self) -> str:
        """The cookie's value: not the token itself, but it cannot be made without the token."""
        return self._hashed("console")

    def _hashed(self, what: str) -> str:
        return hmac.new(self.token.encode(), f"streamseg {what}".encode(), hashlib.sha256).hexdigest()


def page_problem(headers: Mapping[str, str]) -> str:
    """Why the page that sent a request is not ours; empty where it is, or where no page sent it."""
    origin, host = headers.get("Origin"), headers.get("Host", "")
    if headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
        return "only the console's own page may do this"
    if origin is None:
        return ""
    scheme, _, netloc = origin.partition("://")
    default = PORTS.get(scheme)
    page, ours = (_host_and_port(one) for one in (netloc, host))
    if default and page[0] and (page[0], page[1] or default) == (ours[0], ours[1] or default):
        return ""
    return (
        f"the page is of {origin[:80]!a}, and the request for {host[:80]!a}; "
        "a proxy in between must pass the Host header on"
    )


def behind_tls(headers: Mapping[str, str]) -> bool:
    """Whether the browser came by https, to a proxy in front of us."""
    return headers.get("X-Forwarded-Proto") == "https" or headers.get("Origin", "").startswith("https://")


def _host_and_port(text: str) -> tuple[str | None, int | None]:
    """The parts of HOST or HOST:PORT in lower case; (None, None) where it is neither."""
    try:
        parts = urlsplit(f"//{text}")
        return (parts.hostname, parts.port) if parts.netloc == text else (None, None)
    except ValueError:
        return None, None


def _same(one: str, other: str) -> bool:
    """Compare in a time that does not depend on the texts, which may hold what is no UTF-8."""
    return hmac.compare_digest(one.encode(errors="surrogatepass"), other.encode(errors="surrogatepass"))
