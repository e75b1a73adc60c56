"""The console end to end: a real daemon, its console process, and a real browser."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamseg.client.control import ControlClient
from tests.integration.console import Running, Tile, behind_proxy, browser, live, page, running
from tests.integration.daemons import run_daemon
from tests.media import draw_clip, picture, write_video
from tests.ports import free_port
from tests.waiting import LIMIT_S, in_time, until

__all__ = ["browser", "page"]

RED, OTHER = (220, 40, 40), (60, 60, 60)  # of the tiny engine's classes


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_clip(tmp_path_factory.mktemp("clips") / "red.mp4", frames=40)


@pytest.fixture(scope="module")
def still(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Red on the left half, grey on the right."""
    path = tmp_path_factory.mktemp("clips") / "still.mp4"
    write_video(path, [picture((48, 64), 0.5)] * 25)
    return path


@pytest.fixture(scope="module")
def both(tiny_engine: Path, clip: Path, still: Path) -> Iterator[Running]:
    """video0 moves, video1 does not; both play, before each test and after it."""
    with running(*live(tiny_engine, clip, still)) as daemon:
        yield daemon


@contextmanager
def paused(tile: Tile) -> Iterator[None]:
    tile.button("pause").click()
    until(lambda: tile.veil == "Paused", "the pause")
    try:
        yield
        assert tile.button("pause").get_attribute("title") == "Resume"
    finally:  # the tests after this one look at the same daemon
        tile.button("pause").click()
    tile.wait_drawn()


def test_the_page_shows_masks_that_move(page: Any, both: Running) -> None:
    page.goto(both.url)
    tile = Tile(page, "video0")
    tile.wait_drawn(10)
    page.get_by_text("Labels", exact=True).click()
    widths = set()
    until(lambda: widths.add(tile.columns(RED)) or len(widths) > 8, "a growing red part")
    assert tile.veil == ""
    assert page.locator("#connection").text_content() == "Connected"
    assert [b.text_content() for b in page.locator("#legend button").all()] == [
        "other",
        "red",
        "green",
        "blue",
    ]
    age_ms = int(tile.here.get_attribute("data-age-ms"))
    assert 0 <= age_ms < 10_000


def test_a_still_picture_is_shown_as_fresh_as_one_that_moves(
    page: Any, tiny_engine: Path, still: Path
) -> None:
    with running(*live(tiny_engine, still), "--gate", "motion") as daemon:
        page.goto(daemon.url)
        tile = Tile(page, "video")
        tile.wait_drawn(60)  # more than two seconds of 25 frames
        until(lambda: tile.here.locator(".revision").text_content() == "unchanged", "what it is called")
        assert tile.veil == ""
        assert 0 <= int(tile.here.get_attribute("data-age-ms")) < 5000
        page.get_by_text("Labels", exact=True).click()
        tile.wait_drawn(5)
        assert tile.pixel(0.2, 0.5) == RED
        assert tile.pixel(0.8, 0.5) == OTHER


def test_settings_take_effect_on_the_picture_at_once(page: Any, both: Running) -> None:
    def near(colour: tuple[int, int, int], *others: int) -> bool:
        return int(np.abs(np.subtract(colour, others)).max()) < 30

    page.goto(both.url)
    tile = Tile(page, "video1")
    tile.wait_drawn()
    with paused(tile):  # so that nothing but the settings changes the picture
        page.locator("#opacity").fill("0")
        until(lambda: near(tile.pixel(0.2, 0.5), 255, 0, 0), "the bare picture")
        page.locator("#opacity").fill("100")
        until(lambda: near(tile.pixel(0.2, 0.5), *RED), "the labels over it")
        page.locator('#legend button[data-class="red"]').click()
        until(lambda: near(tile.pixel(0.2, 0.5), 255, 0, 0), "the red class hidden")
        assert near(tile.pixel(0.8, 0.5), *OTHER)
        page.locator('#legend button[data-class="red"]').click()
        page.locator(".switch").click()
        until(lambda: near(tile.pixel(0.8, 0.2), 128, 128, 128), "nothing but outlines")
        assert tile.columns(RED) + tile.columns(OTHER) < 40
        page.locator(".switch").click()
        page.get_by_text("Side by side").click()
        until(lambda: near(tile.pixel(0.1, 0.5), 255, 0, 0), "the picture on the left")
        assert near(tile.pixel(0.6, 0.5), *RED)


