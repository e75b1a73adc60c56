"""The whole daemon on pictures that stay where the decoder left them, as NVDEC does; here that is a CPU.

The planes are real ones, by DLPack; torch on the CPU stands for torch on a GPU.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamseg.client import subscribe
from streamseg.config import Config, EngineConfig, PublishConfig, RefinementConfig, StreamConfig
from streamseg.daemon import Daemon
from streamseg.sources.surface import Surface
from streamseg.types import Mask, Size
from streamseg.types.picture import Picture
from tests.integration.daemons import in_thread
from tests.media import write_video
from tests.nvdec import leave_pictures_on_a_fake_gpu
from tests.waiting import LIMIT_S
from tools.demo import draw_scene

pytest.importorskip("torch")

FRAMES = 6


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "street.mp4"
    write_video(path, [draw_scene(0.4 * i)[0] for i in range(FRAMES)])
    return path


@pytest.fixture(scope="module")
def through_memory(clip: Path) -> dict[int, Mask]:
    """What a daemon whose engine takes arrays makes of the clip."""
    with running(clip, "onnx") as daemon:
        return by_seq(daemon)


@pytest.fixture
def brought(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What of pictures and logits has been asked for here since, a word for each time."""
    from streamseg.inference.upsample_device import TensorLogits

    seen: list[str] = []
    brought_of, to_host = Surface.brought, TensorLogits.to_host

    def counted_brought(surface: Surface) -> Picture:
        seen.append("picture")
        return brought_of(surface)

    def counted_to_host(logits: TensorLogits) -> Any:
        seen.append("logits")
        return to_host(logits)

    monkeypatch.setattr(Surface, "brought", counted_brought)
    monkeypatch.setattr(TensorLogits, "to_host", counted_to_host)
    return seen


@contextmanager
def running(clip: Path, backend: str = "torch", **settings: Any) -> Iterator[Daemon]:
    streams = settings.pop("streams", {"gate": StreamConfig(source=str(clip), hwaccel="cuda", loop=True)})
    daemon = Daemon(
        Config(
            streams=streams,
            engine=EngineConfig(  # at a third of its size
                backend=backend,  # type: ignore[arg-type]
                precision="fp32",
                threads=1,
                max_batch=2,
                input_size=(120, 160),
            ),
            publish=PublishConfig(endpoint="tcp://127.0.0.1:0", queue=10000),
            **settings,
        )
    )
    with in_thread(daemon) as (_, errors):
        assert daemon.ready.wait(LIMIT_S)
        yield daemon
    assert errors == []


def by_seq(daemon: Daemon, count: int = FRAMES, **wanted: Any) -> dict[int, Mask]:
    """One mask of each picture of the clip."""
    found: dict[int, Mask] = {}
    with subscribe(daemon.endpoint, ["gate"], newest=False, queue=1000, **wanted) as masks:
        while len(found) < count:
            mask = masks.read(LIMIT_S)
            found[mask.seq] = mask
    return found


