"""HTTP: a POST for each event, signed as https://www.standardwebhooks.com has it.

What an answer means: 2xx is taken. 400, 409, 413, 414, 415, 422 and 431 refuse this message for good, so it
is left out. Everything else (no answer, 401, 404, 429, 5xx, a redirect) is tried again, with growing pauses,
and what comes later waits: events arrive in order. Redirects are not followed.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import datetime
import email.utils
import hashlib
import hmac
import os
import time
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from streamseg.config.redact import remember_value
from streamseg.errors import ConfigError, one_line
from streamseg.forward.settings import WebhookConfig, url_problems
from streamseg.forward.sink import Message, News, SinkError, Taken, read_secret, tls_context

if TYPE_CHECKING:
    import ssl

    import aiohttp

T = TypeVar("T")

FOR_GOOD = frozenset({400, 409, 413, 414, 415, 422, 431})
MOST_ANSWER = 2048  # bytes of an answer that are read, for its words
WORDS_WITHIN_S = 2.0
LONG_PATH = 20  # characters; a shorter one is a word, that must not be hidden everywhere
MOST_PAUSE_S = 600.0  # that an answer may ask for by Retry-After


class Webhook:
    """One address. Its event loop runs only within calls, in the thread that makes them."""

    connects = False
    masks_every_s = pictures_every_s = 0.0

    def __init__(self, config: WebhookConfig) -> None:
        """Raises ConfigError for a bad address or secret."""
        self._config = config
        self.where = _shown(self._address())
        self._secret()
        self._runner: asyncio.Runner | None = None
        self._session: aiohttp.ClientSession | None = None
        self._url = ""
        self._key = b""

    def open(self) -> None:
        """Read the files; the first message connects."""
        self._url, self._key = self._address(), self._secret()
        self.where = _shown(self._url)
        config = self._config
        headers = {}
        if config.token_file:
            headers["Authorization"] = f"Bearer {read_secret(config.token_file, 'token_file')}"
        elif config.username:
            password = read_secret(config.password_file, "password_file") if config.password_file else ""
            login = base64.b64encode(f"{config.username}:{password}".encode()).decode()
            remember_value(login)
            headers["Authorization"] = f"Basic {login}"
        context = tls_context(config) if self._url.startswith("https:") else None
        self._runner = asyncio.Runner()
        self._session = self._runner.run(self._new_session(headers, context))

    def send(self, messages: Sequence[Message], taken: Taken) -> None:
        for message in messages:
            said = message.said
            taken(message, self._post(message.event.document, f"{said.id}-{said.event_n}"))

    def show(self, news: News) -> None:
        for stream, document in news.zones.items():
            self._post(document, f"zones-{stream}-{time.time_ns()}")

    def keep(self) -> None:
        """Nothing ends by itself."""

    def close(self) -> None:
        if self._runner is not None:
            if self._session is not None:
                self._runner.run(self._session.close())
            self._runner.close()
        self._runner = self._session = None

    def check(self) -> str:
        self.open()
        self._run(self._ask_head())
        signed = "signed" if self._key else "unsigned"
        return f"POSTs JSON, {signed}, for {', '.join(self._config.states)}; nothing was posted now"

    def _address(self) -> str:
        if not self._config.url_file:
            return self._config.url
        url = read_secret(self._config.url_file, "url_file")
        if problem := next(url_problems(url, ("http", "https"), "http(s)://HOST/PATH", path=True), ""):
            raise ConfigError(f"url_file: {self._config.url_file}: {problem.removeprefix('url: ')}")
        return url

    def _secret(self) -> bytes:
        path = self._config.secret_file
        if not path:
            return b""
        text = read_secret(path, "secret_file")
        try:
            key = base64.b64decode(text.removeprefix("whsec_"), validate=True)
        except binascii.Error:
            key = b""
        if not text.startswith("whsec_") or len(key) < 16:
            raise ConfigError(
                f"secret_file: {path} must hold whsec_ and at least 16 bytes in base64; make one with: "
                'echo "whsec_$(openssl rand -base64 32)"'
            )
        return key

    def _post(self, body: bytes, id: str) -> str:
        """Send one message; why it was refused for good, or empty. Raises SinkError."""
        return self._run(self._ask_post(body, id))

    def _run(self, asking: Coroutine[Any, Any, T]) -> T:
        import aiohttp

        assert self._runner is not None
        try:
            return self._runner.run(asking)
        except TimeoutError as error:
            raise SinkError(f"{self.where}: no answer in {self._config.timeout_s:g} s") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            reason = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
            raise SinkError(f"{self.where}: {_reason(reason)}") from error

    async def _new_session(
        self, headers: dict[str, str], context: ssl.SSLContext | None
    ) -> aiohttp.ClientSession:
        import aiohttp

        return aiohttp.ClientSession(
            headers={"User-Agent": "streamseg", **headers},
            timeout=aiohttp.ClientTimeout(total=self._config.timeout_s),
            connector=aiohttp.TCPConnector(limit=1, ssl=True if context is None else context),
            auto_decompress=False,
        )

    async def _ask_post(self, body: bytes, id: str) -> str:
        assert self._session is not None
        headers = {"Content-Type": "application/json", **signature(self._key, id, int(time.time()), body)}
        async with self._session.post(self._url, data=body, headers=headers, allow_redirects=False) as answer:
            status = answer.status
            if 200 <= status < 300:
                return ""
            words = await _words(answer)
            why = f"{self.where}: answers {status} {answer.reason or ''}".rstrip()
            why += f" ({one_line(words, 120)})" if words else ""
            if status in FOR_GOOD:
                return why
            if 300 <= status < 400:
                why = f"{self.where}: answers {status}; redirects are not followed, write the final address"
            elif status in (401, 403):
                why += "; is the token, password or secret right?"
            raise SinkError(why, _retry_after_s(answer.headers.get("Retry-After", "")))

    async def _ask_head(self) -> None:
        assert self._session is not None
        async with self._session.head(self._url, allow_redirects=False):
            pass  # any answer shows that it is there


async def _words(answer: aiohttp.ClientResponse) -> str:
    """The first words of an answer; empty where they do not come: its status says enough."""
    import aiohttp

    try:
        async with asyncio.timeout(WORDS_WITHIN_S):
            return (await answer.content.read(MOST_ANSWER)).decode(errors="replace").strip()
    except (TimeoutError, aiohttp.ClientError, OSError, ValueError):
        return ""


def signature(key: bytes, id: str, unix_s: int, body: bytes) -> dict[str, str]:
    """The headers of a message; what is signed is "ID.TIME.BODY"."""
    headers = {"webhook-id": id, "webhook-timestamp": str(unix_s)}
    if key:
        mac = hmac.new(key, f"{id}.{unix_s}.".encode() + body, hashlib.sha256).digest()
        headers["webhook-signature"] = f"v1,{base64.b64encode(mac).decode()}"
    return headers


def _retry_after_s(text: str) -> float:
    """Seconds, or a date: https://www.rfc-editor.org/rfc/rfc9110#field.retry-after."""
    if text.isascii() and text.isdecimal():
        return min(float(text), MOST_PAUSE_S)
    try:
        at = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    if at.tzinfo is None:
        at = at.replace(tzinfo=datetime.UTC)
    return min(max(0.0, at.timestamp() - time.time()), MOST_PAUSE_S)


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return f"does not answer ({os.strerror(error.errno)})"
    return getattr(error, "strerror", "") or one_line(error)


def _shown(url: str) -> str:
    """An address without its path, which often is the secret."""
    parts = urlsplit(url)
    if len(parts.path) >= LONG_PATH:
        remember_value(parts.path.strip("/"))
    return f"{parts.scheme}://{parts.netloc}"
