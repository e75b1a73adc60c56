"""Backends beside each other on real frames, and the network read back from its ONNX graph."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamseg.bench.engine import bench_engines
from streamseg.config import BackendName, EngineConfig, Precision, StreamConfig
from streamseg.inference.backends.protocol import Engine
from streamseg.inference.hot_swap import SwitchEngine
from streamseg.inference.infer import input_size
from streamseg.inference.plans.verify import agreement_of
from streamseg.inference.preprocess import make_batch
from streamseg.inference.select import load_engine
from streamseg.inference.spec import Shapes
from streamseg.sources import open_source
from streamseg.sources.frames import decode
from streamseg.types import U8
from tests.conftest import SHARED_DATA
from tests.engines import write_tiny_engine
from tools.demo import draw_scene


def missing(name: str) -> bool:
    return importlib.util.find_spec(name) is None


FORMS: list[Any] = [
    pytest.param("onnx", "int8", 98.5, id="onnx int8"),
    *(
        pytest.param(backend, precision, least, id=f"{backend} {precision}", marks=pytest.mark.skipif(
            missing(backend), reason=f"needs the extra {backend}"
        ))
        for backend, precision, least in (
            ("openvino", "fp32", 99.99),
            ("openvino", "bf16", 99.5),
            ("openvino", "int8", 98.5),
            ("torch", "fp32", 99.99),
            ("torch", "bf16", 99.5),
        )
    ),
]  # fmt: skip


@pytest.fixture(scope="module")
def frames() -> list[U8]:
    """Frames of a real video where there is one, else of the drawn street."""
    clips = sorted((SHARED_DATA / "video").glob("*.mp4")) if SHARED_DATA.is_dir() else []
    if not clips:
        return [draw_scene(t)[0] for t in (0.5, 5.0)]
    with open_source(StreamConfig(source=str(clips[0])), "clip") as opened:
        wanted = [frame.rgb for frame, _ in zip(decode(opened, "clip"), range(30), strict=False)]
    return wanted[::20]


@pytest.fixture(scope="module")
def reference() -> Iterator[Engine]:
    engine = load_engine(EngineConfig(backend="onnx"))
    yield engine
    engine.close()


@pytest.mark.parametrize(("backend", "precision", "least"), FORMS)
def test_a_backend_agrees_with_fp32_on_real_frames(
    backend: BackendName,
    precision: Precision,
    least: float,
    frames: list[U8],
    reference: Engine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if precision == "bf16":
        from streamseg.inference.backends.device import cpu_has_bf16

        if not cpu_has_bf16():
            pytest.skip("this processor has no bfloat16 instructions")
    engine = load_engine(EngineConfig(backend=backend, precision=precision))
    size = input_size(engine, (frames[0].shape[0], frames[0].shape[1]))
    batches = [make_batch([frame], size) for frame in frames]
    found = agreement_of([(engine(batch), reference(batch)) for batch in batches])
    engine.close()
    assert found.argmax_percent >= least
    if precision == "fp32":
        assert found.max_difference < 1e-3


def test_agreement_counts_cells_and_finds_what_is_no_number() -> None:
    want = np.zeros((1, 2, 2, 2), np.float32)
    want[:, 1] = 1
    got = want.copy()
    got[0, 0, 0, 0] = 3
    found = agreement_of([(got, want)])
    assert (found.argmax_percent, found.max_difference) == (75.0, 3.0)
    got[0, 0, 0, 0] = np.nan
    assert agreement_of([(got, want)]).argmax_percent == 0
    assert agreement_of([(want[:, :, :1], want)]).argmax_percent == 0


def test_the_table_shows_every_form_and_why_others_are_missing(tiny_engine: Path) -> None:
    result = bench_engines([str(tiny_engine)], "demo:", backends=["onnx"], batches=(1, 2), repeats=5)
    assert [(row.engine, row.batch) for row in result.rows] == [("tiny/fp32/onnx", 1), ("tiny/fp32/onnx", 2)]
    assert {row.agreement for row in result.rows} == {100.0}
    assert set(result.left_out) == {"tiny/fp16/onnx", "tiny/bf16/onnx"}


def test_a_network_without_weights_is_made_once_with_random_ones_and_the_table_says_so(
    tiny_engine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import streamseg.bench.engine as zoo

    made: list[str] = []

    def quickly(name: str, folder: Path) -> Path:
        made.append(name)
        return write_tiny_engine(folder, name=name)

    monkeypatch.setattr(zoo, "random_engine", quickly)
    monkeypatch.setattr(zoo, "torch_missing", lambda: None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("CACHE_DIRECTORY", raising=False)
    names = [str(tiny_engine), "deeplab-v1", "deeplabv3-resnet50"]
    result = bench_engines(
        names, "demo:", backends=["onnx"], precisions=["fp32"], sizes=[(48, 64), (96, 96)], repeats=5
    )
    assert [(row.engine, row.random_weights) for row in result.rows] == [
        (f"{name}/fp32/onnx", random)
        for name, random in (("tiny", False), ("deeplab-v1", True), ("deeplabv3-resnet50", True))
        for _ in range(2)
    ]
    assert len({row.input_size for row in result.rows}) == 2
    assert made == ["deeplab-v1", "deeplabv3-resnet50"]


class _Bounded:
    """A real engine that says it takes only small batches."""

    def __init__(self, engine: Engine, shapes: Shapes) -> None:
        import msgspec

        self._engine = engine
        self.info = msgspec.structs.replace(engine.info, shapes=shapes, id="bounded")

    def __call__(self, batch: U8) -> Any:
        return self._engine(batch)

    def warm_up(self, size: tuple[int, int]) -> float:
        return self._engine.warm_up(size)

    def close(self) -> None:
        self._engine.close()


def test_the_engine_before_takes_what_the_new_one_does_not(tmp_path: Path) -> None:
    folder = write_tiny_engine(tmp_path / "tiny")
    config = EngineConfig(name=str(folder))
    switch = SwitchEngine(load_engine(config))
    small, large = np.zeros((1, 48, 64, 3), np.uint8), np.zeros((1, 96, 64, 3), np.uint8)
    switch(small)
    assert switch.info.id == "tiny/fp32/onnx"
    switch.switch(_Bounded(load_engine(config), Shapes((1, 8, 8), (1, 48, 64), (1, 64, 64))))
    assert switch.info.id == "tiny/fp32/onnx", "nothing changes before the next batch"
    ids = []
    for batch in (small, large, small):
        switch(batch)
        ids.append(switch.info.id)
    assert ids == ["bounded", "tiny/fp32/onnx", "bounded"]
    switch.close()
    switch.close()


def test_an_engine_that_comes_too_late_is_closed(tmp_path: Path) -> None:
    from streamseg.errors import EngineError

    config = EngineConfig(name=str(write_tiny_engine(tmp_path / "tiny")))
    switch, late = SwitchEngine(load_engine(config)), load_engine(config)
    switch.close()
    switch.switch(late)
    with pytest.raises(EngineError, match="is closed"):
        late(np.zeros((1, 48, 64, 3), np.uint8))
