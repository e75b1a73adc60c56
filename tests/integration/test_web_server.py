"""The console's process over HTTP: who is let in, what is told, and how it begins and ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import zmq

from streamseg.net.curve_keys import make_keys
from streamseg.wire.control import GetStatus, encode, parse_request
from tests.integration.console import Alone, Running, live, running
from tests.integration.daemons import run_daemon
from tests.media import draw_clip
from tests.ports import free_port
from tests.waiting import LIMIT_S, in_time, until

pytest.importorskip("aiohttp", reason="pip install 'streamseg[web]'")

from tests.unit.test_web import status


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_clip(tmp_path_factory.mktemp("clips") / "red.mp4")


@pytest.fixture(scope="module")
def console(tiny_engine: Path, clip: Path) -> Iterator[Running]:
    with running(*live(tiny_engine, clip)) as daemon:
        yield daemon


def ask(url: str, **headers: str) -> tuple[int, str]:
    """(status, text) of a request."""
    request = urllib.request.Request(url, headers={k.replace("_", "-"): v for k, v in headers.items()})
    try:
        with urllib.request.urlopen(request, timeout=LIMIT_S) as answer:
            return answer.status, answer.read().decode(errors="replace")
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode(errors="replace")


def upgrade(url: str, **headers: str) -> int:
    """The status with which a WebSocket is answered; 101 lets it in."""
    host = url.split("/")[2]
    name, port = host.split(":")
    lines = {
        "Host": host,
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        **headers,
    }
    with socket.create_connection((name, int(port)), timeout=LIMIT_S) as sock:
        text = "GET /link HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in lines.items()) + "\r\n"
        sock.sendall(text.encode())
        return int(sock.recv(4096).split()[1])


def test_it_is_healthy_and_ready_and_counts(console: Running) -> None:
    assert ask(f"{console.url}healthz") == (200, "ok\n")
    assert ask(f"{console.url}readyz") == (200, "ok\n")
    until(lambda: 'streamseg_masks_published_total{stream="video"}' in ask(f"{console.url}metrics")[1])
    code, text = ask(f"{console.url}metrics")
    assert code == 200
    assert "streamseg_up 1.0" in text
    assert 'streamseg_stage_seconds_bucket{le="+Inf",stage="infer",stream="video"}' in text


def test_the_page_needs_nothing_from_elsewhere(console: Running) -> None:
    with urllib.request.urlopen(console.url, timeout=LIMIT_S) as answer:
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        page = answer.read().decode()
    assert "https://" not in page
    assert "http://" not in page
    for name in ("console.css", "main.js", "tile.js", "compose.js", "icon.svg"):
        assert ask(f"{console.url}static/{name}")[0] == 200
    assert ask(f"{console.url}static/../server.py")[0] == 404
    assert ask(f"{console.url}streams/nobody/mask.png")[0] == 404


def test_foreign_names_and_pages_are_kept_out(console: Running) -> None:
    assert ask(console.url, Host="evil.example")[0] == 403
    assert ask(f"{console.url}metrics", Host="evil.example:80")[0] == 403
    own = console.url.rstrip("/")
    assert upgrade(console.url) == 101
    assert upgrade(console.url, Origin=own) == 101
    assert upgrade(console.url, Origin="http://evil.example") == 403
    assert upgrade(console.url, **{"Sec-Fetch-Site": "cross-site"}) == 403


def test_a_page_that_talks_nonsense_is_let_go_and_the_others_stay(console: Running) -> None:
    import asyncio

    import aiohttp

    async def talk() -> None:
        async with aiohttp.ClientSession() as session:
            link = f"{console.url}link"
            async with session.ws_connect(link) as good, session.ws_connect(link) as bad:
                await bad.send_str('{"type": "watch", "tiles": 5}')
                while (await bad.receive(LIMIT_S)).type is aiohttp.WSMsgType.TEXT:
                    pass
                assert bad.closed
                await good.send_str('{"type": "ping", "at": 1.5}')
                while True:
                    message = json.loads((await good.receive(LIMIT_S)).data)
                    if message["type"] == "pong":
                        assert message["at"] == 1.5
                        return

    asyncio.run(talk())


def test_health_does_not_wait_for_what_a_page_asks(tmp_path: Path) -> None:
    """A daemon that answers nothing but its status: a page's request waits, and nobody else."""
    import asyncio

    import aiohttp

    asked, over = threading.Event(), threading.Event()
    waits_s: list[float] = []
    endpoint = f"ipc://{tmp_path}/control"

    def answer_status_alone() -> None:
        with zmq.Context() as context, context.socket(zmq.ROUTER) as sock:
            sock.bind(endpoint)
            while not over.is_set():
                if not sock.poll(50):
                    continue
                *address, data = sock.recv_multipart()
                request = parse_request(data)
                if isinstance(request, GetStatus):
                    reply = msgspec.structs.replace(status(), id=request.id)
                    sock.send_multipart([*address, encode(reply)])
                else:
                    assert request.remote is True  # a page is not the daemon's own user
                    asked.set()

    async def ask_and_look(url: str) -> None:
        async with aiohttp.ClientSession() as session, session.ws_connect(f"{url}link") as sock:

            async def answered() -> None:
                while (await sock.receive_json(timeout=LIMIT_S))["type"] != "done":
                    pass

            asked.clear()
            await sock.send_json({"type": "do", "id": 1, "what": "pause", "stream": "gate"})
            answer = asyncio.create_task(answered())
            await asyncio.to_thread(asked.wait, LIMIT_S)
            begun_s = time.monotonic()
            async with session.get(f"{url}readyz") as ready:
                assert ready.status == 200
            waits_s.append(time.monotonic() - begun_s)
            await answer

    daemon = threading.Thread(target=answer_status_alone)
    daemon.start()
    try:
        until(lambda: (tmp_path / "control").exists(), "the socket")
        with Alone(control=endpoint) as console:

            def health_after_s() -> float:
                asyncio.run(ask_and_look(console.url))
                return waits_s[-1]

            in_time(2.5, health_after_s)  # the page waits for 3 s
    finally:
        over.set()
        daemon.join(LIMIT_S)


