"""The simulation behind docs/scaling.md: repeatable, and bounded by what arithmetic says."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools" / "scaling.py"


@pytest.fixture(scope="module")
def tool() -> dict[str, Any]:
    return runpy.run_path(str(TOOL))


def test_it_gives_the_same_numbers_every_time(tool: dict[str, Any]) -> None:
    once, again = (tool["simulate"](tool["CPU_BOX"], tool["Camera"](), 12) for _ in range(2))
    assert once == again


def test_a_box_holds_no_more_than_its_engine_has_time_for(tool: dict[str, Any]) -> None:
    box, camera = tool["CPU_BOX"], tool["Camera"]()
    outcome = tool["most_held"](box, camera)
    room = 1000 / box.infer_ms / camera.fps / tool["HELD_SHARE"]
    assert 0.8 * room < outcome.held <= room
    assert outcome.age_p95_ms <= camera.max_age_ms


def test_few_cameras_are_served_in_full_and_too_many_evenly(tool: dict[str, Any]) -> None:
    box, camera = tool["CPU_BOX"], tool["Camera"]()
    assert tool["simulate"](box, camera, 4).served_share == 1.0
    crowded = tool["simulate"](box, camera, 40)
    assert crowded.held == 0
    assert crowded.engine_busy > 0.95


def test_a_site_needs_whole_boxes(tool: dict[str, Any]) -> None:
    site = tool["site"](tool["CPU_BOX"], tool["Camera"](), 1000, 10)
    assert site["boxes"] * site["cameras_a_box"] >= 1000 > (site["boxes"] - 1) * site["cameras_a_box"]
