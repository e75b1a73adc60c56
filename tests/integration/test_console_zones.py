"""Zones and events in the console: drawn with a real mouse, fingers and keys, saved, there after a reload.

Most are marked slow: each opens a page, waits for masks and moves a mouse as a person does.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from streamseg.wire.control import Zones
from tests.integration.console import Running, Tile, browser, live, page, running
from tests.integration.test_console import nothing_serious
from tests.media import picture, write_video
from tests.waiting import until

__all__ = ["browser", "page"]

SQUARE = [[0.2, 0.2], [0.6, 0.2], [0.6, 0.7], [0.2, 0.7]]


@pytest.fixture(scope="module")
def site(tiny_engine: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """video0 and video1: red on the left half, grey on the right."""
    path = tmp_path_factory.mktemp("clips") / "still.mp4"
    write_video(path, [picture((48, 64), 0.5)] * 25)
    with running(*live(tiny_engine, path, path)) as daemon:
        yield daemon


@pytest.fixture(autouse=True)
def _no_zones(site: Running) -> None:
    for stream in ("video0", "video1"):
        zones_of(site, stream, {}, {})


def zones_of(site: Running, stream: str, *tables: dict[str, Any]) -> Zones:
    with site.control() as control:
        return control.zones(stream, *tables)


class Panel:
    """The zones of a tile, opened, and its picture in the page's coordinates."""

    def __init__(self, page: Any, stream: str = "video0") -> None:
        self.page = page
        self.tile = Tile(page, stream)
        self.tile.wait_drawn(2)
        self.here = self.tile.here.locator(".zones-panel")
        self.svg = self.tile.here.locator("svg.zones")
        self.tile.button("zones").click()
        self.here.wait_for()
        until(lambda: self.state, "what the daemon has")

    @property
    def state(self) -> str:
        return str(self.here.locator(".zones-state").text_content())

    @property
    def problems(self) -> str:
        return str(self.here.locator(".problems").text_content())

    @property
    def names(self) -> list[str]:
        return [one.get_attribute("data-zone") for one in self.svg.locator(".zone").all()]

    def tool(self, what: str) -> Any:
        return self.here.locator(f'[data-tool="{what}"]')

    def at(self, point: list[float]) -> tuple[float, float]:
        """Where a point of the picture is; the picture is centred in the canvas, as large as it fits."""
        self.tile.here.locator(".stage").scroll_into_view_if_needed()
        box = self.tile.here.locator(".stage canvas").bounding_box()
        scale = min(box["width"] / 64, box["height"] / 48)
        wide, high = 64 * scale, 48 * scale
        left, top = box["x"] + (box["width"] - wide) / 2, box["y"] + (box["height"] - high) / 2
        return left + point[0] * wide, top + point[1] * high

    def click(self, point: list[float]) -> None:
        self.page.mouse.click(*self.at(point))

    def drag(self, start: list[float], end: list[float]) -> None:
        self.page.mouse.move(*self.at(start))
        self.page.mouse.down()
        self.page.mouse.move(*self.at(end), steps=4)
        self.page.mouse.up()

    def draw(self, points: list[list[float]]) -> None:
        """A zone, closed by a click on its first point."""
        self.tool("polygon").click()
        for point in [*points, points[0]]:
            self.click(point)

    def rename(self, name: str) -> None:
        field = self.here.locator('[name="zone-name"]')
        field.fill(name)
        field.press("Enter")

    def save(self) -> None:
        self.tool("save").click()
        until(
            lambda: self.state.startswith(("Saved", "No zones", "As in")), lambda: self.problems or self.state
        )


def opened(page: Any, site: Running, stream: str = "video0") -> Panel:
    page.goto(site.url)
    return Panel(page, stream)


def near(found: list[list[float]], wanted: list[list[float]]) -> bool:
    """Whether points are the same, but for the pixel that a mouse can hit."""
    return len(found) == len(wanted) and all(
        abs(a - b) < 0.01
        for one, other in zip(found, wanted, strict=True)
        for a, b in zip(one, other, strict=True)
    )


