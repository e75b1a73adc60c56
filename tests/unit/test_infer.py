"""Frames whose pictures lie on a device: which engines take them there, and what comes back from those."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import msgspec
import numpy as np
import pytest

from streamseg.config import EngineConfig
from streamseg.errors import EngineError
from streamseg.inference.backends.protocol import backend_of, build_spec
from streamseg.inference.engine import EngineInfo
from streamseg.inference.infer import FramePlacement, infer
from streamseg.inference.plans.hot_swap import SwitchEngine
from streamseg.inference.plans.load import load_engine
from streamseg.inference.scaling import labels_from_logits, labels_of
from streamseg.inference.spec import find_engine
from streamseg.sources import hardware
from streamseg.sources.surface import Surface
from streamseg.types import U8, Frame, FrameSettings, Stamp
from streamseg.types.picture import ArrayPicture
from tools.demo import draw_scene

torch = pytest.importorskip("torch")


def surface(seconds: float = 0.0) -> Surface:
    rgb = draw_scene(seconds)[0]
    image = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format="nv12")
    return Surface(
        *image.planes, (image.height, image.width), lambda: ArrayPicture(image.to_rgb().to_ndarray())
    )


def frame(picture: Any, stream: str = "gate", hwaccel: str = "cuda") -> Frame:
    stamp = Stamp(stream, 0, 0, None, Fraction(1, 25), 0, "arrival")
    return Frame(stamp, picture, 0, settings=FrameSettings(hwaccel=hwaccel))


def on_host(one: Frame) -> bool:
    return not isinstance(one.picture, Surface) or one.picture._host is not None


@pytest.fixture(scope="module")
def engines() -> Iterator[dict[str, Any]]:
    """The default engine by backend, at a third of its size; nobody may close it."""
    loaded: dict[str, Any] = {
        backend: load_engine(EngineConfig(backend=backend, precision="fp32", input_size=(120, 160)))  # type: ignore[arg-type]
        for backend in ("torch", "onnx")
    }
    yield loaded
    for engine in loaded.values():
        engine.close()


def test_the_torch_engine_takes_tensors_and_leaves_the_logits_there(
    engines: dict[str, Any], tiny_engine: Path
) -> None:
    engine = engines["torch"]
    batch = np.stack([draw_scene(t)[0][::3, ::3] for t in (0.0, 3.0)])
    got = engine.on_device(torch.from_numpy(batch)).wait()
    assert isinstance(got, torch.Tensor)
    np.testing.assert_array_equal(got.numpy(), engine(batch))
    closed: Any = load_engine(EngineConfig(name=str(tiny_engine), backend="torch"))
    closed.close()
    with pytest.raises(EngineError, match="is closed"):
        closed.on_device(torch.from_numpy(batch))


@pytest.mark.soak  # builds for half a minute
@pytest.mark.timeout(300)
def test_an_aoti_package_takes_tensors_and_leaves_the_logits_there(
    tiny_engine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if reason := backend_of("aoti").why_not("fp32"):
        pytest.skip(reason)
    engine = load_engine(EngineConfig(name=str(tiny_engine), backend="aoti", threads=1))
    assert engine.info.tensors == "cpu"
    batch = np.random.default_rng(0).integers(0, 256, (2, 48, 64, 3), np.uint8)
    got = engine.on_device(torch.from_numpy(batch)).wait()  # type: ignore[attr-defined]
    np.testing.assert_array_equal(got.numpy(), engine(batch))
    engine.close()


def test_the_logits_of_a_gpus_engine_stay_there_also_of_pictures_decoded_on_the_cpu(
    engines: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engines["torch"]
    frames = [frame(draw_scene(t)[0]) for t in (0.0, 3.0)]
    want = [labels_of(one, (360, 480))[0] for one in infer(engine, frames)]
    on_gpu = msgspec.structs.replace(engine.info, tensors="cuda")  # its memory is the CPU's
    monkeypatch.setattr(engine, "info", on_gpu)
    for one, labels in zip(infer(engine, frames), want, strict=True):
        assert not isinstance(one.data, np.ndarray)
        np.testing.assert_array_equal(labels_of(one, (360, 480))[0], labels)


@pytest.mark.parametrize("backend", ["torch", "onnx"])
def test_a_picture_stays_there_just_where_the_engine_takes_it(engines: dict[str, Any], backend: str) -> None:
    frames = [frame(surface(t)) for t in (0.0, 3.0)]
    logits = infer(engines[backend], frames)
    stays = backend == "torch"
    assert [on_host(one) for one in frames] == [not stays] * 2
    for one in logits:
        assert isinstance(one.data, np.ndarray) is not stays
        assert one.array.shape == (11, 30, 40)
        assert one.array.dtype == np.float32
        want, _ = labels_from_logits(one.array, (360, 480))
        got, confidence = labels_of(one, (360, 480))
        assert confidence is None
        assert np.mean(want == got) > 0.9999


def test_a_batch_that_lies_partly_here_is_made_here(engines: dict[str, Any]) -> None:
    frames = [frame(surface()), frame(draw_scene(0.0)[0])]
    logits = infer(engines["torch"], frames)
    assert all(isinstance(one.data, np.ndarray) for one in logits)


def test_a_frames_size_is_known_without_its_picture() -> None:
    one = frame(surface())
    assert one.size == (360, 480)
    assert not on_host(one)
    assert one.rgb is one.rgb
    assert one.rgb.shape == (360, 480, 3)
    assert on_host(one)


def test_a_network_that_takes_normalised_floats_says_that_it_takes_arrays_only(tiny_engine: Path) -> None:
    folder, engine = find_engine(str(tiny_engine))
    norm = msgspec.structs.replace(engine.normalisation, in_graph=False)
    outside = msgspec.structs.replace(engine, normalisation=norm)
    spec = build_spec(EngineConfig(name=str(tiny_engine)), folder, engine, "fp32")
    assert spec.info("torch", "cpu", tensors="cpu").tensors == "cpu"
    assert msgspec.structs.replace(spec, engine=outside).info("torch", "cpu", tensors="cpu").tensors == ""


def test_an_engine_without_tensors_that_takes_over_gets_the_batch_here(
    engines: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with_tensors, without = engines["torch"], engines["onnx"]
    for loaded in engines.values():
        monkeypatch.setattr(loaded, "close", lambda: None)
    engine = SwitchEngine(with_tensors)
    (before,) = infer(engine, [frame(surface())])
    engine.switch(without)
    (between,) = infer(engine, [frame(surface())])  # was prepared for the one before
    assert isinstance(between.data, np.ndarray)
    np.testing.assert_allclose(before.array, between.array, atol=1e-3)
    assert (before.engine, between.engine) == ("camvid-lite/fp32/torch", "camvid-lite/fp32/onnx")
    after = frame(surface())
    infer(engine, [after])
    assert on_host(after)
    engine.close()


class Says:
    def __init__(self, tensors: Any) -> None:
        _, spec = find_engine("camvid-slim")
        self.info = EngineInfo(
            id="some/fp32/engine",
            spec=spec,
            backend="torch",
            precision="fp32",
            device="cpu",
            threads=1,
            input_size=(360, 480),
            tensors=tensors,
        )


def test_the_log_says_where_pictures_lie_once_and_again_when_that_changes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    wanted: set[str] = set()
    engine: Any = Says("cpu")
    placement = FramePlacement(lambda _: engine, lambda one: one.stream in wanted)
    monkeypatch.setattr("streamseg.inference.infer.why_not_on_gpu", lambda kind: "")
    with caplog.at_level(logging.INFO):
        kept = [frame(surface()) for _ in range(3)]
        for one in kept:
            placement.apply(one)
        wanted.add("gate")
        fetched = frame(surface())
        placement.apply(fetched)
        wanted.clear()
        engine.info = Says("").info
        placement.apply(frame(surface()))
        placement.apply(frame(draw_scene(0.0)[0]))
        placement.apply(frame(draw_scene(0.0)[0], "yard", "none"))
    assert not any(map(on_host, kept))
    assert on_host(fetched)
    assert caplog.messages == [
        "gate: pictures stay on the GPU",
        "gate: pictures are copied to host memory: the CRF or fusion needs them on the host",
        "gate: pictures are copied to host memory: some/fp32/engine reads pictures on the host",
        "gate: pictures are copied to host memory: cuda does not decode this stream, or not to 4:2:0",
    ]


def test_a_decoder_shares_torchs_context_and_leaves_pictures_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """FFmpeg refuses the primary context when torch was there first, so it gets the thread's current one."""
    order: list[str] = []
    monkeypatch.setattr(hardware, "_problem", lambda kind: "")
    monkeypatch.setattr(hardware, "_torch_problem", lambda: "")
    monkeypatch.setattr(hardware, "_make_context_current", lambda: order.append("current"))
    made = hardware.hardware_decoder("cuda")
    assert made is not None
    assert made.is_hw_owned
    assert made.options == {"primary_ctx": "0", "current_ctx": "1"}
    assert order == ["current"]


def test_without_torch_on_cuda_a_decoders_pictures_come_to_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "_problem", lambda kind: "")
    monkeypatch.setattr(hardware, "_torch_problem", lambda: "the torch that is installed has no CUDA")
    made = hardware.hardware_decoder("cuda")
    assert made is not None
    assert not made.is_hw_owned
    assert hardware.why_not_on_gpu("cuda") == "the torch that is installed has no CUDA"


def test_a_picture_brought_here_is_the_one_that_decoding_into_memory_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.unit.test_preprocess_device import left_there, played, write_video

    write_video(tmp_path / "clip.mp4", [draw_scene(t)[0] for t in (0.0, 0.1)], rotation=90)
    here, there = played(tmp_path / "clip.mp4"), left_there(tmp_path / "clip.mp4")
    assert len(here) == len(there) == 2
    for ours, theirs in zip(there, here, strict=True):
        brought: U8 = ours.rgb()
        assert ours.size == brought.shape[:2] == (480, 360)
        np.testing.assert_array_equal(brought, theirs)
