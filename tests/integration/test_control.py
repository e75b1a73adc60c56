"""Controlling a daemon while it runs: the others must not notice."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import cv2
import msgspec
import pytest
import zmq
from click.testing import CliRunner

from streamseg.cli.ctl import command as ctl
from streamseg.client import Subscription, subscribe
from streamseg.client.control import ControlClient
from streamseg.daemon import Daemon
from streamseg.errors import ControlError, UsageError
from streamseg.net.control_sockets import one_running, running
from streamseg.net.curve_keys import make_keys
from streamseg.types import Mask
from streamseg.wire.control import (
    AddStream,
    GetSnapshot,
    GetStatus,
    PauseStream,
    Reloaded,
    RemoveStream,
    ResumeStream,
    encode,
)
from tests.integration.daemons import ready_daemon
from tests.media import draw_clip
from tests.waiting import LIMIT_S, until
from tests.web import Quiet, http_server

pytestmark = pytest.mark.usefixtures("own_runtime")
STREAM = '[streams.{name}]\nsource = "{source}"\nloop = true\nrealtime = true\nmax_fps = {fps}\n'


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_clip(tmp_path_factory.mktemp("clips") / "red.mp4", frames=30)


class Site:
    """A configuration file, and a daemon that runs it in a thread."""

    def __init__(self, folder: Path, engine: Path, clip: Path) -> None:
        self.path = folder / "site.toml"
        self.engine, self.clip = engine, clip
        self.extra = ""

    def write(self, fps: dict[str, int], more: str = "") -> None:
        """Streams by name, each with its max_fps."""
        streams = "".join(STREAM.format(name=name, source=self.clip, fps=f) for name, f in fps.items())
        self.path.write_text(
            '[publish]\nendpoint = "tcp://127.0.0.1:0"\nqueue = 10000\n'
            f'[engine]\nname = "{self.engine}"\nthreads = 1\nbackend = "onnx"\n{streams}{self.extra}{more}'
        )

    def running(self, *, with_file: bool = True) -> AbstractContextManager[tuple[Daemon, ControlClient]]:
        return ready_daemon(self.path, with_file=with_file)


@pytest.fixture
def site(tmp_path: Path, tiny_engine: Path, clip: Path) -> Site:
    site = Site(tmp_path, tiny_engine, clip)
    site.write({"gate": 20, "yard": 10})
    return site


def mask_of(masks: Subscription, stream: str, true: Callable[[Mask], bool] = lambda _: True) -> Mask:
    """The next mask of a stream for which it is true."""
    while True:
        mask = masks.read(LIMIT_S)
        if mask.stream == stream and true(mask):
            return mask


def without_gap(masks: Subscription) -> None:
    """Whatever has come is whole: the client counts what is missing between two n."""
    assert masks.stats.lost == 0


def test_the_status_tells_of_everything_that_runs(site: Site) -> None:
    with site.running() as (daemon, client), subscribe(daemon.endpoint) as masks:
        mask_of(masks, "gate")
        mask_of(masks, "yard")
        until(lambda: all(s.state == "playing" and s.fps > 0 for s in client.status().streams.values()))
        until(lambda: (counted := client.status().publisher) is not None and counted.subscribers == 1)
        status = client.status()
        gate = status.streams["gate"]
        assert list(status.streams) == ["gate", "yard"]
        assert (gate.size, gate.source_fps, gate.max_age_ms) == ((48, 64), 25.0, None)
        assert gate.decoded >= gate.published > 0
        assert gate.drops["skipped"] > 0
        assert set(gate.stage_us) >= {"decode", "infer", "fuse"}
        assert sum(gate.histograms["infer"].counts) == sum(gate.histograms["age"].counts) > 0
        assert gate.age_ms is not None
        assert gate.silent_s is not None
        assert status.publisher is not None
        assert status.publisher.subscribers == 1
        assert (status.state, status.pid, status.config) == ("running", os.getpid(), str(site.path))
        assert (status.engine.id, status.engine.state) == ("tiny/fp32/onnx", "running")
        assert status.memory_bytes > 10_000_000
        assert status.threads > 5
        assert status.open_files > 5
        assert status.control.connections == 1


def test_streams_come_and_go_and_come_again_while_another_plays(site: Site) -> None:
    with (
        site.running() as (daemon, client),
        subscribe(daemon.endpoint, newest=False, queue=100_000) as masks,
    ):
        first = mask_of(masks, "gate")
        last = mask_of(masks, "yard")
        client.remove("yard")
        assert "yard" not in client.status().streams
        with pytest.raises(ControlError, match="yard: unknown stream") as caught:
            client.snapshot("yard")
        assert caught.value.code == "unknown stream"
        with subscribe(daemon.endpoint) as late:  # its snapshot holds what plays
            assert mask_of(late, "gate").epoch == first.epoch
            until(lambda: daemon.publisher is not None and daemon.publisher.last("yard") is None)
            assert late.latest("yard") is None
        client.add("yard", source=str(site.clip), loop=True, realtime=True, max_fps=10)
        again = mask_of(masks, "yard", lambda mask: mask.epoch > last.epoch)
        assert again.n > last.n
        assert mask_of(masks, "gate", lambda mask: mask.n > first.n + 20).epoch >= first.epoch
        without_gap(masks)


def test_what_cannot_be_done_is_said_and_changes_nothing(site: Site) -> None:
    with site.running() as (_, client):
        before = list(client.status().streams)
        for what, code in (
            (lambda: client.add("gate", source="x.mp4"), "stream exists"),
            (lambda: client.add("hall", source="x.mp4", max_fps=-1), "bad settings"),
            (lambda: client.add("hall", source="srt://x"), "bad settings"),
            (lambda: client.add("a b", source="x.mp4"), "bad settings"),
            (lambda: client.add("hall"), "bad settings"),
            (lambda: client.remove("hall"), "unknown stream"),
            (lambda: client.pause("hall"), "unknown stream"),
            (lambda: client.resume("gate"), "bad state"),
            (lambda: client.keyframe("gate"), "bad state"),  # nobody wants a refinement
            (lambda: client.keyframe("hall"), "unknown stream"),
            (lambda: client.snapshot("gate", refined=True), "no mask"),
            (lambda: client.log_level("loud"), "malformed"),  # type: ignore[arg-type]
        ):
            with pytest.raises(ControlError) as caught:
                what()
            assert caught.value.code == code, caught.value
        assert list(client.status().streams) == before
        assert client.status().control.refused == 12


def test_a_paused_file_is_held_at_its_place_and_the_others_play_on(site: Site) -> None:
    site.write({"gate": 20, "yard": 10}, STREAM.format(name="hall", source=site.clip, fps=20))
    with (
        site.running() as (daemon, client),
        subscribe(daemon.endpoint, newest=False, queue=100_000) as masks,
    ):
        mask_of(masks, "hall")
        client.pause("hall")
        with pytest.raises(ControlError, match="hall: is paused already"):
            client.pause("hall")
        pipeline = daemon.pipeline
        assert pipeline is not None
        until(lambda: pipeline.stats.of("hall").decoded == pipeline.stats.of("hall").published)
        held = client.status().streams["hall"]
        seen = client.status().streams["gate"].published
        until(lambda: client.status().streams["gate"].published > seen + 10)
        still = client.status().streams["hall"]
        assert (still.state, still.published) == ("paused", held.published)
        client.resume("hall")
        mask_of(masks, "hall", lambda mask: mask.n >= held.published)
        assert client.status().streams["hall"].connects == 1
        without_gap(masks)


class Camera:
    """A camera on HTTP that sends pictures for as long as somebody looks, and knows who does."""

    def __init__(self, clip: Path) -> None:
        self.watching = 0
        self.opened = 0
        camera, pictures = self, clip.read_bytes()

        class Handler(Quiet):
            def do_GET(self) -> None:
                camera.watching += 1
                camera.opened += 1
                self.send_response(200)
                self.send_header("Content-Type", "video/mp2t")
                self.end_headers()
                try:
                    while True:
                        for at in range(0, len(pictures), 188 * 7):
                            self.wfile.write(pictures[at : at + 188 * 7])
                            self.wfile.flush()
                            time.sleep(0.02)
                except OSError:
                    camera.watching -= 1

        self.handler = Handler


def test_a_paused_camera_is_let_go_and_connected_anew(site: Site, tmp_path: Path) -> None:
    camera = Camera(draw_clip(tmp_path / "live.ts", frames=200))
    with http_server(camera.handler) as address:
        site.write({"gate": 20}, f'[streams.cam]\nsource = "http://{address}/live.ts"\n')
        with (
            site.running() as (daemon, client),
            subscribe(daemon.endpoint, newest=False, queue=100_000) as masks,
        ):
            before = mask_of(masks, "cam")
            client.pause("cam")
            until(lambda: camera.watching == 0)
            paused = client.status().streams["cam"]
            assert (paused.state, paused.error) == ("paused", "")
            client.resume("cam")
            after = mask_of(masks, "cam", lambda mask: mask.epoch > before.epoch)
            assert after.n > before.n
            assert camera.opened == 2
            client.remove("cam")
            until(lambda: camera.watching == 0)
            without_gap(masks)


def test_a_reload_of_an_unchanged_file_changes_nothing_where_open_files_are_few(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamseg.daemon.file_limit", lambda: 120)
    site.write({"gate": 20})
    with site.running() as (_, client):
        assert msgspec.structs.replace(client.reload(), id=0) == Reloaded()


def test_a_reload_touches_only_what_has_changed(site: Site) -> None:
    site.write({"gate": 20, "yard": 10, "hall": 10})
    with (
        site.running() as (daemon, client),
        subscribe(daemon.endpoint, newest=False, queue=100_000) as masks,
    ):
        yard, gate = mask_of(masks, "yard"), mask_of(masks, "gate")
        connects = client.status().streams["gate"].connects
        more = '[log]\nlevel = "debug"\n[refinement]\nevery = 3\ncrf.threads = 2\n'
        site.write({"gate": 20, "yard": 5, "door": 10}, f"{more}[control]\nmax_connections = 7\n")
        text = site.path.read_text().replace("max_fps = 5\n", "max_fps = 5\ntimeout_s = 9\n")
        site.path.write_text(text)
        assert msgspec.structs.replace(client.reload(), id=0) == Reloaded(
            added=["door"],
            removed=["hall"],
            restarted=["yard"],
            applied=["refinement.every", "log.level"],
            needs_restart=["control.max_connections", "refinement.crf.threads"],
        )
        later = mask_of(masks, "yard", lambda mask: mask.epoch > yard.epoch)
        assert later.n > yard.n
        mask_of(masks, "door")
        mask_of(masks, "gate", lambda mask: mask.n > gate.n + 30)
        without_gap(masks)
        status = client.status()
        assert list(status.streams) == ["gate", "yard", "door"]
        assert status.streams["gate"].connects == connects
        assert status.log_level == "debug"
        again = client.reload()
        assert (again.added, again.removed, again.restarted, again.applied) == ([], [], [], [])
        assert again.needs_restart == ["control.max_connections", "refinement.crf.threads"]


def test_settings_that_are_looked_up_for_each_frame_need_no_new_connection(site: Site) -> None:
    with site.running() as (_, client):
        site.path.write_text(
            site.path.read_text().replace("max_fps = 20\n", "max_fps = 20\nmax_age_ms = 900\n")
        )
        done = client.reload()
        assert (done.applied, done.restarted) == (["streams.gate"], [])
        assert client.status().streams["gate"].max_age_ms == 900
        site.path.write_text(site.path.read_text().replace("max_fps = 20\n", "max_fps = 10\n"))
        done = client.reload()
        assert (done.applied, done.restarted) == (["streams.gate"], [])


RAMP = {"polygon": [[0.0, 0.5], [1.0, 0.5], [1.0, 1.0]]}
FLOOD = {"classes": ["red"], "zone": "ramp", "above": 0.5}


def test_zones_are_set_on_a_running_stream_and_outlive_the_daemon(site: Site) -> None:
    with site.running() as (daemon, client), subscribe(daemon.endpoint, newest=False, queue=10000) as masks:
        first = mask_of(masks, "gate")
        assert client.zones("gate").revision == ""
        assert client.status().zones == {}
        done = client.zones("gate", {"ramp": RAMP}, {"flood": FLOOD})
        assert (done.zones, done.events, done.kept) == ({"ramp": RAMP}, {"flood": FLOOD}, True)
        assert client.zones("gate").revision == done.revision == client.status().zones["gate"].revision
        assert client.zones("gate", events={}).zones == {"ramp": RAMP}  # what is not given stays
        client.zones("gate", events={"flood": FLOOD})
        again = mask_of(masks, "gate", lambda mask: mask.n > first.n + 10)
        assert again.epoch == first.epoch
        without_gap(masks)
        wrong = {"ramp": {"polygon": [[0, 0], [1, 0], [1, 7]]}}
        for what, code in (
            (lambda: client.zones("hall"), "unknown stream"),
            (lambda: client.zones("gate", wrong, {}), "bad settings"),
            (lambda: client.zones("gate", {}), "bad settings"),  # an event's zone would be gone
            (lambda: client.zones("gate", {"ramp": 3}), "bad settings"),
            (lambda: client.zones("gate", [1]), "malformed"),  # type: ignore[arg-type]
        ):
            with pytest.raises(ControlError) as caught:
                what()
            assert caught.value.code == code, caught.value
        assert client.zones("gate").revision == done.revision
    with site.running() as (_, client):
        kept = client.zones("gate")
        assert (kept.zones, kept.events, kept.kept) == ({"ramp": RAMP}, {"flood": FLOOD}, True)
        assert client.reload().applied == []
        site.write({"gate": 20, "yard": 10}, "[streams.gate.zones.own]\npolygon = [[0, 0], [1, 0], [1, 1]]\n")
        assert client.reload().applied == ["streams.gate"]
        own = client.zones("gate")
        assert (list(own.zones), own.kept) == (["own"], False)


def test_who_controls_from_elsewhere_may_draw_as_well(site: Site) -> None:
    with (
        site.running() as (daemon, _),
        ControlClient(daemon.private_endpoint, remote=True, timeout_s=LIMIT_S) as page,
    ):
        assert page.zones("gate", {"ramp": RAMP}, {}).zones == {"ramp": RAMP}


def test_the_largest_zones_fit_in_a_request(site: Site) -> None:
    round_ = [[0.123456789 + i / 1000, 0.987654321 - (i * i % 257) / 1000] for i in range(256)]
    with site.running() as (_, client):
        zones = {f"zone{i}": {"polygon": round_} for i in range(64)}
        assert len(client.zones("gate", zones, {}).zones) == 64
        with pytest.raises(ControlError, match="at most 64 zones"):
            client.zones("gate", zones | {"one-more": {"polygon": round_[:9]}}, {})


def test_the_command_sets_exports_and_lists_zones(site: Site, tmp_path: Path) -> None:
    (path := tmp_path / "zones.toml").write_text(
        "[zones.ramp]\npolygon = [[0, 0.5], [1, 0.5], [1, 1]]\n"
        '[events.flood]\nclasses = ["red"]\nzone = "ramp"\nabove = 0.5\n'
    )
    with site.running():
        assert "no zones and no events" in invoke("zones", "gate")
        assert "zone ramp: a polygon of 3 points" in invoke("zones", "gate", "--set", str(path))
        exported = invoke("zones", "gate", "--export")
        assert exported.startswith(
            "[streams.gate.zones.ramp]\npolygon = [[0.0, 0.5], [1.0, 0.5], [1.0, 1.0]]\n"
        )
        assert "gate: flood: red in ramp: at least 0.5" in invoke("events")
        invoke("zones", "gate", "--clear")
        assert "no events" in invoke("events", "gate")
        path.write_text(exported)
        assert "event flood" in invoke("zones", "gate", "--set", str(path))


def test_a_bad_file_is_refused_whole_and_what_runs_stays(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        site.running() as (daemon, client),
        subscribe(daemon.endpoint, newest=False, queue=100_000) as masks,
    ):
        first = mask_of(masks, "gate")
        before = client.status().streams
        site.write(
            {"gate": -1, "other": 5}, '[streams.srt]\nsource = "srt://user:geheim@x"\n[log]\nlevel = "loud"\n'
        )
        with pytest.raises(ControlError) as caught:
            client.reload()
        assert caught.value.code == "bad settings"
        assert [problem.split(":")[0] for problem in caught.value.problems] == [
            "streams.gate.max_fps",
            "log.level",
        ]
        site.write({"gate": 20}, '[streams.srt]\nsource = "srt://user:geheim@x"\n')
        with pytest.raises(ControlError, match=r"streams\.srt\.source: srt://user:\*\*\*@x: SRT is not in"):
            client.reload()
        site.path.unlink()
        with pytest.raises(ControlError, match=r"site\.toml: cannot be read"):
            client.reload()
        after = client.status().streams
        assert list(after) == list(before)
        assert [s.connects for s in after.values()] == [s.connects for s in before.values()]
        mask_of(masks, "gate", lambda mask: mask.n > first.n + 20)
        without_gap(masks)
    assert "reload refused: the previous configuration stays in force" in caplog.text
    assert "geheim" not in caplog.text


def test_garbage_and_refused_requests_cost_a_running_daemon_nothing(site: Site) -> None:
    rng = random.Random(3)
    good = [
        encode(one)
        for one in (
            AddStream(stream="prey", settings={"source": "/nowhere/x.mp4", "max_fps": 8}),
            RemoveStream(stream="prey"),
            PauseStream(stream="prey"),
            ResumeStream(stream="prey"),
            GetSnapshot(stream="prey"),
            GetStatus(),
        )
    ]
    with (
        site.running() as (daemon, client),
        subscribe(daemon.endpoint, ["gate", "yard"], newest=False, queue=100_000) as masks,
        zmq.Context() as context,
        context.socket(zmq.DEALER) as asker,
    ):
        first = mask_of(masks, "gate")
        asker.setsockopt(zmq.LINGER, 0)
        asker.connect(daemon.private_endpoint)
        for _ in range(300):
            request = bytearray(rng.choice(good))
            if rng.random() < 0.5:
                request[rng.randrange(len(request))] = rng.randrange(256)
            asker.send(request)
            assert asker.poll(LIMIT_S * 1000)
            asker.recv()
        for name in set(client.status().streams) - {"gate", "yard"}:
            client.remove(name)
        decoding = {"decode-gate", "decode-yard"}
        until(lambda: {t.name for t in threading.enumerate() if t.name.startswith("decode-")} == decoding)
        mask_of(masks, "gate", lambda mask: mask.n > first.n + 20)
        without_gap(masks)
        assert list(client.status().streams) == ["gate", "yard"]


def test_a_daemon_without_a_file_says_so(site: Site) -> None:
    with site.running(with_file=False) as (_, client):
        with pytest.raises(ControlError) as caught:
            client.reload()
        assert caught.value.code == "no file"


def test_fusion_can_be_switched_on_and_a_keyframe_forced(site: Site) -> None:
    # Also while others work: the first keyframe waits until the CRF's process has begun.
    patient = '[refinement]\npriority = "normal"\nmax_age_s = 60\ntimeout_s = 60\n'
    site.write({"gate": 20, "yard": 10}, patient)
    with (
        site.running() as (daemon, client),
        subscribe(daemon.endpoint, refined=True, snapshot=False) as masks,
    ):
        site.write({"gate": 20, "yard": 10}, f"{patient}level = 'live'\nevery = 1000000\n")
        assert client.reload().applied == ["refinement.level", "refinement.every"]
        first = mask_of(masks, "gate", lambda mask: mask.revision == 1)
        assert client.status().children["crf"] > 0

        def force(mask: Mask) -> bool:
            client.keyframe("gate")
            return mask.revision == 1 and mask.n > first.n

        assert mask_of(masks, "gate", force).refined_seq is not None


def test_statuses_come_once_a_second_to_those_who_subscribe(site: Site) -> None:
    site.write({"gate": 20}, '[streams.away]\nsource = "rtsp://user:geheim@127.0.0.1:1/x"\n')
    with site.running() as (daemon, _), subscribe(daemon.endpoint, ["gate"]) as others:
        mask_of(others, "gate")
        assert daemon.publisher is not None
        assert daemon.publisher.stats.statuses == 0
        with subscribe(daemon.endpoint, ["gate", "away"], statuses=True) as masks:
            begun_s = time.monotonic()
            first = masks.status("gate", LIMIT_S)
            assert first.state == "playing"
            until(lambda: masks.status("gate").published > first.published)
            until(lambda: masks.status("away").state == "reconnecting")
            away = masks.status("away")
            assert away.source == "rtsp://user:***@127.0.0.1:1/x"
            assert "connection refused" in away.error
            assert away.drops["disconnected"] > 0
            assert masks.stats.bad == 0
            took_s = time.monotonic() - begun_s
            assert daemon.publisher.stats.statuses <= 2 * (took_s + 2)
            with pytest.raises(TimeoutError, match="no status of nobody came"):
                masks.status("nobody", 0.01)


def test_a_snapshot_is_the_last_mask_with_its_classes(site: Site) -> None:
    with site.running() as (daemon, client), subscribe(daemon.endpoint) as masks:
        seen = mask_of(masks, "gate")
        mask, labels = client.snapshot("gate")
        assert (mask.run, mask.stream) == (seen.run, "gate")
        assert mask.n >= seen.n
        assert labels is not None
        assert labels.names == ("other", "red", "green", "blue")


def invoke(*arguments: str) -> str:
    """What the command says; an error is raised."""
    done = CliRunner().invoke(ctl, ["--timeout", str(LIMIT_S), *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_the_command_finds_the_only_daemon_and_does_what_it_says(site: Site, tmp_path: Path) -> None:
    with site.running() as (daemon, client), subscribe(daemon.endpoint) as masks:
        mask_of(masks, "gate")
        assert "gate" in invoke("status")
        assert '"state": "playing"' in invoke("status", "--json")
        assert "reconnects" in invoke("--config", str(site.path), "status")
        invoke("--name", daemon.name, "pause", "gate")
        assert client.status().streams["gate"].state == "paused"
        invoke("resume", "gate")
        invoke("add", "hall", "--source", str(site.clip), "--loop", "--max-fps", "4")
        assert client.status().streams["hall"].state in ("connecting", "playing")
        invoke("remove", "hall")
        invoke("log-level", "error")
        assert client.status().log_level == "error"
        assert "nothing has changed" in invoke("reload")
        out = tmp_path / "gate.png"
        said = invoke("snapshot", "gate", "--out", str(out))
        assert "red" in said
        assert "64x48" in said
        shown = cv2.imread(str(out))
        assert shown is not None
        assert shown.shape == (48, 64, 3)


def test_with_several_daemons_the_command_asks_which(site: Site, own_runtime: Path) -> None:
    with pytest.raises(UsageError, match="no daemon that this user may control runs on this machine"):
        one_running()
    with site.running() as (one, _), site.running() as (other, _):
        assert set(running()) == {one.name, other.name}
        with pytest.raises(
            UsageError, match=rf"2 daemons run on this machine; choose one: --name {one.name} or --name"
        ):
            one_running()
        assert one_running(other.name) == other.private_endpoint
        with pytest.raises(UsageError, match="no daemon of that name runs on this machine; running: "):
            one_running("nobody")
        folder = Path(one.private_endpoint.removeprefix("ipc://")).parent
        assert folder.stat().st_mode & 0o777 == 0o700
        assert folder.is_relative_to(own_runtime)
    assert list((own_runtime / "streamseg").iterdir()) == []


@pytest.mark.parametrize("spoil", ["too long", "open to others", "a file"])
@pytest.mark.parametrize("elsewhere", ["a folder", "no folder"])
def test_a_daemon_that_cannot_have_its_folder_is_found_elsewhere_and_says_where(
    site: Site,
    tmp_path: Path,
    own_runtime: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    spoil: str,
    elsewhere: str,
) -> None:
    shared = own_runtime / "tmp"
    shared.mkdir(mode=0o700) if elsewhere == "a folder" else shared.write_text("")
    monkeypatch.setenv("TMPDIR", str(shared))
    monkeypatch.setattr("streamseg.runtime.folders.SHARED", ())
    if spoil == "too long":
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(own_runtime / ("x" * 100)))
    elif spoil == "a file":
        (own_runtime / "streamseg").write_text("")
    else:
        (own_runtime / "streamseg").mkdir()
        (own_runtime / "streamseg").chmod(0o755)
    with site.running() as (daemon, client):
        assert client.status().state == "running"
        where = f"in {shared}/streamseg-" if elsewhere == "a folder" else "no file"
        assert where in next(line for line in caplog.messages if line.startswith("control: "))
        if spoil != "open to others":  # which is looked into as well, and is ours
            assert one_running(daemon.name) == daemon.private_endpoint


def test_while_a_change_waits_for_a_file_everything_else_is_answered(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import streamseg.daemon.operations as operations

    away, asked, load = threading.Event(), threading.Event(), operations.load_config

    def waits(path: Path) -> object:
        asked.set()
        away.wait(LIMIT_S)
        return load(path)

    monkeypatch.setattr(operations, "load_config", waits)
    with site.running() as (daemon, client), subscribe(daemon.endpoint, timeout_s=LIMIT_S) as masks:
        replies: list[object] = []

        def reload() -> None:
            with ControlClient(daemon.private_endpoint, timeout_s=LIMIT_S) as other:
                replies.append(other.reload())

        thread = threading.Thread(target=reload)
        thread.start()
        assert asked.wait(LIMIT_S)
        for _ in range(3):
            assert client.status().state == "running"
            assert masks.read().run
        client.snapshot("gate")
        assert not replies
        away.set()
        thread.join(LIMIT_S)
        assert len(replies) == 1


def test_whoever_may_subscribe_may_not_control(site: Site, tmp_path: Path) -> None:
    secret, public = make_keys(tmp_path / "site")
    reader, reader_public = make_keys(tmp_path / "reader")
    operator, operator_public = make_keys(tmp_path / "operator")
    (tmp_path / "readers").write_text(reader_public.read_text())
    (tmp_path / "operators").write_text(operator_public.read_text())
    site.write(
        {"gate": 20},
        f'[control]\nendpoint = "tcp://127.0.0.1:*"\ncurve_secret_key_file = "{secret}"\n'
        f'allowed_clients = "{tmp_path}/operators"\n',
    )
    text = site.path.read_text().replace(
        "queue = 10000",
        f'queue = 10000\ncurve_secret_key_file = "{secret}"\nallowed_clients = "{tmp_path}/readers"',
    )
    site.path.write_text(text)
    with site.running() as (daemon, local):
        assert daemon.control is not None
        endpoint = daemon.control.endpoint
        with ControlClient(
            endpoint, server_key=public, client_key_file=operator, timeout_s=LIMIT_S
        ) as client:
            assert client.status().streams["gate"].stream == "gate"
            with ControlClient(
                endpoint, server_key=public, client_key_file=reader, timeout_s=1.0
            ) as stranger:
                with pytest.raises(ControlError, match="the daemon does not know our key") as caught:
                    stranger.status()
                assert caught.value.code == "no answer"
            with (
                ControlClient(endpoint, timeout_s=0.5) as plain,
                pytest.raises(ControlError, match=r"no answer in|keys"),
            ):
                plain.status()
            assert local.status().control.denied > 0
            (tmp_path / "operators").write_text("")
            until(lambda: local.status().control.hung_up > 0)