def test_a_zone_drawn_with_the_mouse_is_saved_and_there_after_a_reload(page: Any, site: Running) -> None:
    panel = opened(page, site)
    panel.draw(SQUARE)
    assert panel.names == ["zone1"]
    assert panel.state == "Not saved yet."
    panel.rename("ramp")
    panel.save()
    assert "not in the configuration" in panel.state
    saved = zones_of(site, "video0")
    assert near(saved.zones["ramp"]["polygon"], SQUARE)
    assert saved.kept
    page.reload()
    panel = Panel(page)
    assert panel.names == ["ramp"]
    assert zones_of(site, "video1").zones == {}


@pytest.mark.slow
def test_points_are_dragged_put_in_between_and_removed_and_each_step_can_be_undone(
    page: Any, site: Running
) -> None:
    panel = opened(page, site)
    panel.draw(SQUARE)
    panel.drag([0.6, 0.7], [0.8, 0.9])
    panel.drag([0.2, 0.45], [0.1, 0.5])  # the middle of the left side becomes a point
    panel.save()
    wanted = [*SQUARE[:2], [0.8, 0.9], [0.2, 0.7], [0.1, 0.5]]
    assert near(zones_of(site, "video0").zones["zone1"]["polygon"], wanted)
    panel.click([0.1, 0.5])
    panel.tool("point").click()
    panel.drag([0.4, 0.5], [0.45, 0.5])  # the whole zone
    panel.save()
    moved = [[0.25, 0.2], [0.65, 0.2], [0.85, 0.9], [0.25, 0.7]]
    assert near(zones_of(site, "video0").zones["zone1"]["polygon"], moved)
    panel.drag([0.25, 0.2], [0.3, 0.3])
    panel.here.locator(".zone-name").last.focus()
    page.keyboard.press("Control+z")
    assert panel.tool("undo").is_disabled()
    page.keyboard.press("Control+y")
    panel.save()
    assert near(zones_of(site, "video0").zones["zone1"]["polygon"], [[0.3, 0.3], *moved[1:]])


@pytest.mark.slow
def test_a_double_click_closes_and_holes_and_lines_are_drawn_alike(page: Any, site: Running) -> None:
    panel = opened(page, site)
    panel.tool("polygon").click()
    for point in SQUARE[:3]:
        panel.click(point)
    page.mouse.dblclick(*panel.at(SQUARE[3]))
    assert panel.names == ["zone1"]
    panel.tool("hole").click()
    hole = [[0.3, 0.3], [0.5, 0.3], [0.4, 0.6]]
    for point in [*hole, hole[0]]:
        panel.click(point)
    panel.tool("line").click()
    panel.click([0.1, 0.9])
    page.mouse.dblclick(*panel.at([0.9, 0.9]))
    panel.here.locator('[name="width"]').fill("5")
    panel.here.locator('[name="width"]').press("Enter")
    panel.save()
    saved = zones_of(site, "video0").zones
    assert near(saved["zone1"]["polygon"], SQUARE)
    assert near(saved["zone1"]["holes"][0], hole)
    assert near(saved["line1"]["line"], [[0.1, 0.9], [0.9, 0.9]])
    assert saved["line1"]["width"] == 0.05
    panel.tool("polygon").click()
    panel.click([0.5, 0.5])
    page.keyboard.press("Escape")
    assert panel.names == ["zone1", "line1"]


@pytest.mark.slow
def test_a_zone_is_drawn_and_changed_with_the_keyboard_alone(page: Any, site: Running) -> None:
    panel = opened(page, site)
    panel.tool("polygon").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Space")  # in the middle
    for key in ("Shift+ArrowRight", "Shift+ArrowDown"):
        page.keyboard.press(key)
        page.keyboard.press("Space")
    page.keyboard.press("Enter")
    handle = panel.svg.locator(".handle").nth(1)
    assert "Point 2 of zone1: 60.0 % across, 50.0 % down" in handle.get_attribute("aria-label")
    handle.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Alt+ArrowUp")
    page.keyboard.press("Insert")
    panel.save()
    assert zones_of(site, "video0").zones["zone1"]["polygon"] == [
        [0.5, 0.5],
        [0.61, 0.499],
        [0.605, 0.5495],
        [0.6, 0.6],
    ]
    panel.svg.locator(".handle").nth(2).focus()
    page.keyboard.press("Delete")
    panel.save()
    assert len(zones_of(site, "video0").zones["zone1"]["polygon"]) == 3


