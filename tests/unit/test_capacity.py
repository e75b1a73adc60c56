"""How many streams are held, by arithmetic on given stage times."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from streamseg.live.capacity import USABLE, Room, StreamCost, fitting_fps, held, load_of

# 8 masks a second of 25 pictures: 25 · 4 + 8 · (2 + 20 + 2 + 1) = 300 ms of CPU each second.
CAMERA = StreamCost(
    source_fps=25, masks_fps=8, decode_ms=4, scale_ms=2, network_ms=20, labels_ms=2, pack_ms=1, memory_mb=30
)
TWO_CORES = Room(cores=2, replicas=2)


def test_the_cpu_time_of_all_stages_at_their_rates_is_what_is_counted() -> None:
    assert sum(CAMERA.cpu_ms().values()) == pytest.approx(300)
    assert held([(CAMERA, 1)], TWO_CORES) == pytest.approx(2000 * USABLE / 300)
    assert load_of([(CAMERA, 4)], TWO_CORES).cpu == pytest.approx(4 * 300 / (2000 * USABLE))


def test_the_stage_that_takes_most_of_the_cpu_is_named() -> None:
    assert load_of([(CAMERA, 1)], TWO_CORES).limit == "the network, 53% of the CPU time"
    decoder = replace(CAMERA, decode_ms=12.0)
    assert load_of([(decoder, 1)], TWO_CORES).limit == "decoding, 60% of the CPU time"


def test_one_engine_of_one_thread_limits_before_the_cores_do() -> None:
    load = load_of([(CAMERA, 1)], Room(cores=16, replicas=1, threads=1))
    assert load.most == load.thread_share == pytest.approx(8 * (2 + 20) / 1000)
    assert load.limit == "scaling and the network, which one thread does for all streams"
    assert held([(CAMERA, 1)], Room(cores=16, replicas=1)) == pytest.approx(1000 / 176)


def test_a_device_is_busy_for_the_time_that_a_call_takes() -> None:
    on_device = replace(CAMERA, network_ms=0.1, network_wall_ms=50.0)
    assert load_of([(on_device, 1)], TWO_CORES).thread_share == pytest.approx(8 * 52 / 2000)


def test_memory_limits_where_there_is_little() -> None:
    load = load_of([(CAMERA, 10)], Room(cores=64, replicas=64, memory_mb=200))
    assert load.limit == "memory"
    assert held([(CAMERA, 10)], Room(cores=64, replicas=64, memory_mb=200)) == pytest.approx(200 / 30)


def test_streams_of_two_kinds_are_held_in_their_proportions() -> None:
    small = replace(CAMERA, decode_ms=0.0)  # 200 ms
    assert held([(CAMERA, 2), (small, 2)], TWO_CORES) == pytest.approx(4 * 2000 * USABLE / 1000)


def test_a_stream_that_one_thread_cannot_decode_is_not_held_at_all() -> None:
    heavy = replace(CAMERA, decode_ms=41.0)
    assert held([(heavy, 1)], Room(cores=64, replicas=64)) == 0


def test_looking_whether_anything_moves_is_done_by_each_streams_own_thread() -> None:
    gated = replace(CAMERA, gate_ms=30.0, network_share=0.1)
    load = load_of([(gated, 1)], Room(cores=16, replicas=1))
    assert load.thread_share == pytest.approx(0.1 * 8 * (2 + 20) / 1000)
    assert sum(gated.cpu_ms().values()) == pytest.approx(25 * 4 + 8 * 30 + 0.1 * 8 * 25)
    assert (
        held([(replace(gated, gate_ms=113.0), 1)], Room(cores=64, replicas=64)) == 0
    )  # 100 + 904 ms a second


def test_the_rate_at_which_all_fit_is_found() -> None:
    fps = fitting_fps([(CAMERA, 8)], TWO_CORES)  # 8 · (100 + 25 · fps) = 1600
    assert fps == pytest.approx(4.0, abs=0.1)
    assert fitting_fps([(CAMERA, 3)], TWO_CORES) == 8
    assert fitting_fps([(CAMERA, 30)], TWO_CORES) is None  # decoding alone is too much
