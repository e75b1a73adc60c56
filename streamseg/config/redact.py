"""Addresses without what is secret in them, for logs, messages and errors.

An address is taken as people write it, not as a grammar of URLs has it: with '@', ':', '/', '?', '#' and
spaces in a password, without a scheme, with one slash. Two things hide a secret: its place in a text
(`redact`), and its value, once an address that holds it has been read (`remember`).
"""

from __future__ import annotations

import base64
import ipaddress
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import quote, quote_plus, unquote

from streamseg.errors import visible

HIDDEN = "***"

SHORTEST = 4
"""Characters of a value that is hidden wherever it stands; a shorter one is hidden in its place only."""

MOST_KNOWN = 4096

_ADDRESS = re.compile(
    r"[A-Za-z][A-Za-z0-9+.-]*(?:[:;]//+|:\\\\|%3A%2F%2F)"
    r"|(?<![A-Za-z0-9])(?:rtsps?|https?|rtmps?|udp|srt|rtp)(?:[:;]/?|//+)",
    re.IGNORECASE,
)
_BEFORE_ADDRESS = frozenset(" \t\r\n'\"=(<,|;&")
_IPV6 = re.compile(r"\[[0-9A-Fa-f:.]+(?:%[\w.]+)?\]")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+(?:%[\w.]+)?\]|[\w.-]+)(?::\d{1,5})?(?=[/?#:\s'\",;)&%]|\Z)")
_PORT = re.compile(r"\d{0,5}(?=[/?#\s]|\Z)")
_FILE_NAME = re.compile(
    r"\.(?:jpe?g|png|gif|mjpe?g|mp4|mkv|m3u8|ts|sdp|cgi|html?|php|flv|webm)\Z", re.IGNORECASE
)
_BARE_LOGIN = re.compile(r"(?<![^\s'\"(=])[^\s:@/'\"(=?]*:(?![/\s])(?P<password>.+)@(?=[\w\[])")
_BARE_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[\w.-]+)(:\d{1,5})?(?=[/?]|\Z)")
_SECRET_NAME = re.compile(
    r"(?:token|passw|pwd|psw|pass|secret|key|auth|sig|credential|session|jwt|ticket|hmac|md5|hdn"
    r"|(?<![a-z])pw(?==)|pas(?==)|(?<![a-z])pin(?==))[^\s=&;?#/:]*=",
    re.IGNORECASE,
)
_NEXT_NAME = re.compile(r"[?&;#][\w.%\[\]-]+=")
_NEXT_PATH_NAME = re.compile(r"[?&;#][\w.%\[\]-]+=|_[A-Za-z0-9.-]+=")
_EXAMPLE = "USER:PASSWORD@HOST"


@dataclass(frozen=True, slots=True)
class Login:
    """The user and password of an address: where they stand in it.

    unclear: it may also be a host with its port, and the '@' one of its path.
    """

    user: tuple[int, int]
    password: tuple[int, int]
    unclear: bool


def redact(text: str) -> str:
    """Return the text with *** for passwords, secret values of names, and all that is known to be secret."""
    for value in _known.found_in(text):
        text = value.sub(HIDDEN, text)
    return "\n".join(map(_redact_line, text.split("\n")))


def remember(address: str) -> None:
    """Hide what is secret in this address from now on wherever it stands, in every way it may be written."""
    if not looks_like_address(address):
        return
    plain = {part.casefold() for part in re.split(r"[/?#:@\s]+", _redact_line(address))}
    for start, body, end in _addresses(address) or [(0, 0, len(address))]:
        rest = address[body:end]
        login, values = _secrets(rest, encoded="%" in address[start:body])
        if login is not None and not login.unclear:
            remember_value(rest[slice(*login.password)], rest[slice(*login.user)], except_for=plain)
        for first, last in values:
            remember_value(rest[first:last], except_for=plain)


def remember_value(secret: str, user: str = "", except_for: frozenset[str] | set[str] = frozenset()) -> None:
    """Hide this password or token from now on, as it is, percent-encoded, decoded, escaped or in base64."""
    if HIDDEN in secret:
        return
    for form in _forms(secret, user):
        if len(form) >= SHORTEST and form.casefold() not in except_for:
            _known.add(form)


def login_of(address: str) -> Login | None:
    """Where the user and the password of a whole address stand; None where it has no password."""
    begun = _ADDRESS.match(address, len(address) - len(address.lstrip()))
    start = begun.end() if begun else 0
    found = _login(address[start:], encoded=begun is not None and "%" in begun[0])
    if found is None:
        return None
    (user, first), (password, last) = found.user, found.password
    return Login((user + start, first + start), (password + start, last + start), found.unclear)


def looks_like_address(source: str) -> bool:
    """Whether this names something in a network, also where its scheme is missing; else it is a path."""
    if _ADDRESS.match(source.strip()):
        return True
    if source.startswith(("/", "./", "../", "~")):
        return False
    bare = _BARE_HOST.match(source)
    if bare and (_rank(bare[1]) == 3 or (bare[2] and source[bare.end() :].startswith("/"))):
        return True
    login = _login(source, encoded=False)
    return login is not None and not re.search(r"[/\s]", source[slice(*login.user)])


def _redact_line(line: str) -> str:
    addresses = _addresses(line)
    if not addresses:
        return _redact_bare(line)
    parts = [_redact_bare(line[: addresses[0][0]])]
    for start, body, end in addresses:
        rest = line[body:end]
        login, values = _secrets(rest, encoded="%" in line[start:body])
        parts += [line[start:body], _without(rest, [*values, *([login.password] if login else [])])]
    return "".join(parts)


def _addresses(text: str) -> list[tuple[int, int, int]]:
    """Where addresses begin in a text, where what follows their scheme does, and where the next one does."""
    found: list[tuple[int, int]] = []
    for match in _ADDRESS.finditer(text):
        if not found or text[match.start() - 1] in _BEFORE_ADDRESS:  # a password may hold ab://cd
            found.append(match.span())
    ends = [start for start, _ in found[1:]] + [len(text)]
    return [(start, body, end) for (start, body), end in zip(found, ends, strict=False)]


def _secrets(rest: str, *, encoded: bool) -> tuple[Login | None, list[tuple[int, int]]]:
    """The login in what follows a scheme, and where the values of secret names stand."""
    if rest.startswith(_EXAMPLE):
        return None, []
    login = _login(rest, encoded=encoded)
    values = list(_named_values(rest, True))
    if login is None or not values:
        return login, values
    first, last = login.password
    if values[0][0] < last and _PORT.match(rest, first):  # HOST:PORT/…?password=with@in-it
        return None, values
    return login, [value for value in values if value[0] >= last]


def _without(text: str, secrets: list[tuple[int, int]]) -> str:
    for start, end in sorted(secrets, reverse=True):
        text = text[:start] + HIDDEN + text[end:]
    return text


def _redact_bare(text: str) -> str:
    """Text without an address's beginning: NAME:PASSWORD@HOST, and values of secret names."""
    text = _BARE_LOGIN.sub(lambda m: m[0][: m.start(1) - m.start()] + HIDDEN + "@", text)
    return _without(text, list(_named_values(text, False)))


def _login(rest: str, *, encoded: bool) -> Login | None:
    """The password between the first ':' and the last '@' that a host can follow."""
    if (colon := _first_colon(rest)) is None:
        return None
    user, start = colon
    front = rest[:user].rpartition("@")[2]
    if rest.startswith(HIDDEN, start) and rest[start + len(HIDDEN) : start + len(HIDDEN) + 1] in ("@", "%"):
        return None
    if _rank(front) == 3:  # 10.0.0.7:554/…
        return None
    ats = [(m.start(), m.end()) for m in re.finditer("@|%40" if encoded else "@", rest) if m.start() >= start]
    if not ats:
        return None
    ranked = [(_rank_at(rest, after), at) for at, after in ats]
    best, end = max(ranked)
    port = _PORT.match(rest, start) is not None
    if port and best == 0:  # HOST:PORT/with@2x.jpg in its path
        return None
    unclear = port and _rank(front) > best
    return Login((0, user), (start, end if best else ats[-1][0]), unclear)


def _first_colon(rest: str) -> tuple[int, int] | None:
    at = 0
    while at < len(rest):
        if rest[at] == "[" and (host := _IPV6.match(rest, at)):
            at = host.end()
        elif rest[at] == ":":
            return at, at + 1
        elif rest[at : at + 3] in ("%3A", "%3a"):
            return at, at + 3
        else:
            at += 1
    return None


def _rank_at(rest: str, at: int) -> int:
    host = _HOST.match(rest, at)
    return _rank(host[1]) if host else 0


def _rank(host: str) -> int:
    """How much a text looks like a host: 3 an IP address, 2 a name with a dot, 1 a word, 0 not at all."""
    if not host or _FILE_NAME.search(host):
        return 0
    if host.lower() == "localhost":
        return 3
    try:
        ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        pass
    else:
        return 3
    if not re.fullmatch(r"[\w.-]+", host):
        return 0
    last = host.rstrip(".").rpartition(".")
    return 2 if last[0] and last[2].isalpha() else 1


def _named_values(text: str, address: bool) -> Iterator[tuple[int, int]]:
    """Where the values of secret names stand: in an address up to the next name, else up to a space."""
    at = 0
    while name := _SECRET_NAME.search(text, at):
        at = name.end()
        before = re.search(r"[?&;#_/][^\s=?&;#/]*\Z", text[: name.start()] + "x") if not address else True
        if not before or "file" in name[0].lower() or text.startswith(HIDDEN, at):
            continue
        in_path = not re.search(r"[?&;]", text[: name.start()])
        following = (_NEXT_PATH_NAME if in_path else _NEXT_NAME).search(text, at)
        end = following.start() if following else len(text)
        if not address and (space := re.search(r"\s", text[at:end])):
            end = at + space.start()
        if end > at:
            yield at, end
        at = end


def _forms(secret: str, user: str) -> set[str]:
    """The ways in which a secret may be written."""
    plain = {secret, unquote(secret), unquote(secret).strip()}
    forms = set(plain)
    for one in plain:
        encoded = {quote(one, safe=""), quote(one), quote_plus(one), quote(one, safe="!$&'()*+,;=:@/?")}
        forms |= encoded | {re.sub(r"%[0-9A-F]{2}", lambda m: m[0].lower(), each) for each in encoded}
        forms |= {repr(one)[1:-1], json.dumps(one)[1:-1], json.dumps(one, ensure_ascii=False)[1:-1]}
        forms.add(visible(one))
        if user:
            login = f"{unquote(user)}:{one}".encode("utf-8", "surrogateescape")
            forms |= {base64.b64encode(login).decode(), base64.urlsafe_b64encode(login).decode()}
    return forms


class _Known:
    """The secret values that this process has read, with what finds each; the oldest are forgotten."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards _values, which is replaced whole
        self._values: dict[str, re.Pattern[str]] = {}

    def add(self, value: str) -> None:
        if value in self._values:
            return
        # A word or a number may be part of another one; what mixes them is nothing else.
        word = value.isdecimal() or value.isalpha()
        edges = (r"(?:(?<!\w)|(?<=%[0-9A-Fa-f]{2}))", r"(?!\w)") if word else ("", "")
        pattern = re.compile(edges[0] + re.escape(value) + edges[1])
        with self._lock:
            values = {**self._values, value: pattern}
            while len(values) > MOST_KNOWN:
                del values[next(iter(values))]
            self._values = values

    def found_in(self, text: str) -> list[re.Pattern[str]]:
        """What finds the values that may be in the text, the longest first."""
        values = self._values
        return [values[value] for value in sorted((v for v in values if v in text), key=len, reverse=True)]


_known = _Known()
