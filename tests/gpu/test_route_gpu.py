"""From NVDEC to labels on one GPU: the picture stays there, and the masks are those of the CPU's route.

None of this has run on hardware yet; tests/integration/test_device_route.py is the same on planes of the CPU.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.gpu_route import street_clip
from streamseg.client import subscribe
from streamseg.config import EngineConfig, StreamConfig
from streamseg.inference.plans.load import load_engine
from streamseg.inference.scaling import labels_from_logits, make_batch
from streamseg.sources import open_source
from streamseg.sources.frames import decode
from streamseg.sources.hardware import why_not_on_gpu
from streamseg.sources.surface import Surface
from streamseg.types import Frame
from tests.integration.test_device_route import brought, by_seq, running
from tests.waiting import LIMIT_S
from tools.demo import draw_scene

torch = pytest.importorskip("torch")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
SIZE = (360, 480)
LEAST_SAME = 0.995  # share of a mask's pixels; on planes of the CPU it is 0.998: levels differ by one

__all__ = ["brought"]  # a fixture


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Skips where NVDEC's pictures do not stay, and says why."""
    torch.zeros(1, device="cuda")  # before FFmpeg, as in the daemon, whose engine is loaded first
    if reason := why_not_on_gpu("cuda"):
        pytest.skip(reason)
    return street_clip(tmp_path_factory.mktemp("clips") / "street.mp4", (1080, 1920), 60)


def played(path: Path, hwaccel: Any) -> list[Frame]:
    with open_source(StreamConfig(source=str(path), hwaccel=hwaccel), "gate") as source:
        return list(decode(source, "gate"))


def test_pictures_stay_on_the_gpu_and_are_there_after_the_source_is_closed(clip: Path) -> None:
    """All 60 at once: more than a decoder has surfaces, so FFmpeg must have copied them."""
    there, here = played(clip, "cuda"), played(clip, "none")
    assert len(there) == len(here) == 60
    for one, other in zip(there, here, strict=True):
        assert isinstance(one.picture, Surface)
        assert one.picture.device == "cuda"
        assert one.size == other.size
        assert (one.seq, one.pts) == (other.seq, other.pts)
    for at in (0, 30, 59):
        assert np.abs(there[at].rgb.astype(int) - here[at].rgb).max() <= 1, "H.264 decodes to the bit"


def test_planes_are_scaled_there_as_pictures_are_here(clip: Path) -> None:
    from streamseg.inference.preprocess_device import make_device_batch

    there, here = played(clip, "cuda")[:4], played(clip, "none")[:4]
    batch = make_device_batch([one.picture for one in there], SIZE)  # type: ignore[misc]
    assert batch.is_cuda
    difference = np.abs(batch.cpu().numpy().astype(int) - make_batch([one.rgb for one in here], SIZE))
    assert (difference > 3).mean() < 5e-4


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_logits_that_stay_there_are_those_that_come_here(precision: Any) -> None:
    from streamseg.inference.upsample_device import TensorLogits

    engine = load_engine(EngineConfig(backend="torch", precision=precision))
    for moment in (0.0, 4.0):
        batch = draw_scene(moment)[0][None]
        there = engine.on_device(torch.from_numpy(batch).cuda()).wait()  # type: ignore[attr-defined]
        assert there.is_cuda
        here = engine(batch)
        np.testing.assert_array_equal(there.cpu().numpy(), here)
        for size in (SIZE, (1080, 1920)):
            labels = TensorLogits(there[0]).labels(size)
            assert np.mean(labels == labels_from_logits(here[0], size)[0]) > 0.9999
    engine.close()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_nothing_but_labels_comes_back_and_they_are_the_cpus(
    precision: Any, clip: Path, brought: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    cpu = {"gate": StreamConfig(source=str(clip), loop=True)}
    with running(clip, "onnx", streams=cpu) as daemon:
        want = by_seq(daemon, 5)
    with caplog.at_level(logging.INFO), running(clip, precision=precision) as daemon:
        got = by_seq(daemon, 60)
    assert brought == []
    assert "gate: pictures stay on the GPU" in caplog.messages
    for seq, mask in want.items():
        assert got[seq].size == (1080, 1920)
        assert np.mean(mask.labels == got[seq].labels) > (LEAST_SAME if precision == "fp32" else 0.98)


@pytest.mark.timeout(300)
def test_streams_begin_while_others_run_and_shapes_are_recorded(clip: Path, tmp_path: Path) -> None:
    """A decoder that is opened while another thread records a CUDA graph disturbs neither."""
    narrow = street_clip(tmp_path / "narrow.mp4", (720, 640), 40)
    streams = {"gate": StreamConfig(source=str(clip), hwaccel="cuda", loop=True)}
    with running(clip, streams=streams) as daemon, subscribe(daemon.endpoint) as masks:
        masks.read(LIMIT_S)
        assert daemon.pipeline is not None
        for i in range(4):
            added = StreamConfig(source=str(narrow), hwaccel="cuda", loop=True)
            daemon.pipeline.streams.add({f"more{i}": added})
        seen: set[str] = set()
        while len(seen) < 5:
            seen.add(masks.read(LIMIT_S).stream)
        assert not daemon.pipeline.errors


def test_labels_are_computed_in_one_thread_while_another_runs_the_network() -> None:
    from streamseg.inference.upsample_device import TensorLogits

    engine = load_engine(EngineConfig(backend="torch", precision="fp32"))
    batch = torch.from_numpy(draw_scene(0.0)[0][None]).cuda()
    queued = engine.on_device(batch)  # type: ignore[attr-defined]
    kept = TensorLogits(queued.logits[0], queued.ready)
    want = kept.labels(SIZE)
    found: list[np.ndarray] = []
    other = threading.Thread(target=lambda: found.extend(kept.labels(SIZE) for _ in range(50)))
    other.start()
    for moment in range(50):
        engine.on_device(torch.from_numpy(draw_scene(float(moment))[0][None]).cuda())  # type: ignore[attr-defined]
    other.join()
    assert len(found) == 50
    for labels in found:
        np.testing.assert_array_equal(labels, want)
    engine.close()
