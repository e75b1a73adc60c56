"""Backends agree with fp32 on real frames, and agreement is measured right."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamseg.config import BackendName, EngineConfig, Precision, StreamConfig
from streamseg.inference.backends.device import cpu_has_bf16, int8_saturates
from streamseg.inference.engine import Engine
from streamseg.inference.infer import input_size
from streamseg.inference.plans.load import load_engine
from streamseg.inference.plans.verify import agreement_of
from streamseg.inference.scaling import make_batch
from streamseg.sources import open_source
from streamseg.sources.frames import decode
from streamseg.types import U8
from tests.conftest import SHARED_DATA
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
    engine = load_engine(EngineConfig(backend="onnx", precision="fp32"))
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
    if precision == "bf16" and not cpu_has_bf16():
        pytest.skip("this processor has no bfloat16 instructions")
    if (backend, precision) == ("openvino", "int8") and int8_saturates():
        pytest.skip("OpenVINO's sums of int8 overflow on this processor")
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