def test_the_class_under_the_pointer_is_named_for_mouse_and_keyboard(page: Any, both: Running) -> None:
    page.goto(both.url)
    tile = Tile(page, "video1")
    tile.wait_drawn()
    canvas = tile.here.locator(".stage canvas")
    box = canvas.bounding_box()
    # The picture is as high as the canvas or as wide; a quarter off the middle is inside of it.
    side = min(box["width"], box["height"] * 64 / 48) / 4
    middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    named = tile.here.locator(".probe-text")
    page.mouse.move(middle[0] - side, middle[1])
    until(lambda: named.text_content() == "red", "red under the pointer")
    assert page.locator("#legend .pointed").text_content() == "red"
    page.mouse.move(middle[0] + side, middle[1])
    until(lambda: named.text_content() == "other", "other under the pointer")
    page.mouse.move(1, 1)
    canvas.focus()
    for _ in range(3):
        page.keyboard.press("Shift+ArrowLeft")
    until(lambda: page.locator("#announce").text_content() == "red", "red said aloud")


def test_streams_are_added_paused_resumed_and_removed(page: Any, both: Running, clip: Path) -> None:
    page.goto(both.url)
    page.locator("#add").click()
    page.locator('[name="stream"]').fill("yard")
    page.locator('[name="source"]').fill("gopher://x")
    page.locator("#add-form .strong").click()
    until(lambda: "gopher" in page.locator("#add-problems").text_content(), "the reason")
    page.locator('[name="source"]').fill(str(clip))
    page.locator("#add-form .strong").click()
    yard = Tile(page, "yard")
    yard.wait_drawn()
    with paused(yard):
        pass
    yard.button("remove").click()
    page.locator("#remove-dialog .danger").click()
    until(lambda: yard.here.count() == 0, "the tile to go")
    with both.control() as control:
        assert sorted(control.status().streams) == ["video0", "video1"]


def test_a_stream_that_cannot_be_had_says_why(page: Any, both: Running) -> None:
    page.goto(both.url)
    with both.control() as control:
        control.add("gone", source="/nowhere/x.mp4", realtime=True)
        gone = Tile(page, "gone")
        until(lambda: gone.here.count(), "the tile")
        until(lambda: gone.veil.startswith("Failed") and "/nowhere/x.mp4" in gone.veil, "the reason")
        control.remove("gone")


# Keeps in window.revisions what was shown: a refined keyframe gives way to live masks after a while.
REVISIONS = """(tile) => {
    window.revisions = [];
    new MutationObserver(() => window.revisions.push(tile.dataset.revision))
        .observe(tile, { attributes: true, attributeFilter: ["data-revision"] }); }"""


def test_a_keyframe_asked_for_is_refined_and_shown(page: Any, both: Running) -> None:
    page.goto(both.url)
    tile = Tile(page, "video1")
    tile.wait_drawn()
    assert tile.here.get_attribute("data-revision") == "0"

    def refined() -> bool:
        tile.button("keyframe").click()  # again: one that waits too long for the CRF is left out
        return "1" in page.evaluate("window.revisions")

    tile.here.evaluate(REVISIONS)
    until(refined, "revision 1")
    until(lambda: tile.here.get_attribute("data-revision") == "0", "live masks again")
    page.get_by_text("Refined", exact=True).click()
    until(lambda: tile.here.get_attribute("data-revision") == "1", "revision 1")
    tile.wait_drawn(3)


