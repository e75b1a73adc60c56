"""No password is in what is shown, however the address was written; the host and plain addresses are."""

from __future__ import annotations

import base64
import json
import logging
import random
import string
import sys
import threading
from collections.abc import Iterator
from urllib.parse import quote

import pytest

from streamseg.config import StreamConfig
from streamseg.config.redact import login_of, looks_like_address, redact, remember, remember_value
from streamseg.errors import one_line
from streamseg.runtime.log import LineFormatter, hide_secrets_of_tracebacks

HOSTS = (
    "10.0.0.7",
    "10.0.0.7:554",
    "[fe80::1]:554",
    "cam.example.com",
    "cam-1",
    "localhost:8554",
    "gate.local:8080",
)

LOGINS = [
    "rtsp://admin:{p}@{h}/h264",
    "RTSP://admin:{p}@{h}/h264",
    " rtsp://admin:{p}@{h}/h264 ",
    "rtsp://:{p}@{h}/h264",
    "rtsp://home cam:{p}@{h}/h264",
    "rtsp://jörg:{p}@{h}/h264",
    "rtsp://me@home.org:{p}@{h}/h264",
    "rtsp://DOMAIN\\me:{p}@{h}/h264",
    "rtsp://admin:{p}@{h}",
    "rtsp://admin:{p}@{h}?channel=1",
    "rtsp://admin:{p}@{h}/Streaming/Channels/101?transportmode=unicast",
    "rtsps://admin:{p}@{h}/h264#t=1",
    "rtsp:/admin:{p}@{h}/h264",
    "rtsp//admin:{p}@{h}/h264",
    "rtsp;//admin:{p}@{h}/h264",
    "rtsp:admin:{p}@{h}/h264",
    "rtsp:///admin:{p}@{h}/h264",
    "http://admin:{p}@{h}/video.mjpg",
    "https://admin:{p}@{h}/live/index.m3u8",
    "rtmp://admin:{p}@{h}/live/1",
    "udp://admin:{p}@{h}",
    "srt://admin:{p}@{h}?mode=caller",
    "http://proxy/?url=rtsp://admin:{p}@{h}/h264",
    "admin:{p}@{h}/h264",
    "s3://admin:{p}@{h}/bucket",
]  # fmt: skip
NAMES = [
    "rtsp://{h}/user=admin_password={p}_channel=1_stream=0.sdp?real_stream",
    "rtsp://{h}/user=admin&password={p}&channel=1&stream=0.sdp?",
    "http://{h}/videostream.cgi?loginuse=admin&loginpas={p}",
    "http://{h}/videostream.cgi?user=admin&pwd={p}",
    "http://{h}/snap?usr=admin&passwd={p}&res=1",
    "https://{h}/a.m3u8?token={p}",
    "https://{h}/a.m3u8?x=2&access_token={p}&y=1",
    "https://{h}/a.mp4?X-Amz-Date=1&X-Amz-Signature={p}",
    "https://{h}/a.mp4?sv=2020&sig={p}&se=1",
    "https://{h}/a.m3u8?auth={p}",
    "https://{h}/a.m3u8?api_key={p}",
    "https://{h}/a.m3u8?jwt={p}",
    "rtsp://{h}/live?secret={p}",
    "rtsp://{h}/live?SessionID={p}",
    "http://{h}/cgi-bin/view;password={p}",
]  # fmt: skip
WAYS = LOGINS + NAMES


def passwords(count: int) -> Iterator[str]:
    """Passwords as people make them, and as generators make them, each with something to look for."""
    chosen = random.Random(17)
    letters, special = string.ascii_letters + string.digits, "@:/?#%&=+;,!$'\"()*[]{}<>|\\^~` .-_äß密"
    fixed = [
        "my hunter2",
        "1234?hunter2",
        "12#3456",
        "p@ss@word9",
        "a/b/c1",
        "50%more",
        "%41%42%43x",
        "Sesam/öffne @dich:50%",
    ]
    yield from fixed
    for _ in range(count - len(fixed)):
        length = chosen.randint(6, 20)
        yield chosen.choice(letters) + "".join(
            chosen.choice(letters if chosen.random() < 0.7 else special) for _ in range(length)
        ) + chosen.choice(letters)  # fmt: skip


PASSWORDS = list(passwords(200))
SOME = PASSWORDS[:32]  # those that were chosen by hand, and some that were not


def leaks(password: str, text: str) -> bool:
    return any(
        form in text for form in (password, quote(password, safe=""), quote(password), repr(password)[1:-1])
    )


@pytest.mark.parametrize("way", WAYS)
def test_a_password_is_hidden_by_its_place_however_the_address_is_written(way: str) -> None:
    _check_places(way, SOME)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_many_passwords_are_hidden_by_their_place(way: str) -> None:
    _check_places(way, PASSWORDS)


def _check_places(way: str, chosen: list[str]) -> None:
    for number, password in enumerate(chosen):
        host = HOSTS[number % len(HOSTS)]
        for typed in (password, quote(password, safe="")):
            address = way.format(p=typed, h=host)
            shown = redact(address)
            assert not leaks(password, shown), (address, shown)
            assert host in shown, (address, shown)
            assert redact(shown) == shown


@pytest.mark.parametrize("way", WAYS)
def test_a_password_that_was_read_is_hidden_wherever_it_stands_later(way: str) -> None:
    _check_values(way, PASSWORDS[::4][:12])


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_many_passwords_that_were_read_are_hidden_later(way: str) -> None:
    _check_values(way, PASSWORDS[::4])


