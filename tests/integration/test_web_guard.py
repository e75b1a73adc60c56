"""Whom the console lets in, by which name and token, and what it answers to bytes that make no sense."""

from __future__ import annotations

import contextlib
import random
import re
import socket
from collections.abc import Iterator

import pytest

from tests.integration.console import Alone
from tests.ports import free_port

pytest.importorskip("aiohttp", reason="pip install 'streamseg[web]'")

from streamseg.web.access import Access
from streamseg.web.pages import HEADERS

TOKEN = "a-token-that-is-long-enough"
UPGRADE = (
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
BEARER = f"Authorization: Bearer {TOKEN}\r\n".encode()
SOON_S = 0.1  # what has no answer by then is no whole request, as most of these are not
FORM = b"Content-Type: application/x-www-form-urlencoded\r\n"


@pytest.fixture(scope="module")
def locked() -> Iterator[Alone]:
    """A console with a token, which ends without a word in its log."""
    with Alone(token=TOKEN) as console:
        yield console
    assert console.log == ""


@pytest.fixture(scope="module")
def free() -> Iterator[Alone]:
    """One without a token."""
    with Alone(insecure=True) as console:  # which means nothing on loopback
        yield console
    assert console.log == ""


def request(what: bytes, head: bytes = b"", host: bytes = b"127.0.0.1", body: bytes = b"") -> bytes:
    length = b"Content-Length: %d\r\n" % len(body) if body else b""
    return what + b" HTTP/1.1\r\nHost: " + host + b"\r\n" + head + length + b"\r\n" + body


def statuses(answer: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"^HTTP/1\.[01] (\d+)", answer, re.MULTILINE)]


def header(answer: bytes, name: str) -> str:
    found = re.search(rf"(?im)^{name}: (.*?)\r$", answer.decode("latin-1"))
    return found[1] if found else ""


def login(console: Alone, word: str, *, head: bytes = b"", path: bytes = b"/login") -> bytes:
    return console.send(request(b"POST " + path, FORM + head, body=f"token={word}".encode()))


ODD = [
    b"\xff\xfe", b"\xed\xa0\x80", b"\xc0\x80", b"%ff%fe", b"%", b"%zz", b"\x01", b"[", b"http://[", b"'\"\\",
    b";;;===", b"=", b"%00", b"%0d%0aX:", "ü€😀".encode(), b"a" * 3000, b"../..%2f", b"//", b"@:@",
    b":99999999", b"b" * 20_000,
]  # fmt: skip


@pytest.mark.parametrize("odd", ODD, ids=[str(n) for n in range(len(ODD))])
def test_odd_bytes_anywhere_are_answered_without_a_word_in_the_log(
    odd: bytes, locked: Alone, free: Alone
) -> None:
    cookie = Access(TOKEN, port=locked.address[1]).cookie.encode()
    requests = [
        request(b"GET /" + odd),
        request(b"GET /static/" + odd),
        request(b"GET /streams/" + odd + b"/mask.png"),
        request(b"GET /?" + odd),
        request(b"GET /?token=" + odd),
        request(b"GET /", b"Authorization: Bearer " + odd + b"\r\n"),
        request(b"GET /", b"Authorization: " + odd + b"\r\n"),
        request(b"GET /", b"Cookie: " + cookie + b"=" + odd + b"\r\n"),
        request(b"GET /", b"Cookie: " + odd + b"\r\n"),
        request(b"GET /", b"X" + odd + b": 1\r\n"),
        request(b"GET /", b"If-None-Match: " + odd + b"\r\nRange: " + odd + b"\r\n"),
        request(b"GET /", b"Accept: " + odd + b"\r\nAccept-Encoding: " + odd + b"\r\n"),
        request(b"GET /", host=odd),
        request(odd + b" /"),
        request(b"GET " + odd),
        request(b"GET /link", UPGRADE + b"Origin: " + odd + b"\r\n"),
        request(b"GET /link", UPGRADE + b"Origin: http://" + odd + b"\r\n", host=odd),
        request(b"GET /link", UPGRADE.replace(b"dGhlIHNhbXBsZSBub25jZQ==", odd)),
        request(b"GET /link", UPGRADE.replace(b"13", odd)),
        request(b"POST /login", FORM, body=b"token=" + odd),
        request(b"POST /login", FORM, body=odd),
        request(b"POST /login", b"Content-Type: multipart/form-data; boundary=" + odd + b"\r\n", body=odd),
        request(b"POST /login", b"Content-Type: " + odd + b"\r\n", body=b"token=x"),
        request(b"POST /login", FORM + b"Content-Encoding: gzip\r\n", body=odd),
        request(b"POST /login", FORM.replace(b"\r", b"; charset=" + odd + b"\r"), body=b"token=x"),
        request(b"POST /login", b"Transfer-Encoding: " + odd + b"\r\n" + FORM),
        request(b"GET /metrics", b"Accept: " + odd + b"\r\n"),
    ]
    for console in (locked, free):
        for one in requests:
            for more in (b"", BEARER):
                sent = one.replace(b"\r\n", b"\r\n" + more, 1)
                for status in statuses(console.send(sent, patience_s=SOON_S)):
                    assert status < 500, sent


