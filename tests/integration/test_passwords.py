"""Camera passwords: used where they must be, and nowhere in what the daemon puts out."""

from __future__ import annotations

import asyncio
import base64
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from urllib.parse import quote
from urllib.request import urlopen

import msgspec
import pytest

from streamseg.client import subscribe
from streamseg.client.control import ControlClient
from streamseg.config import Config, StreamConfig, build_settings
from streamseg.errors import ConfigError, ControlError, SourceError
from streamseg.sources.target import read_password, target_of
from streamseg.wire.control import encode
from streamseg.wire.status import StreamStatus
from tests.integration.daemons import Lines
from tests.media import draw_clip
from tests.ports import free_port
from tests.waiting import LIMIT_S, until
from tests.web import Quiet, QuietFiles, http_server

RIGHT = "Sesam/öffne @dich:50%"
WRONG = "Knoblauch!7"


class Guarded(QuietFiles):
    """A camera on HTTP that wants a password, and keeps an eye on what it is shown."""

    asked: list[str] = []  # noqa: RUF012 - the server makes an object of this class for each request

    def do_GET(self) -> None:
        shown = self.headers.get("Authorization", "")
        self.asked.append(shown)
        if self.path.startswith("/elsewhere/"):
            self.send_response(302)
            self.send_header("Location", f"http://{self.path.removeprefix('/elsewhere/')}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if shown != "Basic " + base64.b64encode(f"eye:{RIGHT}".encode()).decode():
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="camera"')
            self.end_headers()
            return
        super().do_GET()


@pytest.fixture
def camera(tmp_path: Path) -> Iterator[str]:
    """HOST:PORT."""
    folder = tmp_path / "camera"
    folder.mkdir()
    draw_clip(folder / "clip.mp4", frames=30)
    with http_server(partial(Guarded, directory=str(folder))) as address:
        yield address


def private(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o600)
    return path


class Lookalike(Quiet):
    """Somebody else's machine that asks for a password, and keeps what it is shown."""

    shown: list[str] = []  # noqa: RUF012 - as above
    asked = 0

    def do_GET(self) -> None:
        Lookalike.asked += 1
        if "Authorization" in self.headers:
            self.shown.append(self.headers["Authorization"])
        self.send_response(401)
        self.send_header("WWW-Authenticate", 'Basic realm="camera"')
        self.send_header("Content-Length", "0")
        self.end_headers()


@pytest.fixture
def lookalike() -> Iterator[str]:
    """HOST:PORT."""
    with http_server(Lookalike) as address:
        yield address


def forms(password: str) -> list[str]:
    """How a password may look in a text."""
    hidden = base64.b64encode(f"eye:{password}".encode()).decode()
    return [password, quote(password, safe=""), quote(password), repr(password)[1:-1], hidden]


def until_states(daemon: ControlClient, **states: str) -> dict[str, StreamStatus]:
    streams: dict[str, StreamStatus] = {}

    def reached() -> bool:
        streams.update(daemon.status().streams)
        return all(streams[name].state == state for name, state in states.items())

    until(reached, lambda: streams)
    return streams


def test_no_password_is_in_anything_that_the_daemon_puts_out(
    tmp_path: Path, tiny_engine: Path, camera: str
) -> None:
    passwords = private(tmp_path / "passwords", f"# of the cameras\nright {RIGHT}\nrefused {RIGHT}\n")
    site = tmp_path / "site.toml"
    good = (
        '[publish]\nendpoint = "tcp://127.0.0.1:0"\n[control]\n'
        f'endpoint = "ipc://{tmp_path}/control"\n[log]\nlevel = "debug"\n'
        f'[engine]\nname = "{tiny_engine}"\nthreads = 1\nbackend = "onnx"\n'
        f'[streams.right]\nsource = "http://eye@{camera}/clip.mp4"\npassword_file = "{passwords}"\n'
        "loop = true\n"
        f'[streams.wrong]\nsource = "http://eye:{WRONG}@{camera}/clip.mp4"\n'
        f'[streams.refused]\nsource = "rtsp://eye@127.0.0.1:1/x"\npassword_file = "{passwords}"\n'
        f'[streams.nowhere]\nsource = "rtsp://eye:{WRONG}@no-such-host.invalid/x"\n'
    )
    site.write_text(good)
    heard: list[str] = []
    with Lines([sys.executable, "-X", "dev", "-m", "streamseg", "run", site], errors=True) as process:
        endpoint = process.wait("publishing on").split()[-1]
        with (
            ControlClient(f"ipc://{tmp_path}/control", timeout_s=LIMIT_S) as daemon,
            subscribe(endpoint, statuses=True) as masks,
        ):
            while masks.read(LIMIT_S).stream != "right":
                pass
            streams = until_states(
                daemon, right="playing", wrong="reconnecting", refused="reconnecting", nowhere="reconnecting"
            )
            assert streams["right"].source == f"http://eye@{camera}/clip.mp4"
            assert "(401)" in streams["wrong"].error
            heard.append(encode(daemon.status()).decode("latin-1"))
            heard += [str(masks.status(name, LIMIT_S)) for name in streams]
            for name, settings in (
                ("right", {"source": f"http://eye:{WRONG}@x/"}),
                ("a b", {"source": f"http://eye:{WRONG}@x/"}),
                ("new", {"source": 7, "mask_size": f"http://eye:{WRONG}@x/"}),
                ("new", {"source": f"srt://eye:{WRONG}@x/"}),
                ("new", {"source": f"http://eye:{WRONG}@x/", "password_file": str(passwords)}),
            ):
                with pytest.raises(ControlError) as caught:
                    daemon.add(name, **settings)
                heard.append(str(caught.value))
            site.write_text(good + f'[streams]\nyard = "http://eye:{WRONG}@x/"\n')
            with pytest.raises(ControlError) as caught:
                daemon.reload()
            heard.append(str(caught.value))
            site.write_text(
                good.replace("[streams.right]", f'[streams]\nyard = "http://e:{WRONG}@x"\n[streams.right]')
            )
            with pytest.raises(ControlError, match="must be a table") as caught:
                daemon.reload()
            heard.append(str(caught.value))
        process.process.send_signal(signal.SIGTERM)
        process.process.wait(LIMIT_S)
        heard += process.lines
    assert any("decoding http://eye@" in line for line in heard)
    assert len(Guarded.asked) > 2
    for text in heard:
        for password in (RIGHT, WRONG):
            assert not [form for form in forms(password) if form in text], text


def page_asks(url: str, what: str, stream: str, settings: dict[str, object]) -> list[str]:
    """The problems with which a page's request is answered."""
    aiohttp = pytest.importorskip("aiohttp", reason="pip install 'streamseg[web]'")

    async def ask() -> list[str]:
        async with aiohttp.ClientSession() as session, session.ws_connect(f"{url}link") as sock:
            await sock.send_json(
                {"type": "do", "id": 1, "what": what, "stream": stream, "settings": settings}
            )
            while True:
                message = await sock.receive_json(timeout=LIMIT_S)
                if message["type"] == "done":
                    problems: list[str] = message["problems"]
                    return problems

    return asyncio.run(ask())


@pytest.mark.slow  # cameras are tried again after pauses: 12 s
def test_no_password_follows_a_stream_to_another_host(
    tmp_path: Path, tiny_engine: Path, camera: str, lookalike: str
) -> None:
    """By a page, by control.endpoint, by a camera's redirection; a reload brings all back."""
    passwords = private(tmp_path / "passwords", f"gate {RIGHT}\nmoved {RIGHT}\n")
    site = tmp_path / "site.toml"
    site.write_text(
        f'[publish]\nendpoint = "tcp://127.0.0.1:0"\n[control]\nendpoint = "ipc://{tmp_path}/control"\n'
        f'[web]\nlisten = "127.0.0.1:{free_port()}"\n'
        f'[engine]\nname = "{tiny_engine}"\nthreads = 1\nbackend = "onnx"\n'
        f'[streams.gate]\nsource = "http://eye@{camera}/clip.mp4"\nloop = true\n'
        f'password_file = "{passwords}"\n'
        f'[streams.moved]\nsource = "http://eye@{camera}/elsewhere/{lookalike}/clip.mp4"\n'
        f'password_file = "{passwords}"\n'
    )
    Lookalike.shown.clear()
    with (
        ExitStack() as owned,
        Lines([sys.executable, "-m", "streamseg", "run", site], errors=True) as process,
    ):
        url = process.wait("the console is at").split()[-1]
        process.wait("publishing on")
        remote = owned.enter_context(ControlClient(f"ipc://{tmp_path}/control", timeout_s=LIMIT_S))

        def by_page(what: str, stream: str, **settings: object) -> list[str]:
            return page_asks(url, what, stream, settings)

        def by_socket(what: str, stream: str, **settings: object) -> list[str]:
            try:
                getattr(remote, what)(stream, **settings)
            except ControlError as error:
                return list(error.problems)
            return []

        until(lambda: remote.status().streams["gate"].published, "masks of gate")
        until(lambda: "(401)" in remote.status().streams["moved"].error, "moved at the other host")
        for ask in (by_page, by_socket):
            for source in (
                f"http://eye@{lookalike}/a",
                f"http://eye@{camera}@{lookalike}/",
                f"https://eye@{camera}/",
            ):
                assert ask("add", "gate", source=source)  # it exists
                (problem,) = ask("add", "spy", source=source, password_file=str(passwords))
                assert "password_file" in problem
            assert ask("remove", "gate") == []
            for name in ("gate", "spy"):
                before = Lookalike.asked
                assert ask("add", name, source=f"http://eye@{lookalike}/clip.mp4") == []
                until(lambda before=before: Lookalike.asked > before, "the other host to be asked")
                until(lambda name=name: "(401)" in remote.status().streams[name].error, "its refusal")
            assert set(remote.reload().removed) == {"spy"}
            until(lambda: remote.status().streams["gate"].state == "playing", "gate at its camera")
    assert Lookalike.shown == []


def test_a_password_is_the_streams_line_or_all_there_is(tmp_path: Path) -> None:
    many = private(tmp_path / "many", "# two\n\ngate sesam öffne dich\nyard  x#1 \n")
    assert read_password(str(many), "gate") == "sesam öffne dich"
    assert read_password(str(many), "yard") == "x#1"
    with pytest.raises(ConfigError, match="has no line that begins with hall"):
        read_password(str(many), "hall")
    assert read_password(str(private(tmp_path / "one", "s#1%\n")), "hall") == "s#1%"


def test_special_letters_of_a_password_are_escaped(tmp_path: Path) -> None:
    path = private(tmp_path / "one", "gate a/b@c:d?e#f%41 g\n")
    config = StreamConfig(source="rtsp://admin@[::1]:554/h264?x=1", password_file=str(path))
    target = target_of(config, "gate")
    assert target.name == "rtsp://admin:a%2Fb%40c%3Ad%3Fe%23f%2541%20g@[::1]:554/h264?x=1"
    assert target.shown == "rtsp://admin@[::1]:554/h264?x=1"


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("rtsp://10.0.0.7/x", "needs a user in the address"),
        ("clip.mp4", "needs a user in the address"),
        ("rtsp://a:b@10.0.0.7/x", "already has a password"),
    ],
)
def test_a_password_that_fits_nowhere_is_refused(tmp_path: Path, source: str, says: str) -> None:
    path = private(tmp_path / "one", "secret\n")
    with pytest.raises(SourceError, match=says) as caught:
        target_of(StreamConfig(source=source, password_file=str(path)), "gate")
    assert "secret" not in str(caught.value)


