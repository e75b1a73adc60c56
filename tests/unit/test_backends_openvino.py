"""OpenVINO's threads: engines side by side do not fight for one core."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import pytest

from streamseg.config import EngineConfig
from streamseg.inference.backends.select import choices
from streamseg.inference.plans.load import load_engine
from streamseg.inference.plans.recipe_key import recipe_of

pytest.importorskip("openvino", reason="needs the extra openvino")

CORES = len(os.sched_getaffinity(0))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CACHE_DIRECTORY", raising=False)


@pytest.mark.parametrize("threads", sorted({1, CORES}))
def test_only_an_engine_that_has_every_core_is_tied_to_cores(tiny_engine: Path, threads: int) -> None:
    config = EngineConfig(name=str(tiny_engine), backend="openvino", threads=threads)
    with closing(load_engine(config)) as engine:
        compiled = engine._request.get_compiled_model()  # type: ignore[attr-defined]
        assert compiled.get_property("ENABLE_CPU_PINNING") == (threads == CORES)
        assert compiled.get_property("INFERENCE_NUM_THREADS") == threads


def test_a_plan_for_all_cores_is_another_where_there_are_more(
    tiny_engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choice = choices(EngineConfig(name=str(tiny_engine), backend="openvino", threads=2))[0]
    keys = []
    for cores in (2, 4):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: set(range(cores)))
        keys.append(recipe_of(*choice).key)
    assert keys[0] != keys[1]