@pytest.mark.slow
def test_events_are_made_in_a_form_and_follow_their_zone(page: Any, site: Running) -> None:
    panel = opened(page, site)
    panel.draw(SQUARE)
    panel.here.get_by_text("Add event").click()
    form = panel.here.locator(".event-form")
    form.locator('[name="event"]').fill("flood")
    form.locator('[name="event"]').press("Enter")
    form.locator('[name="class"][value="red"]').check()
    form.locator('[name="class"][value="other"]').uncheck()
    for key, value in (("above", "40"), ("below", "25"), ("for_s", "1.5"), ("cooldown_s", "60")):
        form.locator(f'[name="{key}"]').fill(value)
        form.locator(f'[name="{key}"]').press("Enter")
    panel.rename("ramp")
    panel.save()
    flood = {
        "zone": "ramp",
        "classes": ["red"],
        "above": 0.4,
        "below": 0.25,
        "for_s": 1.5,
        "cooldown_s": 60.0,
    }
    assert zones_of(site, "video0").events == {"flood": flood}
    form.locator('[name="kind"]').select_option("changes_by")
    form.locator('[name="within_s"]').fill("3")
    form.locator('[name="within_s"]').press("Enter")
    panel.tool("event").click()
    panel.save()
    saved = zones_of(site, "video0").events
    assert saved["flood"] == {"zone": "ramp", "classes": ["red"], "changes_by": 0.4, "within_s": 3.0} | {
        key: flood[key] for key in ("for_s", "cooldown_s")
    }
    assert saved["event1"]["classes"] == ["other"]
    assert "zone" not in saved["event1"]
    panel.here.get_by_text("Delete zone").click()
    assert panel.names == []
    panel.save()
    assert list(zones_of(site, "video0").events) == ["event1"]


@pytest.mark.slow
def test_what_the_daemon_refuses_is_said_and_what_was_drawn_stays(page: Any, site: Running) -> None:
    panel = opened(page, site)
    panel.draw(SQUARE)
    panel.rename("picture")
    assert "the whole picture" in panel.problems
    panel.rename("<img src=x onerror=alert(1)>")
    assert "a name must be letters" in panel.problems
    panel.here.get_by_text("Add event").click()
    panel.here.locator('[name="class"][value="other"]').uncheck()
    panel.tool("save").click()
    until(lambda: "classes" in panel.problems, "the reason")
    assert panel.names == ["zone1"]
    assert panel.state == "Not saved yet."
    assert zones_of(site, "video0").zones == {}


@pytest.mark.slow
def test_it_is_exported_as_toml_that_a_configuration_takes(page: Any, site: Running) -> None:
    panel = opened(page, site)
    panel.draw(SQUARE)
    panel.tool("toml").click()
    text = page.locator("#toml-text")
    until(lambda: text.input_value(), "the text")
    zones = tomllib.loads(text.input_value())["streams"]["video0"]["zones"]
    assert near(zones["zone1"]["polygon"], SQUARE)
    page.locator("#toml-dialog .strong").click()


def test_of_two_who_draw_at_once_the_last_wins_and_both_are_told(
    browser: Any, page: Any, site: Running
) -> None:
    mine = opened(page, site)
    mine.draw(SQUARE)
    with browser.new_context(viewport={"width": 1280, "height": 900}) as context:
        theirs = opened(context.new_page(), site)
        theirs.draw([[0.1, 0.1], [0.9, 0.1], [0.5, 0.9]])
        theirs.rename("theirs")
        theirs.save()
        until(lambda: mine.state.startswith("Changed elsewhere"), lambda: mine.state)
        assert mine.names == ["zone1"]
        mine.save()
        assert "replace what was saved elsewhere" in page.locator("#announce").text_content()
        until(lambda: theirs.names == ["zone1"], lambda: theirs.names)
        theirs.draw([[0.1, 0.1], [0.9, 0.1], [0.5, 0.9]])
        zones_of(site, "video0", {}, {})
        until(lambda: theirs.state.startswith("Changed elsewhere"), lambda: theirs.state)
        theirs.here.get_by_text("Take theirs").click()
        assert theirs.names == []


@pytest.mark.slow
def test_names_of_classes_are_text_and_never_markup(page: Any, site: Running) -> None:
    name = "<img src=x onerror=\"document.title='hit'\">"
    zones_of(site, "video0", {}, {"event": {"classes": [name], "above": 0.5}})
    panel = opened(page, site)
    box = panel.here.locator(".event-form label:has-text('<img')")
    until(box.count, "the class")
    assert box.text_content() == name
    assert panel.here.locator("img").count() == 0
    assert page.title() != "hit"


