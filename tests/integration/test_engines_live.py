"""Several networks in a real daemon: each stream on its own, exchanged while it runs, without a gap."""

from __future__ import annotations

import logging
import threading
from contextlib import AbstractContextManager
from pathlib import Path
from time import sleep

import pytest

from streamseg import Daemon, Mask, subscribe
from streamseg.client.control import ControlClient
from streamseg.config import load_config
from streamseg.errors import ControlError, StreamsegError
from tests.engines import write_constant_engine
from tests.integration.daemons import ready_daemon
from tests.media import draw_clip
from tests.waiting import LIMIT_S, until

pytestmark = pytest.mark.usefixtures("own_runtime")
ALONE = 'backend = "onnx"\nreplicas = 1\n'  # how many there are would follow from what else the machine does
SLIM = f'[engines.slim]\nname = "camvid-slim"\nprecision = "int8"\n{ALONE}'
LAST = {"of-2": 1, "of-21": 20}
"""The only label of each label set."""


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_clip(tmp_path_factory.mktemp("clips") / "red.mp4", frames=30, fps=30)


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the engines two and many."""
    folder = tmp_path_factory.mktemp("engines")
    write_constant_engine(folder / "two", 2)
    write_constant_engine(folder / "many", 21)
    write_constant_engine(folder / "liar", 3, label_set="of-2")
    return folder


class Site:
    """A configuration file, and a daemon that runs it in a thread."""

    def __init__(self, folder: Path, engines: Path, clip: Path) -> None:
        self.path, self.engines, self.clip = folder / "site.toml", engines, clip

    def write(self, streams: dict[str, str], more: str = "") -> None:
        """Streams by name, each with the lines of its table beside a source that never ends."""
        text = '[publish]\nendpoint = "tcp://127.0.0.1:0"\nqueue = 10000\n'
        text += f'[engine]\nname = "{self.engines}/two"\nprecision = "fp32"\n{ALONE}'
        text += f'[engines.many]\nname = "{self.engines}/many"\nprecision = "fp32"\n{ALONE}{more}'
        for name, lines in streams.items():
            if "source" not in lines:
                lines = f'source = "{self.clip}"\nloop = true\nrealtime = true\n{lines}'
            text += f"\n[streams.{name}]\n{lines}\n"
        self.path.write_text(text)

    def running(self) -> AbstractContextManager[tuple[Daemon, ControlClient]]:
        return ready_daemon(self.path)


@pytest.fixture
def site(tmp_path: Path, engines: Path, clip: Path) -> Site:
    return Site(tmp_path, engines, clip)


class Masks:
    """Everything that comes, read in a thread of its own."""

    def __init__(self, endpoint: str) -> None:
        self.masks: list[Mask] = []
        self._subscription = subscribe(endpoint, newest=False, snapshot=False, queue=100_000)
        self._thread = threading.Thread(target=self._read)

    def __enter__(self) -> Masks:
        self._subscription.__enter__()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._subscription.close()
        self._thread.join(LIMIT_S)

    def _read(self) -> None:
        for mask in self._subscription:
            self.masks.append(mask)

    def of(self, stream: str) -> list[Mask]:
        return [mask for mask in list(self.masks) if mask.stream == stream]

    def wait(self, stream: str, label_set: str, more: int = 5) -> None:
        """Wait for some masks more of a stream with this label set."""
        before = len(self.of(stream))
        until(lambda: sum(m.label_set == label_set for m in self.of(stream)[before:]) >= more)

    def check(self, stream: str) -> list[str]:
        """No gap in n, no frame twice or out of order, no label of another set; the label sets in order."""
        masks = self.of(stream)
        assert [m.n for m in masks] == list(range(masks[0].n, masks[0].n + len(masks)))
        frames = [(m.epoch, m.seq) for m in masks]
        assert frames == sorted(set(frames))
        for mask in masks:
            assert (mask.labels == LAST[mask.label_set]).all()
            assert mask.engine.startswith({"of-2": "two/", "of-21": "many/"}[mask.label_set])
        sets = [m.label_set for m in masks]
        return [one for i, one in enumerate(sets) if i == 0 or sets[i - 1] != one]


def test_each_stream_runs_on_its_own_network_and_two_share_one_decode(site: Site) -> None:
    site.write({"a": "", "b": 'source = "stream:a"\nengine = "many"'})
    with site.running() as (daemon, client), Masks(daemon.endpoint) as masks:
        masks.wait("a", "of-2")
        masks.wait("b", "of-21")
        assert masks.check("a") == ["of-2"]
        assert masks.check("b") == ["of-21"]
        status = client.status()
        assert {n: e.id for n, e in status.engines.items()} == {
            "default": "two/fp32/onnx",
            "many": "many/fp32/onnx",
        }
        assert [status.streams[n].engine for n in "ab"] == ["default", "many"]
        assert status.streams["b"].connects == 0 or status.streams["b"].state == "playing"


def test_a_stream_goes_to_another_network_and_back_without_a_gap(site: Site) -> None:
    site.write({"a": "", "b": ""})
    with site.running() as (daemon, client), Masks(daemon.endpoint) as masks:
        masks.wait("a", "of-2")
        client.engine("a", "many")
        masks.wait("a", "of-21")
        assert set(client.status().engines) == {"default", "many"}
        client.engine("a", "default")
        masks.wait("a", "of-2")
        assert set(client.status().engines) == {"default"}  # many is closed: no stream uses it
        assert masks.check("a") == ["of-2", "of-21", "of-2"]
        assert masks.check("b") == ["of-2"]


def test_a_network_that_cannot_serve_leaves_the_old_one_and_says_why(
    site: Site, engines: Path, caplog: pytest.LogCaptureFixture
) -> None:
    site.write({"a": ""})
    with caplog.at_level(logging.INFO), site.running() as (daemon, client), Masks(daemon.endpoint) as masks:
        masks.wait("a", "of-2")
        for name, why in (
            ("mani", "a: unknown engine 'mani'; did you mean 'many'?"),
            (str(engines / "liar"), "engine liar: its label_set 'of-2' differs from that of two"),
            ("/nowhere/net", "engine.toml cannot be read"),
        ):
            with pytest.raises(ControlError) as error:
                client.engine("a", name)
            assert why.removeprefix("a: ") in str(error.value)
            assert "\n" not in str(error.value)
        with pytest.raises(ControlError, match="unknown stream"):
            client.engine("nobody", "many")
        masks.wait("a", "of-2")
        assert masks.check("a") == ["of-2"]
        assert set(client.status().engines) == {"default"}


def test_a_reload_exchanges_adds_and_removes_networks(site: Site, engines: Path) -> None:
    site.write({"a": "", "b": ""})
    with site.running() as (daemon, client), Masks(daemon.endpoint) as masks:
        masks.wait("a", "of-2")
        site.write({"a": 'engine = "many"', "b": ""})
        done = client.reload()
        assert (done.applied, done.restarted, done.needs_restart) == (["streams.a"], [], [])
        masks.wait("a", "of-21")
        text = site.path.read_text()
        site.path.write_text(text.replace(f"{engines}/two", f"{engines}/many"))
        assert client.reload().applied == ["engine.name"]
        masks.wait("b", "of-21")
        site.path.write_text(text.replace("[engines.many]", "[engines.more]"))
        with pytest.raises(ControlError, match=r"streams\.a\.engine: unknown engine 'many'; "):
            client.reload()
        masks.wait("a", "of-21")
        assert masks.check("a") == ["of-2", "of-21"]
        assert masks.check("b") == ["of-2", "of-21"]


def test_a_stream_that_shares_a_decode_follows_it(site: Site) -> None:
    site.write({"a": "", "b": 'source = "stream:a"\nengine = "many"\nmax_fps = 10'})
    with site.running() as (daemon, client), Masks(daemon.endpoint) as masks:
        masks.wait("b", "of-21")
        with pytest.raises(ControlError, match="a: its frames go to b, too; remove b first"):
            client.remove("a")
        with pytest.raises(ControlError, match=r"streams\.c\.source: stream:b has no source of its own"):
            client.add("c", source="stream:b")
        client.add("c", source="stream:a")
        masks.wait("c", "of-2")
        client.pause("a")
        assert {n: s.state for n, s in client.status().streams.items()} == dict.fromkeys("abc", "paused")
        client.resume("a")
        masks.wait("b", "of-21")
        client.pause("b")
        masks.wait("a", "of-2")
        client.resume("b")
        masks.wait("b", "of-21")
        client.remove("c")
        client.remove("b")
        client.remove("a")
        frames = {(m.epoch, m.seq): (m.pts, m.captured_unix_ns) for m in masks.of("a")}
        both = [m for m in masks.of("b") if (m.epoch, m.seq) in frames]  # on a busy machine each skips some
        assert both, "they label the same frames"
        assert all(frames[m.epoch, m.seq] == (m.pts, m.captured_unix_ns) for m in both)
        assert len(masks.of("b")) < len(masks.of("a"))
        masks.check("b")


@pytest.mark.parametrize(
    ("streams", "problem"),
    [
        ({"a": 'source = "stream:a"'}, "streams.a.source: stream:a is this stream itself"),
        (
            {"a": "", "b": 'source = "stream:aa"'},
            "streams.b.source: unknown stream 'aa'; did you mean stream:a?",
        ),
        (
            {"a": 'source = "stream:b"', "b": 'source = "stream:a"'},
            "streams.a.source: stream:b has no source of its own, the two name one another",
        ),
        (
            {"a": "", "b": 'source = "stream:a"', "c": 'source = "stream:b"'},
            "streams.c.source: stream:b has no source of its own, it takes the frames of a; write stream:a",
        ),
        (
            {"a": "", "b": 'source = "stream:a"\nloop = true'},
            "streams.b.loop: is that of a, whose source is read",
        ),
        ({"a": 'engine = "mani"'}, "streams.a.engine: unknown engine 'mani'; did you mean 'many'?"),
    ],
)
def test_what_cannot_be_is_refused_at_the_start(site: Site, streams: dict[str, str], problem: str) -> None:
    site.write(streams)
    with pytest.raises(StreamsegError) as error:
        Daemon(load_config(site.path)).run()
    assert str(error.value).startswith(problem)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_hundred_exchanges_leave_no_gap_no_mixture_and_no_memory(site: Site) -> None:
    """Between camvid-slim and a network of 21 classes, at 30 frames/s."""
    site.write({"a": 'source = "demo:"\nloop = true\nrealtime = true\nengine = "slim"'}, SLIM)
    memory = {}
    with site.running() as (daemon, client), Masks(daemon.endpoint) as masks:
        for exchange in range(1, 101):
            name, label_set = ("many", "of-21") if exchange % 2 else ("slim", "camvid-11")
            client.engine("a", name)
            masks.wait("a", label_set, 2)
            assert list(client.status().engines) == [name]
            if exchange in (10, 100):
                memory[exchange] = min(client.status().memory_bytes for _ in range(50) if not sleep(0.05))
            seen = masks.of("a")
            assert [m.n for m in seen] == list(range(seen[0].n, seen[-1].n + 1))
            for mask in seen:
                assert (
                    mask.engine.split("/")[0] == {"of-21": "many", "camvid-11": "camvid-slim"}[mask.label_set]
                )
                assert (mask.labels == 20).all() == (mask.label_set == "of-21")
            masks.masks[:-1] = []  # the next ones are compared with the last
    assert memory[100] <= 1.05 * memory[10], memory
