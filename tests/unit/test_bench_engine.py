"""The table of engines: every form, why others are missing, and networks without weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamseg.bench.engine import bench_engines
from tests.engines import write_tiny_engine


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