def test_only_labels_come_here_and_they_are_those_of_the_route_through_memory(
    clip: Path,
    through_memory: dict[int, Mask],
    brought: list[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    leave_pictures_on_a_fake_gpu(monkeypatch)
    with caplog.at_level(logging.INFO), running(clip) as daemon:
        got = by_seq(daemon)
    assert brought == []
    assert [m for m in caplog.messages if "pictures" in m] == ["gate: pictures stay on the GPU"]
    for seq, mask in through_memory.items():
        assert mask.size == got[seq].size == (360, 480)
        assert np.mean(mask.labels == got[seq].labels) > 0.997  # levels differ by one here and there
        assert set(got[seq].stage_us) >= {"decode", "wait", "preprocess", "infer", "fuse"}


@pytest.mark.parametrize(("mask_size", "size"), [("frame", (722, 1282)), ("input", (104, 184))])
def test_masks_have_the_size_that_was_asked_for(
    mask_size: Any, size: Size, tmp_path: Path, brought: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = np.tile(draw_scene(1.0)[0], (3, 3, 1))[:722, :1282]
    write_video(tmp_path / "wide.mp4", [np.ascontiguousarray(picture)] * 3)
    leave_pictures_on_a_fake_gpu(monkeypatch)
    stream = StreamConfig(source=str(tmp_path / "wide.mp4"), hwaccel="cuda", loop=True, mask_size=mask_size)
    with running(clip, streams={"gate": stream}) as daemon:
        assert by_seq(daemon, 1).popitem()[1].size == size
    assert brought == []


def test_confidence_brings_the_logits_and_not_the_picture(
    clip: Path, brought: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_pictures_on_a_fake_gpu(monkeypatch)
    with running(clip) as daemon:
        masks = by_seq(daemon, 2, confidence=True, snapshot=False)
    assert all(mask.confidence is not None for mask in masks.values())
    assert set(brought) == {"logits"}


def test_fusion_brings_both_and_says_so(
    clip: Path, brought: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with running(clip, refinement=RefinementConfig(level="live")) as daemon:
        want = by_seq(daemon, 1)
    leave_pictures_on_a_fake_gpu(monkeypatch)
    with caplog.at_level(logging.INFO), running(clip, refinement=RefinementConfig(level="live")) as daemon:
        got = by_seq(daemon)
    assert set(brought) == {"picture", "logits"}
    assert [m for m in caplog.messages if "pictures" in m] == [
        "gate: pictures are copied to host memory: the CRF or fusion needs them on the host"
    ]
    seq = next(iter(want))
    assert np.mean(want[seq].labels == got[seq].labels) > 0.98


def test_refined_masks_are_made_for_those_who_ask(
    clip: Path, brought: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_pictures_on_a_fake_gpu(monkeypatch)
    settings = {
        "streams": {
            "gate": StreamConfig(source=str(clip), hwaccel="cuda", loop=True, realtime=True, max_fps=2)
        },
        "refinement": RefinementConfig(priority="normal"),
    }
    with running(clip, **settings) as daemon, subscribe(daemon.endpoint, ["gate"], refined=True) as masks:
        while masks.read(LIMIT_S).revision == 0:
            pass
    assert set(brought) == {"picture", "logits"}


def test_a_thumbnail_brings_the_picture_and_the_route_goes_on_without(
    clip: Path, brought: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_pictures_on_a_fake_gpu(monkeypatch)
    with running(clip) as daemon, subscribe(daemon.endpoint, ["gate"], pictures=True) as masks:
        while masks.picture(masks.read(LIMIT_S)) is None:
            pass
    assert set(brought) == {"picture"}


def test_an_engine_that_takes_arrays_gets_them_and_the_log_says_so(
    clip: Path,
    through_memory: dict[int, Mask],
    brought: list[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    leave_pictures_on_a_fake_gpu(monkeypatch)
    with caplog.at_level(logging.INFO), running(clip, "onnx") as daemon:
        got = by_seq(daemon)
    for seq, mask in through_memory.items():
        np.testing.assert_array_equal(mask.labels, got[seq].labels)
    assert (
        "gate: pictures are copied to host memory: camvid-lite/fp32/onnx reads pictures on the host"
        in caplog.messages
    )


def test_a_stream_decoded_here_and_one_decoded_there_share_the_engine(
    clip: Path, brought: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from streamseg.sources.frames import FrameMaker

    usual = FrameMaker.frame
    leave_pictures_on_a_fake_gpu(monkeypatch)
    left = FrameMaker.frame
    monkeypatch.setattr(
        FrameMaker,
        "frame",
        lambda maker, picture: (left if maker.stream == "gate" else usual)(maker, picture),
    )
    streams = {name: StreamConfig(source=str(clip), loop=True) for name in ("gate", "yard")}
    with running(clip, streams=streams) as daemon, subscribe(daemon.endpoint) as masks:
        seen = {masks.read(LIMIT_S).stream for _ in range(40)}
    assert seen == {"gate", "yard"}
    assert brought == []
