"""docs/zones.md from nothing to an event on a broker, as a new user follows it: its commands, its clicks."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.brokers import Broker
from tests.integration.children import ROOT
from tests.integration.console import Tile, browser, page
from tests.integration.daemons import Lines
from tests.ports import free_port
from tests.waiting import until

__all__ = ["browser", "page"]

LEFT = [(0.02, 0.4), (0.35, 0.4), (0.35, 0.9), (0.02, 0.9)]


def commands(publish: int, web: int, broker: int) -> list[list[str]]:
    """The page's first three commands, at ports of our own."""
    steps = (ROOT / "docs" / "zones.md").read_text().partition("## Drawing")[0]
    run, forward, listen = (
        shlex.split(block) for block in re.findall(r"```sh\n\s*(.*?)\s*```", steps, re.DOTALL)
    )
    assert run[0] == forward[0] == "streamseg"
    run = [*run[1:-1], "--web", f"127.0.0.1:{web}", "--endpoint", f"tcp://127.0.0.1:{publish}"]
    forward = [word.replace(":1883", f":{broker}") for word in forward[1:]]
    forward.insert(1, f"tcp://127.0.0.1:{publish}")
    python = [sys.executable, "-m", "streamseg"]
    return [[*python, *run], [*python, *forward], [*listen, "-p", str(broker)]]


@pytest.mark.slow
def test_a_zone_drawn_in_the_browser_gives_an_event_in_mosquitto_sub_within_five_minutes(
    page: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("mosquitto_sub") is None:
        pytest.skip("no mosquitto_sub here: apt-get install mosquitto-clients")
    for name in ("HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR"):
        folder = tmp_path / name.lower()
        folder.mkdir(mode=0o700)
        monkeypatch.setenv(name, str(folder))
    web, publish = free_port(), free_port()
    begin_s = time.monotonic()
    with Broker(tmp_path) as broker:
        run, forward, listen = commands(publish, web, broker.port)
        with Lines(run, errors=True) as daemon:
            daemon.wait("the console is at")
            page.goto(f"http://127.0.0.1:{web}/")
            tile = Tile(page, "video")
            tile.wait_drawn(1)
            draw_and_save(page, tile)
            with Lines(forward, errors=True), Lines(listen) as heard:

                def begun() -> list[str]:
                    found = [
                        line for line in heard.lines if line.startswith("streamseg/video/event/traffic {")
                    ]
                    return [line for line in found if '"state":"begin"' in line]

                until(begun, lambda: heard.lines[-20:])
                said = json.loads(begun()[0].partition(" ")[2])
    took_s = time.monotonic() - begin_s
    assert (said["zone"], said["classes"]) == ("street", ["car"])
    assert said["value"] >= 0.15
    assert took_s < 300, "the five minutes that the page promises"


def draw_and_save(page: Any, tile: Tile) -> None:
    """Steps 2 and 3, by the words of the page's buttons."""
    tile.here.get_by_role("button", name="Zones and events").click()
    panel = tile.here.locator(".zones-panel")
    panel.get_by_text("Draw a zone").click()
    tile.here.locator(".stage").scroll_into_view_if_needed()
    box = tile.here.locator(".stage canvas").bounding_box()
    for u, v in [*LEFT, LEFT[0]]:
        page.mouse.click(box["x"] + u * box["width"], box["y"] + v * box["height"])
    name = panel.locator('[name="zone-name"]')
    name.fill("street")
    name.press("Enter")
    panel.get_by_text("Add event").click()
    form = panel.locator(".event-form")
    form.locator('[name="event"]').fill("traffic")
    form.locator('[name="event"]').press("Enter")
    form.locator('[name="class"][value="car"]').check()
    form.locator('[name="class"][value="sky"]').uncheck()
    form.locator('[name="above"]').fill("15")
    form.locator('[name="above"]').press("Enter")
    panel.get_by_role("button", name="Save", exact=True).click()
    state = panel.locator(".zones-state")
    until(lambda: str(state.text_content()).startswith("Saved"), lambda: panel.text_content())
