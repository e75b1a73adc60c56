"""What `streamseg bench` prints can be read in a terminal of 80 columns."""

from __future__ import annotations

import pytest

from streamseg.bench.engine import EngineResult, EngineRow
from streamseg.bench.pipeline import PipelineResult
from streamseg.bench.stages import StageTimes
from streamseg.bench.streams import StreamsResult
from streamseg.bench.summary import Machine, Spread
from streamseg.cli.bench import show_engines, show_pipeline, show_streams, streams
from streamseg.errors import ConfigError

MACHINE = Machine(processor="Some Processor With a Name 9654", cores=96, python="3.13.0", versions={})
TIMES = Spread(p50_ms=1234.567, p95_ms=2345.678, p99_ms=3456.789, count=100)
LONGEST = "deeplabv3-mobilenet-v3-large/bf16/tensorrt-rtx"


def _lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if len(line) > 80] == []
    assert "…" not in "".join(lines)
    return lines


def test_engines_fit_into_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        EngineRow(
            engine=name,
            device="cpu",
            threads=2,
            batch=batch,
            input_size=(1080, 1920),
            random_weights=True,
            time=TIMES,
            fps=12345.6,
            agreement=100.0,
            max_difference=1.2e-05,
        )
        for name in (LONGEST, "camvid-slim/fp32/onnx")
        for batch in (1, 128)
    ]
    show_engines(EngineResult(source="demo:", rows=rows, left_out={}, gpu="", machine=MACHINE))
    lines = _lines(capsys)
    assert "deeplabv3-mobilenet-v3-large, 1920x1080, random weights" in lines
    assert "camvid-slim, 1920x1080, random weights" in lines
    assert sum(line.startswith("tensorrt-rtx bf16 ") for line in lines) == 2


def test_the_pipeline_fits_into_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    result = PipelineResult(
        unchanged=0.125,
        sources=["demo:"],
        engine=LONGEST,
        replicas=16,
        realtime=False,
        seconds=15,
        fps=1234.56,
        fps_of_stream={"s0": 1234.56},
        refined=1234,
        lost=123456,
        skipped=123456,
        latency=TIMES,
        stages={"decode": TIMES, "infer": TIMES},
        machine=MACHINE,
    )
    show_pipeline(result)
    assert any(line.startswith("decoded → subscriber ") for line in _lines(capsys))


def test_streams_fit_into_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    result = StreamsResult(
        unchanged=0.125,
        streams=1000,
        held=1000,
        fps_asked=12.5,
        max_age_ms=1250.5,
        engine=LONGEST,
        replicas=16,
        seconds=30,
        masks_per_s=12500.5,
        capacity=1000,
        estimate=1000.5,
        stage_cpu=StageTimes(
            decode=1,
            scale=1,
            network=1,
            labels=1,
            pack=1,
            network_wall=1,
            labels_input=1,
            pack_input=1,
            gate=1,
        ),
        cpu_ms_a_mask=123.45,
        cpu_share=0.987,
        drops={"slow engine": 123456, "too old": 123456},
        stages={"infer": TIMES},
        streams_held=[],
        load=123.4,
        machine=MACHINE,
    )
    show_streams(result)
    assert "1000 of 1000 streams held: at least 90% of 12.5 fps, no mask above 1250.5 ms" in _lines(capsys)


def test_what_is_wrong_with_every_stream_is_said_once() -> None:
    with pytest.raises(ConfigError) as raised:
        streams.main(["--mask-size", "0,5"], standalone_mode=False)
    assert str(raised.value) == (
        "mask_size: must be one of frame, input or a list of 2, each a whole number at least 1, at most "
        "8192; is [0, 5]"
    )