def test_the_current_mask_is_downloaded_as_an_indexed_png(page: Any, both: Running, tmp_path: Path) -> None:
    from PIL import Image

    page.goto(both.url)
    tile = Tile(page, "video1")
    tile.wait_drawn()
    with page.expect_download() as coming:
        tile.button("save").click()
    path = tmp_path / coming.value.suggested_filename
    coming.value.save_as(path)
    assert path.name.startswith("video1-")
    with Image.open(path) as image:
        assert (image.mode, image.size) == ("P", (64, 48))
        assert image.getpixel((5, 20)) == 1
        assert image.convert("RGB").getpixel((5, 20)) == RED


@contextmanager
def sending(port: int) -> Iterator[None]:
    """A camera: MPEG-TS over UDP, 25 pictures a second, until the end of the body."""
    over = threading.Event()

    class Over(Exception):
        pass

    def pace(_: int) -> None:
        if over.wait(0.04):
            raise Over

    def send() -> None:
        pictures = [picture((48, 64), 0.5)] * 3000
        options = {"g": "5", "tune": "zerolatency"}
        url = f"udp://127.0.0.1:{port}?pkt_size=1316"
        with suppress(Over):
            write_video(url, pictures, container_format="mpegts", options=options, pace=pace)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(LIMIT_S)


def test_a_stream_that_dies_says_so_and_comes_back_by_itself(
    page: Any, tiny_engine: Path, still: Path
) -> None:
    port = free_port()
    with running(
        *live(tiny_engine, still, f"udp://127.0.0.1:{port}"), "--retry-at-start", "--timeout-s", "1"
    ) as daemon:
        page.goto(daemon.url)
        camera = Tile(page, "video1")

        def told_after_s() -> float:
            with sending(port):
                until(lambda: camera.here.count() and camera.veil == "", "the stream")
                camera.wait_drawn()
            dead_s = time.monotonic()
            until(lambda: "No masks for" in camera.veil, "the death to be told")
            return time.monotonic() - dead_s

        in_time(
            4, told_after_s
        )  # 2 s on an idle machine: the threshold is 1.5 s, looked at four times a second
        assert "video1" in page.locator("#announce").text_content()
        Tile(page, "video0").wait_drawn()  # the other one goes on
        with sending(port):
            until(lambda: camera.veil == "", "the stream to come back")
            camera.wait_drawn(5)


# Counts in window.losses how often the loss of the connection was told: it may be back within a second.
LOSSES = """() => {
    window.losses = 0;
    const told = document.querySelector("#connection");
    new MutationObserver(() => { window.losses += told.classList.contains("lost"); })
        .observe(told, { attributes: true }); }"""


def test_the_page_outlives_the_daemon_and_its_console(page: Any, tiny_engine: Path, clip: Path) -> None:
    with running(*live(tiny_engine, clip)) as daemon:
        page.goto(daemon.url)
        tile = Tile(page, "video")
        tile.wait_drawn()
        with daemon.control() as control:
            status = control.status()
        page.evaluate(LOSSES)
        os.kill(status.children["web"], signal.SIGKILL)
        daemon.lines.wait("the console has ended (signal SIGKILL)")
        until(lambda: page.evaluate("window.losses"), "the loss to be told")
        until(lambda: page.locator("#connection.live").count(), "the console to be back")
        tile.wait_drawn()
        with daemon.control() as control:
            after = control.status()
        assert after.web_restarts == 1
        assert after.publisher is not None
        assert status.publisher is not None
        assert after.publisher.run == status.publisher.run  # masks never stopped
        daemon.lines.kill()
        gone = Path(f"/proc/{after.children['web']}")
        until(lambda: not gone.exists(), "the console's process to end with its daemon")
        daemon.restart()
        tile.wait_drawn()
        assert tile.veil == ""


# Every picture is 41 s older than it is.
OLD = """const parse = JSON.parse;
    JSON.parse = (text) => {
        const value = parse(text);
        if (value?.captured_ms) value.captured_ms -= 41000;
        return value;
    };"""
