"""Live streams are added and removed from any thread, and each frame refers to its stream's settings."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import msgspec
import numpy as np
import pytest

from streamseg.config import StreamConfig
from streamseg.live import streams as streams_module
from streamseg.live.streams import Streams
from streamseg.runtime.counters import Stats
from streamseg.types import Frame, FrameSettings, Stamp
from tests.waiting import LIMIT_S, until

CONFIG = StreamConfig(source="rtsp://127.0.0.1:9/none")


def endless_frames(
    config: StreamConfig,
    stream: str,
    stop: threading.Event,
    on_event: Any,
    first_epoch: int,
    settings: Callable[[], FrameSettings],
    current: Callable[[], StreamConfig],
    streams: Callable[[], int],
    needed: Any,
) -> Iterator[Frame]:
    """Each frame is of a new epoch, as if the camera reconnected after each."""
    epoch = first_epoch
    while not stop.is_set():
        stamp = Stamp(stream, epoch, 0, None, Fraction(1, 25), 0, "arrival")
        yield Frame(stamp, np.zeros((2, 2, 3), np.uint8), 0, 0, settings())
        epoch += 1


@pytest.fixture
def playing(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Streams, dict[str, Frame]]]:
    """Streams of fake sources, and the last frame of each."""
    monkeypatch.setattr(streams_module, "frames", endless_frames)
    newest: dict[str, Frame] = {}
    streams = Streams(Stats(), lambda frame: newest.update({frame.stream: frame}), lambda: None)
    yield streams, newest
    streams.stop()
    assert streams.join(time.monotonic() + LIMIT_S)


def test_the_next_epoch_is_written_under_the_lock(playing: tuple[Streams, dict[str, Frame]]) -> None:
    streams, newest = playing
    unguarded: list[str] = []

    class Checked(OrderedDict[str, int]):
        def __setitem__(self, name: str, epoch: int) -> None:
            if not streams._lock.locked():
                unguarded.append(name)
            super().__setitem__(name, epoch)

    streams._next_epoch = Checked()
    streams.add({"gate": CONFIG})
    until(lambda: "gate" in newest and newest["gate"].epoch > 20)
    assert unguarded == []


def test_removing_streams_while_others_begin_loses_no_epoch_and_fails_none(
    playing: tuple[Streams, dict[str, Frame]], monkeypatch: pytest.MonkeyPatch
) -> None:
    streams, newest = playing
    monkeypatch.setattr(streams_module, "MAX_EPOCHS", 0)
    streams.add({"gate": CONFIG})
    for i in range(50):
        streams.add({f"passing{i}": CONFIG})
        streams.remove(f"passing{i}")
    assert streams.failures == {}
    assert list(streams.states()) == ["gate"]
    epoch = newest["gate"].epoch
    streams.change("gate", msgspec.structs.replace(CONFIG, timeout_s=9.0))  # reopens it
    until(lambda: newest["gate"].epoch > epoch)


def test_frames_refer_to_their_streams_settings_and_a_change_makes_others(
    playing: tuple[Streams, dict[str, Frame]],
) -> None:
    streams, newest = playing
    streams.add({"gate": CONFIG})
    before = until(lambda: newest.get("gate")).settings
    assert (before.live, before.max_age_ms, before.mask_size) == (True, None, "frame")
    assert until(lambda: newest["gate"] if newest["gate"].seq >= 0 else None).settings is before
    assert not streams.change(
        "gate", msgspec.structs.replace(CONFIG, max_age_ms=80.0, mask_size="input")
    )  # live settings: the source stays open
    after = until(lambda: newest["gate"].settings if newest["gate"].settings is not before else None)
    assert (after.max_age_ms, after.mask_size) == (80.0, "input")
    assert (before.max_age_ms, before.mask_size) == (None, "frame")


def test_frames_of_a_removed_stream_say_so_even_when_the_name_comes_again(
    playing: tuple[Streams, dict[str, Frame]],
) -> None:
    streams, newest = playing
    streams.add({"gate": CONFIG})
    old = until(lambda: newest.get("gate"))
    streams.change("gate", msgspec.structs.replace(CONFIG, max_age_ms=80.0))
    streams.remove("gate")
    assert old.settings.removed.is_set()
    streams.add({"gate": CONFIG})
    new = until(lambda: newest["gate"] if not newest["gate"].settings.removed.is_set() else None)
    assert new.epoch > old.epoch
    assert old.settings.removed.is_set()


def test_an_address_that_cannot_work_fails_its_own_stream_only() -> None:
    delivered = threading.Event()
    streams = Streams(Stats(), lambda frame: delivered.set(), lambda: None)
    streams.add(
        {
            "old": StreamConfig(source="gopher://host/video"),
            "gate": StreamConfig(source="demo:", realtime=True, loop=True),
        }
    )
    assert delivered.wait(LIMIT_S)
    until(lambda: "old" in streams.failures)
    assert streams.states()["gate"] == "playing"
    streams.stop()
    assert streams.join(time.monotonic() + LIMIT_S)