SAID = """() => {
  window.said = [];
  const aloud = document.getElementById("announce");
  new MutationObserver(() => said.push(aloud.textContent)).observe(aloud, { childList: true });
}"""


@pytest.mark.slow
def test_open_events_are_listed_first_and_their_ends_are_seen(page: Any, site: Running) -> None:
    page.goto(site.url)
    Tile(page, "video1").wait_drawn(2)  # events that are there before a page are listed and not said
    page.evaluate(SAID)
    everything = {"classes": ["red", "other"], "above": 0.5}
    tables = {"always": everything, "soon-over": everything}
    zones_of(site, "video1", {"ramp": {"polygon": SQUARE}}, tables)
    rows = page.locator("#events tbody tr", has_text="video1")  # other tests had events of video0
    until(lambda: rows.count() == 2, "two events")
    assert page.locator(".event-summary").text_content() == "2 open"
    until(lambda: any("has begun" in words for words in page.evaluate("said")), "that it is said aloud")
    zones_of(site, "video1", {"ramp": {"polygon": SQUARE}}, {"always": everything})
    until(lambda: page.locator(".event-summary").text_content() == "1 open", "an end")
    names = [row.locator("th").text_content() for row in rows.all()]
    assert names == ["always", "soon-over"]
    assert rows.first.locator(".badge").text_content() == "open"
    assert rows.last.locator(".badge").text_content() == "ended"
    assert rows.last.locator("time").count() == 2
    page.reload()
    until(lambda: rows.count() == 2, "both again")
    nothing_serious(page)
    Tile(page, "video1").wait_drawn(2)


@pytest.mark.slow
@pytest.mark.parametrize("view", ["Overlay", "Side by side"])
def test_zones_lie_where_they_were_drawn_in_every_view(page: Any, site: Running, view: str) -> None:
    zones_of(site, "video0", {"left": {"polygon": [[0, 0], [0.5, 0], [0.5, 1], [0, 1]]}}, {})
    page.goto(site.url)
    Tile(page, "video0").wait_drawn(2)
    page.get_by_text(view, exact=True).click()
    tile = Tile(page, "video0").here
    area, canvas = tile.locator(".zones .area"), tile.locator(".stage canvas")
    until(area.count, "the zone")
    across = 2 if view == "Side by side" else 1

    def fits() -> bool:
        zone, box = area.bounding_box(), canvas.bounding_box()
        wide = min(box["width"], box["height"] * across * 64 / 48)
        return (
            abs(zone["width"] - wide / across / 2) < 4
            and abs(zone["x"] - box["x"] - (box["width"] - wide) / 2) < 4
        )

    until(fits, lambda: (area.bounding_box(), canvas.bounding_box()))


@pytest.mark.slow
def test_on_a_phone_a_zone_is_drawn_with_a_finger(browser: Any, site: Running) -> None:
    with browser.new_context(
        viewport={"width": 390, "height": 800}, has_touch=True, is_mobile=True
    ) as context:
        page = context.new_page()
        panel = opened(page, site)
        panel.tool("polygon").tap()
        for point in SQUARE:
            page.touchscreen.tap(*panel.at(point))
        page.touchscreen.tap(*panel.at([0.21, 0.21]))  # near the first one
        until(lambda: panel.names == ["zone1"], lambda: panel.names)
        panel.tool("line").tap()
        page.touchscreen.tap(*panel.at([0.1, 0.9]))
        page.touchscreen.tap(*panel.at([0.9, 0.9]))
        panel.tool("finish").tap()
        panel.save()
        assert near(zones_of(site, "video0").zones["zone1"]["polygon"], SQUARE)
        assert list(zones_of(site, "video0").zones) == ["zone1", "line1"]
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_where_zones_are_drawn(browser: Any, site: Running, scheme: str) -> None:
    zones_of(
        site,
        "video0",
        {"ramp": {"polygon": SQUARE}},
        {"flood": {"classes": ["red"], "zone": "ramp", "above": 0.5}},
    )
    with browser.new_context(color_scheme=scheme, viewport={"width": 1280, "height": 900}) as context:
        page = context.new_page()
        panel = opened(page, site)
        panel.here.locator('[data-zone="ramp"] button').click()
        nothing_serious(page)
        panel.tool("polygon").click()
        nothing_serious(page)
