"""precision = "auto": the fastest form that agrees with fp32 here, and why."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from streamseg.config import EngineConfig
from streamseg.errors import EngineError
from streamseg.inference.backends import device, select
from streamseg.inference.backends.protocol import Choice, backend_of
from streamseg.inference.backends.select import choices
from streamseg.inference.engine import Engine
from streamseg.inference.plans import hot_swap
from streamseg.inference.plans import proof as proofs
from streamseg.inference.plans.cache import Agreement
from streamseg.inference.plans.hot_swap import Upgrade, start_engines
from streamseg.inference.plans.load import close_all, load_choice, load_engine, proof_of
from streamseg.inference.plans.proof import Proof, form_of, kept_proof
from streamseg.inference.plans.verify import Cost, Measured
from tests.engines import write_two_forms

VNNI: tuple[str, ...] = ("avx2", "avx512_vnni")
AUTO = EngineConfig(threads=1)


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(proofs, "_made", {})
    return tmp_path / "cache" / "streamseg"


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def has(*features: str) -> None:
        monkeypatch.setattr(device, "cpu_features", lambda: features)

    has(*VNNI)
    return has


def measured(percent: float = 99.0, ms: float = 5.0, *, cpu_ms: float = 0, onnx_ms: float = 0) -> Measured:
    agreement = Agreement(pictures=3, argmax_percent=percent, max_difference=1.0, mean_difference=0.1)
    onnx = Cost(onnx_ms, 2 * onnx_ms) if onnx_ms else None
    return Measured(agreement=agreement, cost=Cost(ms, cpu_ms or 2 * ms), fp32=Cost(10.0, 20.0), onnx=onnx)


def forms(config: EngineConfig) -> list[str]:
    return [one.engine_id.partition("/")[2] for one in choices(config)]


@pytest.mark.parametrize("features", [VNNI, ("avx2",)])
def test_int8_comes_first_on_a_cpu(
    tmp_path: Path, processor: Callable[..., None], features: tuple[str, ...]
) -> None:
    processor(*features)
    assert forms(EngineConfig(name=str(write_two_forms(tmp_path / "tiny")))) == ["int8/onnx", "fp32/onnx"]


@pytest.mark.usefixtures("processor")
def test_an_engine_without_an_int8_form_says_what_makes_it(
    tiny_engine: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        assert forms(EngineConfig(name=str(tiny_engine))) == ["fp32/onnx"]
    assert caplog.messages == [
        "engine tiny: skipped: int8: this engine has no such form; streamseg engine quantise makes it"
    ]


def test_bf16_is_tried_where_the_processor_has_it(
    processor: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tiny_engine: Path
) -> None:
    processor("avx2", "avx512_bf16")
    monkeypatch.setenv(select.LIMIT, "torch,onnx")
    assert forms(EngineConfig(name=str(tiny_engine)))[-2:] == ["fp32/onnx", "fp32/torch"]
    if "torch" in [one.backend.name for one in choices(EngineConfig(name=str(tiny_engine)))]:
        assert forms(EngineConfig(name=str(tiny_engine)))[0] == "bf16/torch"


@pytest.mark.usefixtures("processor")
def test_a_backend_that_is_asked_for_runs_what_it_can(tiny_engine: Path) -> None:
    for backend in ("onnx", "torch", "aoti"):
        try:
            found = [
                one.engine_id
                for one in choices(EngineConfig(name=str(tiny_engine), backend=backend))  # type: ignore[arg-type]
            ]
        except EngineError as error:
            found = [str(error)]
        assert found == [f"tiny/fp32/{backend}"] or "NVIDIA" not in found[0], "it runs on a CPU, too"


@pytest.mark.parametrize(
    ("sm", "precisions"), [("sm_89", ["bf16", "fp16", "fp32"]), ("sm_75", ["fp16", "fp32"])]
)
def test_a_gpu_runs_bf16_where_it_has_it(
    sm: str, precisions: list[str], monkeypatch: pytest.MonkeyPatch, tiny_engine: Path
) -> None:
    class OnGpu:
        name, suffix, device, precisions = "torch", "", "cuda", ("fp32", "fp16", "bf16")

        def why_not(self, precision: str) -> None:
            return None

    monkeypatch.setenv(select.LIMIT, "torch")
    monkeypatch.setattr(select, "cuda_missing", lambda: None)
    monkeypatch.setattr(select, "cuda_device", lambda: device.Cuda("a GPU", sm, "13.0"))
    monkeypatch.setattr(select, "backend_of", lambda name: OnGpu())
    assert [one.spec.precision for one in choices(EngineConfig(name=str(tiny_engine)))] == precisions


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        (measured(), ""),
        (measured(97.9), "97.9 % of its labels are as in fp32, below 98 %"),
        (measured(ms=12.0), "slower here than fp32 (12.0 ms, 10.0 ms)"),
        (measured(ms=10.5), ""),
        (measured(ms=12.0, cpu_ms=15.0), ""),  # the machine was busy
        (measured(onnx_ms=4.0), "slower here than ONNX Runtime (5.0 ms, 4.0 ms)"),
        (measured(onnx_ms=4.8), ""),
    ],
)
def test_a_form_is_taken_when_it_agrees_and_is_no_slower(found: Measured, problem: str) -> None:
    form = form_of(choices(AUTO)[0])
    assert Proof(form=form, measured=found).problem == problem


@pytest.mark.usefixtures("own_cache")
def test_the_default_engine_runs_in_int8_and_says_why(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        engine = load_engine(AUTO)
    engine.close()
    assert engine.info.id == "camvid-lite/int8/onnx"
    line = next(m for m in caplog.messages if m.startswith("engine camvid-lite/int8/onnx: "))
    assert "of its labels are as in fp32, and a picture took" in line


@pytest.mark.usefixtures("processor")
def test_a_damaged_int8_gives_way_to_fp32_and_is_looked_at_once(
    tmp_path: Path, own_cache: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = EngineConfig(name=str(write_two_forms(tmp_path / "tiny", gain=-1)), threads=1)
    with caplog.at_level(logging.INFO):
        engine = load_engine(config)
    engine.close()
    assert engine.info.precision == "fp32"
    assert any(
        m.startswith("engine tiny/int8/onnx: skipped: ") and "of its labels are as in fp32, below 98 %" in m
        for m in caplog.messages
    )
    monkeypatch.setattr(proofs, "_made", {})  # as in another process
    monkeypatch.setattr("streamseg.inference.plans.load.Build", None)
    load_engine(config).close()
    assert len(list((own_cache / "proofs").iterdir())) == 1


@pytest.mark.usefixtures("processor")
def test_a_start_that_cannot_wait_serves_fp32_and_exchanges_it(tmp_path: Path, own_cache: Path) -> None:
    config = EngineConfig(name=str(write_two_forms(tmp_path / "tiny")), threads=1)
    engines, better = start_engines(config, wait_s=0)
    assert [one.engine_id for one in better] == ["tiny/int8/onnx"]
    told: list[tuple[str, str, str]] = []
    upgrade = Upgrade(config, better, engines, lambda state, text, info: told.append((state, text, info.id)))
    upgrade.start()
    upgrade._thread.join()
    assert told[0] == ("fallback", "tiny/int8/onnx is being compared with fp32", "tiny/fp32/onnx")
    proof = kept_proof(better[0])
    assert proof is not None
    if proof.problem:  # the two graphs are as fast as each other, which a busy machine may hide
        assert told[-1][0] == "running"
        assert "is skipped: slower here" in told[-1][1]
    else:
        upgrade.engines[0](np.zeros((1, 48, 64, 3), np.uint8))
        assert told[-1] == ("running", "", "tiny/int8/onnx")
        assert upgrade.engines[0].info.id == "tiny/int8/onnx"
    close_all(upgrade.engines)


@pytest.mark.usefixtures("processor", "own_cache")
def test_a_form_that_cannot_be_loaded_does_not_stand_in_for_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = EngineConfig(name=str(write_two_forms(tmp_path / "tiny")), threads=1)
    int8, fp32 = choices(config)
    broken = int8._replace(backend=backend_of("torch"))  # which has no plans
    good = Proof(form=form_of(broken), measured=measured())

    def load(choice: Choice) -> Engine:
        if choice.engine_id == broken.engine_id:
            raise EngineError("its library is damaged")
        return load_choice(choice)

    monkeypatch.setattr(hot_swap, "choices", lambda _: [broken, int8, fp32])
    monkeypatch.setattr(hot_swap, "load_choice", load)
    monkeypatch.setattr(
        hot_swap, "kept_proof", lambda choice: good if choice.engine_id == broken.engine_id else None
    )
    engines, better = start_engines(config, wait_s=0)
    close_all(engines)
    assert engines[0].info.id == fp32.engine_id
    assert [one.engine_id for one in better] == [int8.engine_id]


@pytest.mark.usefixtures("processor", "own_cache")
def test_a_proof_serves_every_number_of_threads_but_no_other_weights(tmp_path: Path) -> None:
    config = EngineConfig(name=str(write_two_forms(tmp_path / "tiny")), threads=1)
    (choice, _), (wider, _) = choices(config), choices(EngineConfig(name=config.name, threads=2))
    assert form_of(choice) == form_of(wider)
    proof_of(choice)
    assert kept_proof(wider) is not None
    other, _ = choices(EngineConfig(name=str(write_two_forms(tmp_path / "other", gain=1)), threads=1))
    assert kept_proof(other) is None


@pytest.mark.usefixtures("processor")
def test_a_cache_that_cannot_be_written_costs_a_comparison_at_each_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    monkeypatch.setattr(proofs, "_made", {})
    with caplog.at_level(logging.INFO):
        proof = proof_of(choices(EngineConfig(name=str(write_two_forms(tmp_path / "tiny")), threads=1))[0])
    assert proof.measured.agreement.argmax_percent == 100
    assert any("compared with fp32 anew at each start" in m for m in caplog.messages)