def test_a_port_that_is_taken_is_named_once_and_tried_again(tiny_engine: Path, clip: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        listen = f"127.0.0.1:{other.getsockname()[1]}"
        daemon = run_daemon(
            *live(tiny_engine, clip), "--endpoint", f"tcp://127.0.0.1:{free_port()}", "--web", listen
        )
        try:
            daemon.wait(f"{listen}: is in use; stop the other process or choose another port")
            other.close()
            daemon.wait(f"the console is at http://{listen}/")
            assert sum("is in use" in line for line in daemon.lines) == 1
        finally:
            daemon.kill()


def test_it_ends_with_the_daemon_within_its_time_whoever_is_connected(tiny_engine: Path, clip: Path) -> None:

    def ended_after_s() -> float:
        with running(*live(tiny_engine, clip)) as daemon:
            host, port = daemon.url.split("/")[2].split(":")
            with daemon.control() as control:
                child = control.status().children["web"]
            with socket.create_connection((host, int(port))):
                assert upgrade(daemon.url) == 101
                begun_s = time.monotonic()
                daemon.lines.process.send_signal(signal.SIGTERM)
                daemon.lines.process.wait(LIMIT_S)
                took_s = time.monotonic() - begun_s
            assert not Path(f"/proc/{child}").exists()
            assert daemon.lines.process.returncode == 0
            return took_s

    in_time(10, ended_after_s)  # 5 s is what is promised, on a machine that has time


def test_a_stop_that_reaches_all_processes_starts_no_console_again(tiny_engine: Path, clip: Path) -> None:
    with running(*live(tiny_engine, clip)) as daemon:
        with daemon.control() as control:
            child = control.status().children["web"]
        os.kill(child, signal.SIGTERM)  # systemd sends it to the whole service
        assert upgrade(daemon.url) == 101
        daemon.lines.process.send_signal(signal.SIGTERM)
        daemon.lines.process.wait(LIMIT_S)
        assert not any("the console has ended" in line for line in daemon.lines.lines)
        assert not Path(f"/proc/{child}").exists()


def test_with_keys_and_a_token_it_is_let_in_by_both(tiny_engine: Path, clip: Path, tmp_path: Path) -> None:
    secret, _ = make_keys(tmp_path / "site")
    (tmp_path / "token").write_text("a-token-that-is-long-enough")
    (tmp_path / "token").chmod(0o600)
    (tmp_path / "clients").mkdir()
    config = tmp_path / "site.toml"
    listen = f"127.0.0.1:{free_port()}"
    config.write_text(
        f'[streams.video]\nsource = "{clip}"\nrealtime = true\nloop = true\n'
        f'[engine]\nname = "{tiny_engine}"\n[publish]\n'
        f'endpoint = "tcp://127.0.0.1:{free_port()}"\ncurve_secret_key_file = "{secret}"\n'
        f'allowed_clients = "{tmp_path / "clients"}"\n'
        f'[web]\nlisten = "{listen}"\ntoken_file = "{tmp_path / "token"}"\n'
    )
    daemon = run_daemon(config)
    bearer = {"Authorization": "Bearer a-token-that-is-long-enough"}
    try:
        daemon.wait("the console is at")
        url = f"http://{listen}/"
        assert ask(url)[0] == 401
        assert ask(f"{url}metrics")[0] == 401
        assert upgrade(url) == 401
        assert ask(f"{url}healthz") == (200, "ok\n")
        assert ask(f"{url}metrics", **bearer)[0] == 200
        seen = until(lambda: frame_of(url, bearer), "a mask")
        assert seen["stream"] == "video"
        assert not any("a-token" in line for line in daemon.lines)
    finally:
        daemon.kill()


def frame_of(url: str, headers: dict[str, str]) -> dict[str, object]:
    """The header of the first mask that a page gets."""
    import asyncio

    import aiohttp

    async def look() -> dict[str, object]:
        async with (
            aiohttp.ClientSession(headers=headers) as session,
            session.ws_connect(f"{url}link") as sock,
        ):
            await sock.send_json({"type": "watch", "tiles": {"video": {}}})
            while True:
                message = await sock.receive(LIMIT_S)
                if message.type is aiohttp.WSMsgType.BINARY:
                    header: dict[str, object] = json.loads(
                        message.data[4 : 4 + int.from_bytes(message.data[:4], "little")]
                    )
                    return header

    return asyncio.run(look())
