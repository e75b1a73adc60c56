"""Downloads are resumed, proved, and never half there under the file's own name. The server is a real one."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.client
import socket
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from streamseg.errors import UsageError, WeightsError
from streamseg.models.weights import RELEASED, SOURCES, Source, fetch
from streamseg.models.zoo import NETWORKS
from streamseg.runtime.backoff import Backoff

CONTENT = bytes(range(256)) * 5000  # 1.28 MB
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Behaviour:
    """What the server does, one entry for each request; and what it was asked."""

    cuts: list[int] = field(
        default_factory=list
    )  # bytes after which the connection is cut; then no more cuts
    ranges: bool = True
    status: int = 0
    content: bytes = CONTENT
    asked: list[str] = field(default_factory=list)
    meeting: threading.Barrier | None = None  # at which requests wait for one another, for a while


class Server(ThreadingHTTPServer):
    behaviour: Behaviour

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        behaviour = self.server.behaviour
        asked = self.headers.get("Range", "")
        behaviour.asked.append(asked)
        self.close_connection = True
        if behaviour.meeting is not None:
            with contextlib.suppress(threading.BrokenBarrierError):
                behaviour.meeting.wait(0.3)
        if behaviour.status:
            self.send_error(behaviour.status)
            return
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and behaviour.ranges else 0
        if start >= len(behaviour.content):
            self.send_error(416)
            return
        body = behaviour.content[start:]
        self.send_response(206 if asked and behaviour.ranges else 200)
        if asked and behaviour.ranges:
            whole = len(behaviour.content)
            self.send_header("Content-Range", f"bytes {start}-{whole - 1}/{whole}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: behaviour.cuts.pop(0)] if behaviour.cuts else body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(Backoff, "FIRST_S", 0.01)
    with Server(("127.0.0.1", 0), Handler) as running:
        running.behaviour = Behaviour()
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def source(server: Server, sha256_start: str = SHA256[:8]) -> Source:
    return Source("net.pth", "MIT", "https://example.org/nets", server.url + "net.pth", sha256_start)


def files(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir()) if folder.exists() else []


def test_a_file_is_downloaded_with_progress_and_not_twice(server: Server, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    path = fetch(
        "deeplabv3-resnet50", tmp_path / "a" / "b", lambda *at: seen.append(at), source=source(server)
    )
    assert path.read_bytes() == CONTENT
    assert files(path.parent) == ["net.pth"]
    assert seen[0] == (0, len(CONTENT))
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert seen == sorted(seen)
    assert fetch("deeplabv3-resnet50", path.parent, source=source(server)) == path
    assert server.behaviour.asked == [""]


def test_a_cut_connection_is_resumed_where_it_broke(server: Server, tmp_path: Path) -> None:
    server.behaviour.cuts = [300_000, 200_000, 100_000, 50_000, 20_000, 1]
    assert fetch("deeplabv3-resnet50", tmp_path, source=source(server)).read_bytes() == CONTENT
    froms = [int(asked[6:-1]) for asked in server.behaviour.asked[1:]]
    assert froms == [300_000, 500_000, 600_000, 650_000, 670_000, 670_001]


def test_two_calls_at_once_download_once_and_both_get_the_file(server: Server, tmp_path: Path) -> None:
    server.behaviour.meeting = threading.Barrier(2)
    with ThreadPoolExecutor(2) as threads:
        calls = [
            threads.submit(fetch, "deeplabv3-resnet50", tmp_path, source=source(server)) for _ in range(2)
        ]
        assert {call.result().read_bytes() for call in calls} == {CONTENT}
    assert server.behaviour.asked == [""]
    assert files(tmp_path) == ["net.pth"]


@pytest.mark.parametrize(
    "error", [OSError(errno.EHOSTUNREACH, "No route to host"), ssl.SSLError("decryption failed")]
)
def test_a_network_that_breaks_is_no_fault_of_the_disk_and_is_tried_again(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    read, errors = http.client.HTTPResponse.read, [None, error]

    def breaking(answer: http.client.HTTPResponse, *size: int) -> bytes:
        if errors and (broken := errors.pop(0)) is not None:
            raise broken
        return read(answer, *size)

    monkeypatch.setattr(http.client.HTTPResponse, "read", breaking)
    assert fetch("deeplabv3-resnet50", tmp_path, source=source(server)).read_bytes() == CONTENT
    assert len(server.behaviour.asked) == 2


def test_a_cache_that_cannot_be_read_is_told_in_one_line(server: Server, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"net\.pth: cannot be read \(File name too long\)"):
        fetch("deeplabv3-resnet50", tmp_path / ("x" * 300), source=source(server))


def test_a_later_call_goes_on_with_what_an_earlier_one_got(server: Server, tmp_path: Path) -> None:
    server.behaviour.cuts = [400_000, 0, 0, 0, 0]
    with pytest.raises(WeightsError, match="kept 400000 bytes to resume"):
        fetch("deeplabv3-resnet50", tmp_path, source=source(server))
    assert files(tmp_path) == ["net.pth.part"]
    server.behaviour.asked.clear()
    server.behaviour.cuts.clear()
    assert fetch("deeplabv3-resnet50", tmp_path, source=source(server)).read_bytes() == CONTENT
    assert server.behaviour.asked == ["bytes=400000-"]


def test_a_server_without_ranges_is_asked_again_from_the_beginning(server: Server, tmp_path: Path) -> None:
    server.behaviour.cuts = [300_000]
    server.behaviour.ranges = False
    assert fetch("deeplabv3-resnet50", tmp_path, source=source(server)).read_bytes() == CONTENT


def test_a_kept_piece_of_another_file_is_thrown_away(server: Server, tmp_path: Path) -> None:
    (tmp_path / "net.pth.part").write_bytes(bytes(len(CONTENT) + 5))
    assert fetch("deeplabv3-resnet50", tmp_path, source=source(server)).read_bytes() == CONTENT


def test_a_wrong_file_is_removed_and_both_hashes_are_told(server: Server, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=f"SHA-256 {SHA256[:16]}…, expected 00000000…") as caught:
        fetch("deeplabv3-resnet50", tmp_path, source=source(server, "00000000"))
    assert "put it at" in str(caught.value)
    assert files(tmp_path) == []


def test_a_wrong_file_that_somebody_put_there_is_refused_and_left(server: Server, tmp_path: Path) -> None:
    (tmp_path / "net.pth").write_bytes(b"something else")
    with pytest.raises(WeightsError, match="is not the published file"):
        fetch("deeplabv3-resnet50", tmp_path, source=source(server))
    assert files(tmp_path) == ["net.pth"]
    assert server.behaviour.asked == []


@pytest.mark.parametrize(("status", "requests"), [(404, 1), (403, 1), (503, 4)])
def test_a_refusal_is_told_and_only_a_passing_one_retried(
    server: Server, tmp_path: Path, status: int, requests: int
) -> None:
    server.behaviour.status = status
    with pytest.raises(WeightsError, match=f"the server answered {status}"):
        fetch("deeplabv3-resnet50", tmp_path, source=source(server))
    assert len(server.behaviour.asked) == requests
    assert files(tmp_path) == []


def test_offline_it_says_what_to_download_and_where_to_put_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Backoff, "FIRST_S", 0.01)
    with socket.socket() as closed:  # kept, as another process may listen on a port that was given back
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/net.pth"
        away = Source("net.pth", "MIT", "https://example.org/nets", url, "00")
        with pytest.raises(WeightsError) as caught:
            fetch("deeplabv3-resnet50", tmp_path, source=away)
    reason, advice = str(caught.value).split("; download ")
    assert "no connection" in reason
    assert (
        advice == f"{url} (see https://example.org/nets; licence: MIT) and put it at {tmp_path / 'net.pth'}"
    )


def test_a_caffe_file_is_downloaded_by_hand_and_taken_when_it_is_there(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="by hand") as caught:
        fetch("deeplab-v2-resnet101-3scale", tmp_path)
    path = tmp_path / "deeplab-v2-resnet101.caffemodel"
    assert str(caught.value).endswith(f"and put it at {path}")
    path.write_bytes(b"weights")
    assert fetch("deeplab-v2-resnet101-3scale", tmp_path) == path


def test_every_network_has_a_source_with_a_licence_and_what_is_fetched_can_be_proved() -> None:
    assert set(SOURCES) == set(NETWORKS)
    for entry in [*SOURCES.values(), *(released.source for released in RELEASED.values())]:
        assert entry.licence
        assert entry.page.startswith("http")
        if entry.url is not None:
            assert entry.url.startswith("https://")
            if entry.url.endswith(".pth"):
                assert entry.url.endswith(f"-{entry.sha256_start}.pth")
            assert len(entry.sha256_start) == (8 if entry.url.endswith(".pth") else 64)


def test_an_unknown_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown network"):
        fetch("deeplab-v9", tmp_path)
