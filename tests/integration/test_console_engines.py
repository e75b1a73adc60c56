"""The network of a stream is chosen in the console."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from streamseg.client.control import ControlClient
from streamseg.models.sources import RELEASED
from streamseg.net.control_sockets import one_running
from streamseg.runtime.folders import FETCHED_WEIGHTS, cache_folder
from tests.integration.console import Tile, browser, page
from tests.integration.daemons import run_daemon
from tests.media import draw_clip
from tests.ports import free_port
from tests.waiting import LIMIT_S, until

__all__ = ["browser", "page"]

RELEASED_ONE = "deeplabv3-mobilenet-v2-dm05-voc"
FILE = (
    Path(__file__).resolve().parents[3] / "shared" / "data" / "weights" / RELEASED[RELEASED_ONE].source.file
)


@pytest.mark.slow
def test_a_stream_gets_another_network_and_one_that_fails_changes_nothing(
    page: Any, tiny_engine: Path, tmp_path: Path
) -> None:
    listen, config = f"127.0.0.1:{free_port()}", tmp_path / "site.toml"
    clip = draw_clip(tmp_path / "red.mp4", frames=40)
    config.write_text(
        f'[streams.gate]\nsource = "{clip}"\nrealtime = true\nloop = true\n[engine]\nname = "{tiny_engine}"\n'
        f'[engines.second]\nname = "{tiny_engine}"\ninput_size = [32, 32]\n'
        f'[publish]\nendpoint = "tcp://127.0.0.1:{free_port()}"\n[web]\nlisten = "{listen}"\n'
    )
    daemon = run_daemon(config)
    try:
        daemon.wait("the console is at")
        page.goto(f"http://{listen}/")
        gate = Tile(page, "gate")
        gate.wait_drawn()
        gate.button("engine").click()
        choices = page.locator("#engine-list input")
        until(choices.count, "the networks")
        names = [one.get_attribute("value") for one in choices.all()]
        assert names[:2] == ["default", "second"]
        assert "camvid-slim" in names
        page.locator('#engine-list input[value="second"]').check()
        page.locator("#engine-use").click()
        until(lambda: not page.locator("#engine-dialog").is_visible(), "the network to be loaded")
        gate.wait_drawn()
        with ControlClient(one_running(str(daemon.process.pid)), timeout_s=LIMIT_S) as control:
            assert "second" in control.status().engines
        script = """name => { document.querySelector('#engine-list input[value="default"]').value = name; }"""
        if FILE.is_file():  # lies in the cache as if it had been downloaded before
            kept = cache_folder(FETCHED_WEIGHTS)
            kept.mkdir(parents=True, exist_ok=True)
            shutil.copy(FILE, kept)
            gate.button("engine").click()
            until(choices.count, "the networks")
            page.locator(f'#engine-list input[value="{RELEASED_ONE}"]').check()
            page.locator("#engine-use").click()
            until(lambda: not page.locator("#engine-dialog").is_visible(), "the released network")
            until(lambda: RELEASED_ONE in page.locator("#about").text_content(), "its masks")
        gate.button("engine").click()
        until(choices.count, "the networks")
        page.evaluate(script, "/etc/passwd")  # as no page of ours would ask
        page.locator('#engine-list input[value="/etc/passwd"]').check()
        page.locator("#engine-use").click()
        until(lambda: page.locator("#engine-problems").text_content(), "the reason")
        page.locator("#engine-cancel").click()
        gate.wait_drawn()
    finally:
        daemon.kill()