# Parts of the head that leave the tile or lie over the name.
CROWDED = """(head) => {
    const all = [...head.querySelectorAll(".name, .badge, .figures")]
        .map((part) => [part.className, part.getBoundingClientRect()]);
    const [[, name], ...others] = all.filter(([, box]) => box.width);
    const { left, right } = head.getBoundingClientRect();
    return others.filter(([, box]) => box.left < left || box.right > right
        || (box.left < name.right && name.left < box.right && box.top < name.bottom && name.top < box.bottom))
        .map(([which]) => which); }"""


@pytest.mark.parametrize("width", [320, 360])
def test_on_a_phone_a_name_is_readable_and_a_late_mask_is_a_warning(
    browser: Any, both: Running, clip: Path, width: int
) -> None:
    names = ["yard-behind-the-house", "n" * 60]
    with both.control() as control:
        for name in names:
            control.add(name, source=str(clip), realtime=True, loop=True)
        for old in (False, True):
            context = browser.new_context(viewport={"width": width, "height": 1400})
            page = context.new_page()
            if old:
                page.add_init_script(OLD)
            page.goto(both.url)
            for name in names:
                tile = Tile(page, name)
                tile.here.scroll_into_view_if_needed()
                tile.wait_drawn(2)
                head = tile.here.locator(".head")
                expected = "late" if old else "playing"
                head.locator(".state", has_text=expected).wait_for()
                assert head.locator(".late").count() == old
                assert ("41 s late" in head.inner_text()) == old
                assert head.locator(".name").bounding_box()["width"] > 200
                assert head.evaluate(CROWDED) == []
            if old:
                nothing_serious(page)
            context.close()
        for name in names:
            control.remove(name)


def messages(control: ControlClient) -> tuple[int, int]:
    """Masks published, and messages sent, so far."""
    publisher = control.status().publisher
    assert publisher is not None
    return publisher.published, publisher.messages


def nothing_is_sent(control: ControlClient) -> bool:
    """Whether masks are made, and none is packed or sent."""
    published, sent = messages(control)
    until(lambda: messages(control)[0] > published + 5, "masks")
    return messages(control)[1] == sent


def test_nothing_is_made_for_tiles_that_nobody_sees(page: Any, tiny_engine: Path, clip: Path) -> None:
    with running(*live(tiny_engine, clip)) as daemon, daemon.control() as control:
        until(lambda: nothing_is_sent(control), "silence before anybody looks")
        page.goto(daemon.url)
        tile = Tile(page, "video")
        tile.wait_drawn()
        assert not nothing_is_sent(control)
        page.set_viewport_size({"width": 800, "height": 100})
        page.evaluate("document.body.style.paddingTop = '4000px'")  # the tile is far below
        until(lambda: nothing_is_sent(control), "the demand to end with the tile out of sight")
        page.evaluate("document.body.style.paddingTop = '0'")
        page.set_viewport_size({"width": 1280, "height": 900})
        tile.wait_drawn()
        hide(page, True)
        until(lambda: nothing_is_sent(control), "the demand to end with the page hidden")
        hide(page, False)
        tile.wait_drawn()
        page.close()
        until(lambda: nothing_is_sent(control), "the demand to end with the page")


def hide(page: Any, hidden: bool) -> None:
    """Tell the page that its tab went to the background; headless Chromium keeps every tab in front."""
    page.evaluate(
        """(hidden) => {
            Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
            document.dispatchEvent(new Event("visibilitychange")); }""",
        hidden,
    )


def nothing_serious(page: Any) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="pip install 'streamseg[dev]'")
    found = axe.Axe().run(page).response["violations"]
    serious = [v for v in found if v["impact"] in ("serious", "critical")]
    assert not serious, [(v["id"], v["help"], [n["html"] for n in v["nodes"]]) for v in serious]


