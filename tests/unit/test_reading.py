"""Files that an operator names are read in bounded time, or refused in words; whatever they are."""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from streamseg.config import WebConfig, load_config
from streamseg.config.reading import Call, Unanswered, open_regular, read_file, sha256_of
from streamseg.errors import StreamsegError
from streamseg.inference.spec import read_spec
from streamseg.inference.weights import read_weights
from streamseg.net import allow_list
from streamseg.net.allow_list import AllowedClients
from streamseg.net.curve_keys import read_key
from streamseg.recorded.manifest import result_sha256
from streamseg.sources.target import read_password
from streamseg.web.setup import read_token
from tests.engines import write_tiny_engine
from tests.waiting import LIMIT_S, in_time, until

ONE, TWO = "D:)Q[IlAW!ahhC2ac:9*A}h:p?([4%wOTJ%JR%cs", "T:)Q[IlAW!ahhC2ac:9*A}h:p?([4%wOTJ%JR%cs"


@pytest.fixture
def silent(tmp_path: Path) -> Path:
    """A pipe that nobody writes: open() blocks on it, as on a share that is away."""
    os.mkfifo(tmp_path / "silent", 0o600)
    return tmp_path / "silent"


def test_a_regular_file_is_read_with_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    content = read_file(tmp_path / "file", most_bytes=3)
    assert content.data == b"abc"
    assert content.info.st_ino == (tmp_path / "file").stat().st_ino
    assert sha256_of(tmp_path / "file") == hashlib.sha256(b"abc").hexdigest()


def test_no_sha_256_waits_for_a_pipe(silent: Path) -> None:
    for read in (sha256_of, result_sha256):
        with pytest.raises(OSError, match="not a regular file"):
            read(silent)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("silent", "not a regular file"),
        (".", "Is a directory"),
        ("large", "larger than 1 KiB"),
        ("nothing", "No such file or directory"),
        ("/dev/zero", "not a regular file"),
        ("/dev/tty", "not a regular file"),
    ],
)
def test_everything_else_is_refused_at_once_and_in_words(
    tmp_path: Path, silent: Path, name: str, reason: str
) -> None:
    (tmp_path / "large").write_bytes(bytes(1025))
    begun_s = time.monotonic()
    with pytest.raises(OSError, match=reason) as caught:
        read_file(tmp_path / name, most_bytes=1024, within_s=LIMIT_S)
    assert caught.value.strerror == reason
    assert time.monotonic() - begun_s < LIMIT_S / 2
    if name not in ("large", "nothing"):
        with pytest.raises(OSError, match=reason):
            open_regular(tmp_path / name)


def test_a_pipe_is_read_where_that_is_asked_for_and_in_bounded_time(silent: Path) -> None:
    with pytest.raises(Unanswered, match=r"does not answer in 0\.1 s"):
        read_file(silent, pipes=True, within_s=0.1)
    begun_s = time.monotonic()
    with pytest.raises(Unanswered, match="has not answered since it was read last"):
        read_file(silent, pipes=True, within_s=LIMIT_S)
    assert time.monotonic() - begun_s < LIMIT_S / 2
    silent.write_bytes(b"late")  # which lets the first reader end
    until(lambda: not any(t.name.startswith("read ") for t in threading.enumerate()))
    threading.Thread(target=silent.write_bytes, args=(b"in time",)).start()
    assert read_file(silent, pipes=True, within_s=LIMIT_S).data == b"in time"


def test_files_that_do_not_answer_hold_a_bounded_number_of_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamseg.config.reading.MOST_UNANSWERED", 3)
    pipes = [tmp_path / f"pipe{i}" for i in range(6)]

    def readers() -> int:
        return sum(thread.name.startswith("read ") for thread in threading.enumerate())

    until(lambda: readers() == 0, "those of the test before")
    for pipe in pipes:
        os.mkfifo(pipe)
        with pytest.raises(Unanswered):
            read_file(pipe, pipes=True, within_s=0.01)
    assert readers() == 3
    for pipe in pipes[:3]:
        pipe.write_bytes(b"")
    until(lambda: readers() == 0)


def test_no_reader_of_a_setting_waits_for_a_device_or_a_pipe(
    tmp_path: Path, silent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamseg.config.text_file.TEXT_WITHIN_S", 0.05)
    engine = write_tiny_engine(tmp_path / "engine")
    spec = read_spec(engine)
    graph = engine / spec.weights_of("fp32").file
    for path in (silent, Path("/dev/zero"), tmp_path):
        graph.unlink()
        graph.symlink_to(path)
        for read in (
            lambda p: load_config(p),
            lambda p: read_key(p, "key"),
            lambda p: read_token(WebConfig(token_file=str(p))),
            lambda p: read_password(str(p), "gate"),
            lambda p: read_weights(engine, spec, "fp32"),
        ):

            def refused_after_s(read: Callable[[Path], object] = read, path: Path = path) -> float:
                begun_s = time.monotonic()
                with pytest.raises(StreamsegError, match="cannot be read"):
                    read(path)
                return time.monotonic() - begun_s

            in_time(1, refused_after_s)
    silent.write_bytes(b"")


def test_an_allow_list_that_does_not_answer_keeps_its_keys_and_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "streamseg")
    monkeypatch.setattr(allow_list, "LOOK_EVERY_S", 0.0)
    path = tmp_path / "clients"
    path.write_text(ONE)
    clients = AllowedClients(str(path))
    away, asked = threading.Event(), threading.Event()
    look = clients._look

    def waits() -> object:
        asked.set()
        away.wait()
        return look()

    monkeypatch.setattr(clients, "_look", waits)
    path.write_text(f"{ONE}\n{TWO}")
    begun_s = time.monotonic()
    for _ in range(20):
        assert not clients.changed()
        assert ONE.encode() in clients
    assert asked.is_set()
    assert time.monotonic() - begun_s < 10  # which is half a second for each
    assert [m for m in caplog.messages if "does not answer; the earlier list stays" in m] == caplog.messages[
        -1:
    ]
    away.set()
    until(clients.changed)
    assert TWO.encode() in clients


def test_a_pipe_in_the_place_of_an_allow_list_is_named_and_the_list_stays(
    tmp_path: Path, silent: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(allow_list, "LOOK_EVERY_S", 0.0)
    path = tmp_path / "clients"
    path.write_text(ONE)
    clients = AllowedClients(str(path))
    silent.rename(path)
    until(lambda: not clients.changed() and "not a regular file" in caplog.text)
    assert ONE.encode() in clients


def test_what_a_call_raises_is_raised_where_it_is_asked_for() -> None:
    call = Call("it", lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        call.result(LIMIT_S)