def _check_values(way: str, chosen: list[str]) -> None:
    for number, password in enumerate(chosen):
        host = HOSTS[number % len(HOSTS)]
        StreamConfig(source=way.format(p=password, h=host))
        for text in (
            f"server said: no entry for {password}.",
            f"ValueError: {password!r} is bad",
            json.dumps({"says": password}),
            f"GET /x?a={quote(password, safe='')} failed",
            f"File \"x.py\", line 3\n  open('{password}')",
        ):
            if "&" in password and way in NAMES:
                continue  # the next name begins there, as far as anybody can tell
            assert not leaks(password, redact(text)), (way, password, redact(text))


def test_the_header_that_carries_a_password_is_hidden_too() -> None:
    remember("http://admin:correct%20horse@10.0.0.7/x")
    header = base64.b64encode(b"admin:correct horse").decode()
    assert redact(f"Authorization: Basic {header}") == "Authorization: Basic ***"


@pytest.mark.parametrize(
    "text",
    [
        "rtsp://10.0.0.7:554/h264", "rtsp://admin@10.0.0.7/h264", "rtsp://[::1]:554/a@b", "udp://@239.0.0.1:1234",
        "rtsp://10.0.0.7:554/cam@2x/stream", "http://cam:8080/snap@2x.jpg", "https://cdn.example.com/a.m3u8?x=1&y=2",
        "/videos/a:b@c.mp4", "street.mp4", "x?turn=1.mp4", "http://cam/x: sent nothing for 5 s; is it on?",
        "asks for a password (401); write it as http://USER:PASSWORD@HOST/…, special letters as %XX",
        "publish.endpoint: must be tcp://HOST:PORT or ipc://PATH; is 'http://127.0.0.1:5570'",
        "gate: 29.8 masks/s (decode 2.9 ms)", "key: streams.gate.source", "systemctl start streamseg@NAME",
        "http://10.0.0.7/@handle/live", "rtsp://cam/trackID=1", "",
    ],
)  # fmt: skip
def test_what_holds_no_secret_stays_as_it_is(text: str) -> None:
    remember(text)
    assert redact(text) == text


def test_a_word_that_is_a_password_is_hidden_only_as_a_word_and_never_in_host_or_user() -> None:
    remember("rtsp://admin:admin@10.0.0.7/h264")
    remember("rtsp://me:cam1@cam1/h264")
    remember("rtsp://me:1234@10.0.0.7/h264")
    assert redact("rtsp://admin:admin@10.0.0.7/h264: refused") == "rtsp://admin:***@10.0.0.7/h264: refused"
    assert redact("unknown host 'cam1'") == "unknown host 'cam1'"
    assert redact("tcp://127.0.0.1:51234 and 1234") == "tcp://127.0.0.1:51234 and ***"


def test_a_short_value_is_hidden_in_its_place_only() -> None:
    remember("rtsp://me:ab@10.0.0.7/h264")
    assert redact("rtsp://me:ab@10.0.0.7/h264 abc ab") == "rtsp://me:***@10.0.0.7/h264 abc ab"


def test_what_is_an_address_is_told_from_a_path() -> None:
    for address in (
        "127.0.0.1:8551/h264",
        "rtsp:/x/y",
        "admin:pw@cam/x",
        "cam:554/x",
        "[::1]/x",
        " rtsp://x/",
    ):
        assert looks_like_address(address), address
    for path in (
        "clip.mp4",
        "a:b.mp4",
        "/x:y@z/clip.mp4",
        "folder/a:b@c.mp4",
        "./127.0.0.1",
        "x?key=1.mp4",
        "~/a",
    ):
        assert not looks_like_address(path), path


def test_a_login_is_found_with_its_user() -> None:
    address = "rtsp://me@home.org:a/b@10.0.0.7/x"
    login = login_of(address)
    assert login is not None
    assert address[slice(*login.user)] == "me@home.org"
    assert address[slice(*login.password)] == "a/b"
    assert login_of("rtsp://10.0.0.7:554/x@y") is None


def test_log_lines_and_tracebacks_are_without_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    remember_value("Knoblauch!7", "eye")
    try:
        raise ValueError("cannot open rtsp://eye:Knoblauch!7@x/ for Knoblauch!7")
    except ValueError:
        record = logging.LogRecord(
            "x", logging.WARNING, "x.py", 1, "%s", ("http://a:geheim9@x/",), sys.exc_info()
        )
    line = LineFormatter().format(record)
    assert "http://a:***@x/" in line
    assert "Knoblauch" not in line
    assert "geheim9" not in line
    assert LineFormatter(times=True).format(record)[:2] == "20"


def test_errors_that_nobody_caught_are_printed_without_secrets(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)
    hide_secrets_of_tracebacks()
    error = ValueError("rtsp://eye:Knoblauch!7@x/")
    sys.excepthook(ValueError, error, None)
    threading.excepthook(threading.ExceptHookArgs((ValueError, error, None, None)))
    said = capsys.readouterr().err
    assert said.count("rtsp://eye:***@x/") == 2


def test_a_long_text_is_cut_between_words_so_that_no_half_address_is_left() -> None:
    text = one_line("a" * 280 + " rtsp://eye:" + "Knoblauch!7" * 9 + "@x/ b")
    assert text == "a" * 280