def test_a_browser_that_cannot_unpack_masks_is_told_so(page: Any, both: Running) -> None:
    page.add_init_script("delete window.DecompressionStream")
    page.goto(both.url)
    until(lambda: Tile(page, "video1").here.count(), "the tile")
    assert "too old" in page.locator("#notice").text_content()
    assert page.locator("#notice").is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(browser: Any, both: Running, scheme: str) -> None:
    context = browser.new_context(color_scheme=scheme, viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.add_init_script(OLD)
    page.goto(both.url)
    tile = Tile(page, "video1")
    tile.wait_drawn()
    tile.button("details").click()
    page.locator('#legend button[data-class="red"]').click()
    nothing_serious(page)
    with paused(tile):
        nothing_serious(page)
    page.locator("#add").click()
    nothing_serious(page)
    context.close()


def test_a_real_clip_and_the_default_engine(page: Any, shared_data: Path) -> None:
    clip = shared_data / "video" / "car-detection.mp4"
    with running(
        "--source", str(clip), "--source", "demo:", "--realtime", "--loop", "--precision", "int8"
    ) as daemon:
        page.goto(daemon.url)
        for stream in ("video0", "video1"):
            Tile(page, stream).wait_drawn(5)
        assert "camvid-lite/int8" in page.locator("#about").text_content()


def test_the_token_is_asked_for_and_a_cookie_remembers_it(
    page: Any, tiny_engine: Path, clip: Path, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("a-token-that-is-long-enough\n")
    token.chmod(0o600)
    listen = f"127.0.0.1:{free_port()}"
    config = tmp_path / "site.toml"
    config.write_text(
        f'[streams.video]\nsource = "{clip}"\nrealtime = true\nloop = true\n'
        f'[engine]\nname = "{tiny_engine}"\n[publish]\nendpoint = "tcp://127.0.0.1:{free_port()}"\n'
        f'[web]\nlisten = "{listen}"\ntoken_file = "{token}"\n'
    )
    daemon = run_daemon(config)
    try:
        daemon.wait("the console is at")
        assert page.goto(f"http://{listen}/").status == 401
        assert page.goto(f"http://{listen}/?token=wrong").status == 401
        assert page.goto(f"http://{listen}/?token=a-token-that-is-long-enough").status == 200
        assert page.url == f"http://{listen}/"  # the token is out of sight
        Tile(page, "video").wait_drawn()
        assert page.goto(f"http://{listen}/").status == 200
        with behind_proxy(f"http://{listen}/") as below:
            log_in_and_out(page, below)
    finally:
        daemon.kill()


def log_in_and_out(page: Any, url: str) -> None:
    """By the form, below a proxy's path: the files, redirections, cookie, WebSocket and downloads, too."""
    asked: list[str] = []
    page.goto("about:blank")
    page.on("request", lambda request: asked.append(request.url))
    page.on("websocket", lambda sock: asked.append(sock.url))
    page.context.clear_cookies()
    assert page.goto(url).status == 401
    nothing_serious(page)
    for word in ("wrong", "a-token-that-is-long-enough"):
        page.locator('[name="token"]').fill(word)
        page.get_by_role("button", name="Log in").click()
        if word == "wrong":
            until(lambda: page.locator("#wrong").is_visible(), "the complaint")
        assert page.url == url
    tile = Tile(page, "video")
    tile.wait_drawn()
    assert socket.gethostname() in page.title()
    assert page.locator("#host").text_content() == socket.gethostname()
    (cookie,) = page.context.cookies()
    assert (cookie["path"], cookie["httpOnly"], cookie["sameSite"]) == ("/seg", True, "Strict")
    with page.expect_download() as download:
        tile.button("save").click()
    assert download.value.url == f"{url}streams/video/mask.png"
    page.get_by_role("button", name="Log out").click()
    page.locator('[name="token"]').wait_for()
    assert page.context.cookies() == []
    assert f"{url}link".replace("http:", "ws:") in asked
    assert all(one.replace("ws:", "http:").startswith(url) for one in asked), asked
