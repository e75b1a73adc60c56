"""The warning that streams are more than a machine holds: once, and only where they are."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import msgspec

from streamseg.config import StreamConfig
from streamseg.daemon.start_load import too_many
from streamseg.live.capacity import Room
from streamseg.runtime.counters import StreamStats

CAMERA = StreamConfig(source="rtsp://10.0.0.7/h264", max_fps=8)
STAGE_US = {"decode": 2000, "preprocess": 1000, "fuse": 500}


def _line(count: int, config: StreamConfig = CAMERA, dropped: int = 3, network_ms: float = 20.0) -> str:
    def playing() -> StreamStats:
        stats = StreamStats(state="playing", source_fps=25.0, drops=Counter({"slow engine": dropped}))
        for _ in range(8):
            stats.record(STAGE_US)
        return stats

    return too_many(
        {f"cam{i}": config for i in range(count)},
        {f"cam{i}": playing() for i in range(count)},
        lambda engine: (network_ms, Room(cores=2, replicas=2)),
        Path("/etc/streamseg/site.toml"),
    )


def test_it_says_how_many_are_held_and_what_fits() -> None:
    # 25 · 2 + 8 · (1 + 20 + 0.5) = 222 ms of CPU each second of a stream; 1600 there are
    assert _line(16) == (
        "streams: 16 at 8 masks/s are more than this machine holds, about 7 (the network, 72% of the CPU "
        "time); max_fps = 2.3 fits, and for what else helps: streamseg capacity site.toml"
    )


def test_one_stream_that_is_too_much_is_said_so() -> None:
    assert _line(1, network_ms=500.0).startswith(
        "streams: 1 at 8 masks/s is more than this machine holds, not one in full (the network, "
    )


def test_streams_that_fit_are_no_news() -> None:
    assert _line(7) == ""


def test_where_nothing_was_dropped_there_is_no_line() -> None:
    assert _line(16, dropped=0) == ""


def test_files_that_wait_for_the_network_are_not_counted() -> None:
    assert _line(16, StreamConfig(source="demo:")) == ""


def test_of_streams_with_a_gate_nothing_is_taken_to_move() -> None:
    assert _line(16, msgspec.structs.replace(CAMERA, gate="motion")) == ""


def test_an_engine_that_is_still_exchanged_is_waited_for() -> None:
    assert too_many({"a": CAMERA}, {"a": StreamStats(state="playing")}, lambda engine: None) == ""