def test_random_bytes_in_requests_are_answered_without_a_word_in_the_log(locked: Alone, free: Alone) -> None:
    chance = random.Random(18)
    good = [
        request(b"GET /", BEARER + b"Cookie: a=b; c=d\r\nAccept: text/html\r\n"),
        request(b"GET /link", BEARER + UPGRADE + b"Origin: http://127.0.0.1\r\n"),
        request(b"POST /login", FORM, body=f"token={TOKEN}".encode()),
    ]
    for _ in range(300):
        one = bytearray(chance.choice(good))
        for _ in range(chance.randint(1, 6)):
            at = chance.randrange(len(one))
            one[at : at + chance.randint(0, 3)] = chance.randbytes(chance.randint(0, 3))
        for console in (locked, free):
            for status in statuses(console.send(bytes(one), patience_s=SOON_S)):
                assert status < 500, bytes(one)


def test_every_answer_has_the_headers_that_protect_a_browser(locked: Alone, free: Alone) -> None:
    seen = set()
    for console, sent in (
        (locked, request(b"GET /", BEARER)),
        (locked, request(b"GET /")),
        (locked, request(b"GET /", b"Accept: text/html\r\n")),
        (locked, request(b"GET /?token=" + TOKEN.encode())),
        (locked, request(b"GET /nothing", BEARER)),
        (locked, request(b"PUT /", BEARER)),
        (locked, request(b"GET /healthz")),
        (locked, request(b"POST /login", FORM, body=b"token=" + b"x" * 100_000)),
        (locked, b"nonsense\r\n\r\n"),
        (locked, request(b"GET /", b"Expect: something\r\n")),
        (free, request(b"OPTIONS *")),
        (free, request(b"GET /link", UPGRADE)),
        (free, request(b"GET /", host=b"evil.example")),
        (free, request(b"GET /static/main.js")),
        (free, request(b"GET /static/nothing.js")),
    ):
        answer = console.send(sent)
        seen |= set(statuses(answer))
        for name, value in HEADERS.items():
            if name != "Cache-Control":
                assert header(answer, name) == value, (name, answer)
        assert header(answer, "Cache-Control") in ("no-store", "no-cache"), answer
    assert seen >= {101, 200, 303, 400, 401, 403, 404, 405, 413, 417, 503}


def test_a_file_is_sent_once(free: Alone) -> None:
    first = free.send(request(b"GET /static/main.js"))
    assert header(first, "Content-Type") == "text/javascript; charset=utf-8"
    again = free.send(request(b"GET /static/main.js", f"If-None-Match: {header(first, 'ETag')}\r\n".encode()))
    assert statuses(again) == [304]
    assert again.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    "path",
    [
        b"/static/../metrics",
        b"/static/..%2fmetrics",
        b"/static/%2e%2e/metrics",
        b"/static//metrics",
        b"/metrics?/healthz",
        b"/%6detrics",
        b"//metrics",
        b"/metrics/",
        b"/healthz/../metrics",
        b"/streams/gate/mask.png",
        b"/streams/gate/detail.jpg",
        b"/link",
    ],
)
def test_without_the_token_only_the_login_page_its_files_and_health_are_answered(
    path: bytes, locked: Alone
) -> None:
    assert statuses(locked.send(request(b"GET " + path)))[0] in (401, 404)
    assert statuses(locked.send(request(b"GET /static/login.js"))) == [200]
    assert statuses(locked.send(request(b"GET /healthz"))) == [503]  # there is no daemon


def test_a_browser_logs_in_with_a_form_and_out_again(locked: Alone) -> None:
    asked = locked.send(request(b"GET /", b"Accept: text/html,*/*\r\n"))
    assert statuses(asked) == [401]
    assert b'<form method="post" action="login">' in asked
    wrong = login(locked, "wrong")
    assert (statuses(wrong), header(wrong, "Location"), header(wrong, "Set-Cookie")) == (
        [303],
        "./?wrong",
        "",
    )
    right = login(locked, TOKEN)
    assert (statuses(right), header(right, "Location")) == ([303], "./")
    cookie = header(right, "Set-Cookie")
    assert TOKEN not in cookie
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert "Secure" not in cookie
    assert "Path" not in cookie  # so it is that of the address, which a proxy may have made longer
    assert statuses(locked.send(request(b"GET /", f"Cookie: {cookie.partition(';')[0]}\r\n".encode()))) == [
        200
    ]
    out = locked.send(request(b"POST /logout", BEARER + b"Content-Length: 0\r\n"))
    assert (statuses(out), header(out, "Location")) == ([303], "./")
    assert re.match(rf'{cookie.partition("=")[0]}=""; .*Max-Age=0', header(out, "Set-Cookie"))


