"""The arithmetic behind docs/scaling.md: repeatable, and bounded by what stage times say."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from streamseg.bench.capacity import CapacityResult, Group
from streamseg.bench.stages import StageTimes
from streamseg.bench.summary import Machine
from streamseg.live.capacity import Room, held, load_of

TOOL = Path(__file__).resolve().parents[2] / "tools" / "scaling.py"
TIMES = StageTimes(
    decode=4, scale=1, network=16, labels=1, pack=1, network_wall=16, labels_input=1, pack_input=1, gate=0.1
)
GROUP = Group(
    streams=["gate"],
    count=1,
    codec="h264",
    size=(1080, 1920),
    source_fps=25,
    masks_fps=8,
    mask_size="frame",
    engine="camvid-slim/int8/openvino",
    times=TIMES,
    network_share=1.0,
    alone=7,
)
TWO = Room(cores=2, replicas=2)


@pytest.fixture(scope="module")
def tool() -> dict[str, Any]:
    return runpy.run_path(str(TOOL))


def _result(tool: dict[str, Any]) -> CapacityResult:
    return CapacityResult(
        streams=1,
        held=7,
        limit="",
        load=load_of([(tool["cost_of"](GROUP), 1)], TWO),
        groups=[GROUP],
        helps=[],
        unreachable={},
        cores=2,
        beside="",
        took_s=3,
        machine=Machine(processor="", cores=2, python="", versions={}),
    )


def test_it_gives_the_same_numbers_every_time(tool: dict[str, Any]) -> None:
    once, again = (tool["sites"](_result(tool), 1000) for _ in range(2))
    assert once == again


def test_a_box_holds_what_capacity_says(tool: dict[str, Any]) -> None:
    small, large = tool["sites"](_result(tool), 1000)
    assert (small.cores, large.cores) == (2, 16)
    assert small.cameras == int(held([(tool["cost_of"](GROUP), 1)], TWO))
    assert large.cameras == pytest.approx(8 * small.cameras, abs=8)


def test_masks_of_a_box_that_is_full_are_older_than_of_one_that_is_not(tool: dict[str, Any]) -> None:
    cost = tool["cost_of"](GROUP)
    few, most = (tool["age_p95_ms"](cost, TWO, count) for count in (1, 7))
    assert TIMES.network < few < most <= 250
    slower = replace(cost, network_ms=4 * cost.network_ms)
    assert tool["age_p95_ms"](slower, TWO, 7) > most


def test_a_site_needs_whole_boxes(tool: dict[str, Any]) -> None:
    for site in tool["sites"](_result(tool), 1000):
        each = int(tool["FILLED"] * site.cameras)
        assert site.boxes * each >= 1000 > (site.boxes - 1) * each
