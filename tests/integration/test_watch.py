"""streamseg watch and run --watch in a real terminal, as a person sees them."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamseg.config import PublishConfig
from streamseg.net.curve_keys import make_keys
from streamseg.publish import Publisher
from streamseg.types import ClassInfo, LabelSet
from tests.integration.children import ROOT
from tests.integration.daemons import environment, run_daemon
from tests.integration.terminal import Terminal
from tests.masks import STREET, make_mask
from tests.media import draw_clip
from tests.ports import free_port
from tests.waiting import LIMIT_S

STREAMSEG = [sys.executable, "-m", "streamseg"]
ALTERNATE_OFF = b"\x1b[?1049l"
CURSOR_ON = b"\x1b[?25h"


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    with Publisher(PublishConfig(endpoint="tcp://127.0.0.1:*", queue=100), [STREET]) as publisher:
        yield publisher


def put(publisher: Publisher, streams: int) -> None:
    for i in range(streams):
        publisher.put(make_mask(7, stream=f"cam{i:02}"))


def watch(publisher: Publisher, *words: str, **options: object) -> Terminal:
    return Terminal([*STREAMSEG, "watch", publisher.endpoint, *words], **options)  # type: ignore[arg-type]


def test_a_stream_is_shown_with_its_classes_and_a_thumbnail_in_their_colours(publisher: Publisher) -> None:
    with watch(publisher, columns=100, rows=30) as terminal:
        terminal.wait(lambda text: "no mask yet" in text)
        put(publisher, 1)
        text = terminal.wait(lambda text: "road" in text and "▀" in text)
        assert "connected" in text
        assert "cam00" in text
        wanted = {bytes(c.colour).hex() for c in STREET.classes}
        assert wanted <= terminal.colours()
        terminal.wait(lambda text: "silent" in text)
        publisher.put(make_mask(8, stream="cam00"))
        terminal.wait(lambda text: "silent" not in text)


def test_zones_and_open_events_are_shown_below_the_streams(tiny_engine: Path, tmp_path: Path) -> None:
    clip = draw_clip(tmp_path / "red.mp4", frames=40)
    config = tmp_path / "site.toml"
    config.write_text(
        f'[streams.gate]\nsource = "{clip}"\nrealtime = true\nloop = true\n'
        "[streams.gate.zones.ramp]\npolygon = [[0, 0], [1, 0], [1, 1], [0, 1]]\n"
        '[streams.gate.events.flood]\nclasses = ["red", "other"]\nzone = "ramp"\nabove = 0.9\n'
        f'[engine]\nname = "{tiny_engine}"\n[publish]\nendpoint = "tcp://127.0.0.1:{(port := free_port())}"\n'
    )
    endpoint = f"tcp://127.0.0.1:{port}"
    with (
        run_daemon(config) as daemon,
        Terminal([*STREAMSEG, "watch", endpoint], columns=100, rows=30) as terminal,
    ):
        daemon.wait("publishing on")
        text = terminal.wait(lambda text: "event flood" in text and "zone ramp" in text and "▀" in text)
        assert "red+other in ramp since" in text
        assert "zone ramp: " in text
        for what, wanted in (("--zones", '"zone":"ramp"'), ("--events", '"event":"flood"')):
            words = [*STREAMSEG, "subscribe", endpoint, what, "--count", "1"]
            printed = subprocess.run(
                words,
                capture_output=True,
                text=True,
                env=environment(),
                cwd=ROOT,
                timeout=LIMIT_S,
                check=True,
            )
            assert wanted in printed.stdout
            assert printed.stdout.count("\n") == 1


@pytest.mark.parametrize("how", ["q", "Ctrl-C", "TERM", "HUP"])
def test_it_ends_cleanly_and_leaves_the_terminal_as_it_was(publisher: Publisher, how: str) -> None:
    put(publisher, 1)
    with watch(publisher) as terminal:
        before = terminal.settings_before
        terminal.wait(lambda text: "▀" in text)
        assert terminal.settings != before  # keys come without Enter
        if how in ("q", "Ctrl-C"):
            terminal.type("q" if how == "q" else "\x03")
        else:
            terminal.process.send_signal(getattr(signal, f"SIG{how}"))
        assert terminal.end() == 0
        assert terminal.settings == before
        assert ALTERNATE_OFF in terminal.raw
        assert CURSOR_ON in terminal.raw


def test_a_narrow_terminal_gets_whole_lines_and_a_smaller_thumbnail(publisher: Publisher) -> None:
    put(publisher, 1)
    with watch(publisher, columns=38, rows=12) as terminal:
        text = terminal.wait(lambda text: "▀" in text)
        assert "frame" not in text
        assert (
            sum("cam00" in line for line in terminal.screen.display) == 2
        )  # the table, the thumbnail's name
        assert max(line.count("▀") for line in terminal.screen.display) <= 36


def test_many_streams_get_small_thumbnails_and_too_many_are_said(publisher: Publisher) -> None:
    put(publisher, 12)
    with watch(publisher, columns=120, rows=45) as terminal:
        terminal.wait(lambda text: text.count("cam") == 24)
    put(publisher, 60)
    with watch(publisher, columns=80, rows=24) as terminal:
        terminal.wait(lambda text: "and 39 more; choose some with --stream" in text and "cam20" in text)
        assert terminal.screen.display[0].startswith(publisher.endpoint)


def test_without_colours_there_are_letters_and_with_256_the_nearest(publisher: Publisher) -> None:
    put(publisher, 1)
    with watch(publisher, NO_COLOR="1") as terminal:
        assert "▀" not in terminal.wait(lambda text: "a=road" in text and "aaaa" in text)
    with watch(publisher, COLORTERM="") as terminal:
        terminal.wait(lambda text: "▀" in text)
        assert b"38;5;" in terminal.raw
        assert b"38;2;" not in terminal.raw


def test_a_daemon_that_is_away_is_said_and_waited_for() -> None:
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    with Terminal([*STREAMSEG, "watch", endpoint]) as terminal:
        terminal.wait(lambda text: "waiting for the daemon" in text)
        with Publisher(PublishConfig(endpoint=endpoint), [STREET]) as publisher:
            put(publisher, 1)
            terminal.wait(lambda text: "▀" in text)
        terminal.wait(lambda text: "waiting for the daemon" in text and "silent" in text)


def test_what_is_logged_is_shown_below_and_stays_after_the_end(tmp_path: Path) -> None:
    secret, public = make_keys(tmp_path / "site")
    ours, _ = make_keys(tmp_path / "laptop")
    (tmp_path / "clients").mkdir()
    config = PublishConfig(
        endpoint="tcp://127.0.0.1:*",
        curve_secret_key_file=str(secret),
        allowed_clients=str(tmp_path / "clients"),
    )
    with Publisher(config, [STREET]) as publisher:
        keys = ("--server-key", str(public), "--client-key", str(ours))
        with watch(publisher, *keys, columns=150) as terminal:
            terminal.wait(lambda text: "does not know our key; its operator must allow" in text)
            terminal.type("q")
            assert terminal.end() == 0
            assert "does not know our key" in terminal.text
        (tmp_path / "clients/laptop.pub").write_text((tmp_path / "laptop.pub").read_text())
        put(publisher, 1)
        with watch(publisher, *keys) as terminal:
            terminal.wait(lambda text: "▀" in text)


@pytest.mark.parametrize("secured", [False, True], ids=["open", "keys"])
def test_run_with_watch_shows_its_own_masks_and_q_ends_both(
    secured: bool, tiny_engine: Path, tmp_path: Path
) -> None:
    clip = draw_clip(tmp_path / "red.mp4", frames=30)
    secret, _ = make_keys(tmp_path / "site")
    (tmp_path / "clients").mkdir()
    keys = f'curve_secret_key_file = "{secret}"\nallowed_clients = "{tmp_path}/clients"'
    endpoint = f"tcp://{'*' if secured else '127.0.0.1'}:{free_port()}"
    config = tmp_path / "site.toml"
    config.write_text(
        f'[streams.gate]\nsource = "{clip}"\nrealtime = true\nloop = true\n'
        f'[engine]\nname = "{tiny_engine}"\n[publish]\nendpoint = "{endpoint}"\n{keys if secured else ""}\n'
    )
    with Terminal([*STREAMSEG, "run", str(config), "--watch"], columns=100) as terminal:
        terminal.wait(lambda text: "red" in text and "▀" in text)
        terminal.type("q")
        assert terminal.end() == 0
        assert terminal.settings == terminal.settings_before
        assert "gate: " in terminal.text  # the log that was kept off the screen


@pytest.mark.parametrize("columns", [100, 20], ids=["drawn", "lines"])
def test_names_of_classes_and_engines_give_the_terminal_no_commands(columns: int) -> None:
    evil = "\x1b]0;taken\x07\x1b[2J\x9b2J\nERROR forged"
    classes = tuple(ClassInfo(one.name + evil, one.colour) for one in STREET.classes)
    with Publisher(PublishConfig(endpoint="tcp://127.0.0.1:*"), [LabelSet("street3", classes)]) as publisher:
        publisher.put(make_mask(7, engine=evil))
        with watch(publisher, columns=columns, rows=12) as terminal:
            terminal.wait(lambda text: "u001b]0;taken" in text.replace("\n", ""))
            assert b"\x1b]0;" not in terminal.raw
            assert b"\nERROR" not in terminal.raw


@pytest.mark.parametrize("env", [{"TERM": "dumb"}, {"TERM": ""}, {"LC_ALL": "C"}], ids=str)
def test_a_terminal_that_cannot_be_drawn_on_gets_lines(publisher: Publisher, env: dict[str, str]) -> None:
    put(publisher, 1)
    with watch(publisher, **env) as terminal:
        terminal.wait(lambda text: text.count("cam00: frame 7, ") > 1)
        assert b"\x1b" not in terminal.raw
        assert terminal.raw.isascii()


def test_elsewhere_it_prints_a_line_a_second_for_each_stream(publisher: Publisher) -> None:
    put(publisher, 2)
    with subprocess.Popen(
        [*STREAMSEG, "watch", publisher.endpoint],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment(),
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(4)]
        process.send_signal(signal.SIGINT)
        assert process.wait(LIMIT_S) == 0
    assert lines[0].startswith("cam00: frame 7, ")
    assert "road" in lines[0]
    assert lines[1].startswith("cam01: frame 7, ")


def test_in_the_background_it_leaves_the_terminals_settings_alone(publisher: Publisher) -> None:
    """A job started with & must not be stopped for touching the terminal."""
    put(publisher, 1)
    here = " ".join([*STREAMSEG, "watch", publisher.endpoint])
    shell = ["bash", "--norc", "-ic", f"{here} & read; kill %1; wait %1; echo ended $?"]
    with Terminal(shell) as terminal:
        terminal.wait(lambda text: "cam00" in text)
        terminal.type("\n")
        terminal.wait(lambda text: "ended 0" in text)