def test_a_file_that_others_may_read_is_refused_unless_systemd_made_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = private(tmp_path / "one", "secret\n")
    path.chmod(0o640)
    with pytest.raises(ConfigError, match=r"other users can read .*chmod 600"):
        read_password(str(path), "gate")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert read_password("$CREDENTIALS_DIRECTORY/one", "gate") == "secret"
    with pytest.raises(ConfigError, match="two cannot be read"):
        read_password("$CREDENTIALS_DIRECTORY/two", "gate")


def test_a_wrong_setting_is_shown_without_its_password() -> None:
    tree = {
        "streams": {"gate": "rtsp://eye:geheim@x/"},
        "engine": {"threads": "http://eye:geheim@x/?token=t0p"},
    }
    with pytest.raises(ConfigError) as caught:
        build_settings(Config, tree)
    assert "rtsp://eye:***@x/" in str(caught.value)
    assert "geheim" not in str(caught.value)
    assert "t0p" not in str(caught.value)


@pytest.mark.slow  # 60 s: two dozen processes
@pytest.mark.parametrize(
    "password",
    [
        "p@ss/w:rd%41",
        pytest.param("my hunter2", marks=pytest.mark.soak),
        pytest.param("12?hunter#2x", marks=pytest.mark.soak),
    ],
)
def test_no_command_and_no_file_holds_a_password_however_its_address_is_written(
    tmp_path: Path, tiny_engine: Path, camera: str, password: str
) -> None:
    """Addresses that cannot be had and one that can, through check, run, ctl, the console and process."""
    encoded = quote(password, safe="")
    ways = [
        f"rtsp://admin:{password}@127.0.0.1:9/h264", f"RTSP://admin:{encoded}@127.0.0.1:9/h264",
        f"rtsp://127.0.0.1:9/user=admin_password={password}_channel=1_stream=0.sdp",
        f"http://127.0.0.1:9/videostream.cgi?loginuse=admin&loginpas={encoded}",
        f"admin:{password}@127.0.0.1:9/h264", f"rtsp:/admin:{password}@127.0.0.1:9/h264",
        f"http://eye:{encoded}@{camera}/clip.mp4?token={encoded}",
    ]  # fmt: skip
    heard: list[str] = []

    def command(*words: object) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "streamseg", *map(str, words)],
            capture_output=True, cwd=tmp_path, timeout=LIMIT_S, check=False,
        )  # fmt: skip
        heard.append((done.stdout + done.stderr).decode(errors="replace"))
        return heard[-1]

    def control(*words: object) -> str:
        return command("ctl", "--timeout", LIMIT_S, "--endpoint", f"ipc://{tmp_path}/control", *words)

    site = tmp_path / "site.toml"
    text = (
        f'[engine]\nname = "{tiny_engine}"\nthreads = 1\nbackend = "onnx"\n'
        f'[publish]\nendpoint = "ipc://{tmp_path}/masks"\n[control]\nendpoint = "ipc://{tmp_path}/control"\n'
        '[web]\nlisten = "127.0.0.1:0"\n'
    )
    streams = [
        f"[streams.s{i}]\nsource = {msgspec.json.encode(way).decode()}\n" for i, way in enumerate(ways)
    ]
    site.write_text(text + "".join(streams))
    command("check", site)
    site.write_text(
        text + '[streams.demo]\nsource = "demo:"\nloop = true\nrealtime = true\n' + "".join(streams[:4])
    )
    with Lines([sys.executable, "-m", "streamseg", "run", site], errors=True) as process:
        process.wait("publishing on")
        console = process.wait("the console is at").split()[-1]
        for words in (("status",), ("status", "--json"), ("reload",)):
            control(*words)
        for number, way in enumerate(ways[3:]):
            control("add", f"n{number}", "--source", way)
        for path in ("metrics", "healthz", "readyz"):
            with urlopen(f"{console}{path}", timeout=LIMIT_S) as answer:
                heard.append(answer.read().decode())
        shown = control("status", "--json")
        process.process.send_signal(signal.SIGTERM)
        process.process.wait(LIMIT_S)
        heard += process.lines
    assert shown.count("127.0.0.1:9/") >= 4
    for way in ways[::2]:
        command("process", way, "--out", tmp_path / "results", "--engine", tiny_engine)
    heard += [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")]
    heard += [
        path.read_text(errors="replace") for path in (tmp_path / "results").rglob("*.json") if path.is_file()
    ]
    for said in heard:
        assert not [form for form in forms(password) if form in said], said
        assert "Traceback" not in said, said


def test_the_list_of_processes_shows_no_password(tmp_path: Path, tiny_engine: Path) -> None:
    words = ["run", "--source", "rtsp://admin:my Knoblauch!7@127.0.0.1:9/h264", "--retry-at-start",
             "--engine", str(tiny_engine), "--endpoint", f"ipc://{tmp_path}/masks"]  # fmt: skip
    with Lines([sys.executable, "-m", "streamseg", *words], errors=True) as process:
        process.wait("publishing on")
        line = Path(f"/proc/{process.process.pid}/cmdline").read_bytes()
    assert b"Knoblauch" not in line
    assert b"rtsp://admin:***@127.0.0.1:9/h264" in line