@pytest.mark.parametrize(
    "head",
    [b"Origin: https://127.0.0.1\r\n", b"X-Forwarded-Proto: https\r\nOrigin: https://127.0.0.1\r\n"],
)
def test_behind_tls_the_cookie_is_secure(head: bytes, locked: Alone) -> None:
    assert "Secure" in header(login(locked, TOKEN, head=head), "Set-Cookie")


@pytest.mark.parametrize("path", [b"/login", b"/logout", b"/link"])
@pytest.mark.parametrize("head", [b"Origin: https://evil.example\r\n", b"Sec-Fetch-Site: cross-site\r\n"])
def test_a_foreign_page_logs_nobody_in_or_out_and_is_told_why(
    path: bytes, head: bytes, locked: Alone
) -> None:
    answer = locked.send(request(b"POST " + path, BEARER + FORM + head, body=f"token={TOKEN}".encode()))
    assert statuses(answer) == [403]
    assert header(answer, "Set-Cookie") == ""
    assert b"page" in answer.partition(b"\r\n\r\n")[2]


def test_why_a_page_may_not_connect_is_told_where_it_can_be_read(locked: Alone) -> None:
    def ask(what: bytes, head: bytes, host: bytes = b"127.0.0.1") -> tuple[int, str]:
        answer = locked.send(request(what, BEARER + b"Connection: close\r\n" + head, host))
        return statuses(answer)[0], answer.partition(b"\r\n\r\n")[2].decode()

    assert ask(b"POST /link", b"Content-Length: 0\r\nOrigin: https://a.example\r\n", b"a.example:443") == (
        204,
        "",
    )
    status, text = ask(
        b"POST /link", b"Content-Length: 0\r\nOrigin: https://a.example\r\n", b"127.0.0.1:5580"
    )
    assert (status, "must pass the Host header on" in text) == (403, True)
    status, text = ask(b"GET /link", b"")
    assert (status, "must pass Upgrade on" in text) == (400, True)


def test_two_consoles_of_one_machine_know_their_own_cookies(locked: Alone) -> None:
    with Alone(token=TOKEN + "-2") as other:
        cookies = {}
        for console, word in ((locked, TOKEN), (other, TOKEN + "-2")):
            name, _, rest = header(login(console, word), "Set-Cookie").partition("=")
            cookies[name] = rest.partition(";")[0]
        assert len(cookies) == 2
        jar = "Cookie: " + "; ".join(f"{name}={value}" for name, value in cookies.items()) + "\r\n"
        for console in (locked, other):
            assert statuses(console.send(request(b"GET /", jar.encode()))) == [200]


def test_a_network_that_is_trusted_whole_may_use_any_name() -> None:
    with Alone(listen=f"0.0.0.0:{free_port()}", insecure=True) as console:
        for path in (b"/", b"/static/main.js", b"/metrics"):
            assert statuses(console.send(request(b"GET " + path, host=b"box.example:5580"))) == [200]
        assert statuses(console.send(request(b"GET /healthz", host=b"box.example:5580"))) == [503]


def test_on_loopback_a_foreign_name_is_told_the_remedy_and_health_needs_no_name(free: Alone) -> None:
    for path in (b"/", b"/static/main.js", b"/metrics", b"/link"):
        answer = free.send(request(b"GET " + path, UPGRADE, host=b"evil.example"))
        assert statuses(answer) == [403]
        assert b"'evil.example' may be a name that somebody else points at this console" in answer
        assert b"web.token_file" in answer
    for path in (b"/healthz", b"/readyz"):
        assert statuses(free.send(request(b"GET " + path, host=b"evil.example"))) == [503]


@pytest.mark.parametrize(
    "part",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\nX: ",
        b"POST /login HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99\r\n" + FORM + b"\r\ntok",
        b"POST /login HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n" + FORM + b"\r\n3\r\ntok",
        b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99\r\n\r\nx",
    ],
    ids=["head", "body", "chunks", "body that nobody reads"],
)
def test_health_is_answered_while_two_hundred_requests_are_never_whole(part: bytes, free: Alone) -> None:
    held = [socket.create_connection(free.address) for _ in range(200)]
    try:
        for sock in held:
            with contextlib.suppress(ConnectionError):  # the first ones have made room already
                sock.sendall(part)
        for path in (b"/healthz", b"/readyz"):
            assert statuses(free.send(request(b"GET " + path))) == [503]
    finally:
        for sock in held:
            sock.close()
