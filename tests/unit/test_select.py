"""Which backend is taken: the best that works for the precision asked for, with reasons for the others."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from streamseg.config import EngineConfig
from streamseg.errors import EngineError
from streamseg.inference.backends.device import cuda_missing
from streamseg.inference.backends.protocol import backend_of
from streamseg.inference.backends.select import LIMIT, ORDER, choices, fallback
from streamseg.inference.plans.load import load_engine

no_gpu = pytest.mark.skipif(cuda_missing() is None, reason="there is a GPU here")


def test_without_extras_the_default_is_onnx_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.delenv(LIMIT)
    for precision in ("fp32", "int8"):
        found = choices(EngineConfig(precision=precision))  # type: ignore[arg-type]
        assert [c.backend.name for c in found if c.backend.device == "cpu"] == ["onnx"]


@no_gpu
def test_why_the_better_ones_were_passed_over_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.delenv(LIMIT)
    with caplog.at_level(logging.INFO):
        choices(EngineConfig())
    told = "\n".join(caplog.messages)
    for name in ("tensorrt", "tensorrt-rtx", "aoti", "torch"):
        assert name in told
    assert "no NVIDIA driver" in told
    assert "pip install 'streamseg[openvino]'" in told


def test_a_backend_that_is_asked_for_is_the_only_choice(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert {c.backend.name for c in choices(EngineConfig(backend="onnx"))} == {"onnx"}
    assert not caplog.messages


@no_gpu
@pytest.mark.parametrize(
    ("backend", "precision", "why"),
    [
        ("onnx", "bf16", "runs fp32 and int8 on a CPU, not bf16"),
        ("openvino", "fp16", "not fp16"),
        ("torch", "int8", "not int8"),
        ("tensorrt", "fp16", "tensorrt: "),
        ("auto", "fp16", "no NVIDIA driver"),
    ],
)
def test_a_precision_that_a_backend_does_not_run_is_named(
    monkeypatch: pytest.MonkeyPatch, backend: str, precision: str, why: str
) -> None:
    monkeypatch.delenv(LIMIT)
    with pytest.raises(EngineError, match="no backend can run it") as caught:
        choices(EngineConfig(backend=backend, precision=precision))  # type: ignore[arg-type]
    assert why in str(caught.value)


def test_int8_without_its_weights_says_how_to_make_them(tiny_engine: Path) -> None:
    with pytest.raises(EngineError, match="streamseg engine quantise"):
        load_engine(EngineConfig(name=str(tiny_engine), precision="int8"))


def test_auto_can_be_kept_to_some_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LIMIT, "onnx")
    assert {c.backend.name for c in choices(EngineConfig())} == {"onnx"}


def test_what_builds_nothing_stands_in_and_onnx_in_another_precision_where_nothing_does() -> None:
    config = EngineConfig(precision="bf16", backend="openvino")
    ready = fallback(config, [])
    assert ready is not None
    assert (ready.backend.name, ready.spec.precision) == ("onnx", "fp32")


def test_every_backend_of_the_table_can_be_asked_without_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name in {name for name, _ in ORDER}:
        backend = backend_of(name)
        assert backend.name == name
        for precision in ("fp32", "fp16", "bf16", "int8"):
            reason = backend.why_not(precision)  # type: ignore[arg-type]
            assert reason is None or "\n" not in reason
