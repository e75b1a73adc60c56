"""Engines alike, one for each replica: all of them, or none, and a good plan is kept."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from streamseg.config import EngineConfig
from streamseg.errors import EngineError
from streamseg.inference.backends.protocol import Choice
from streamseg.inference.backends.select import choices
from streamseg.inference.plans import load
from streamseg.inference.plans.load import load_replicas


class OnceOnly:
    """A backend whose plan fits into memory once."""

    name, suffix = "once", ".plan"

    def load(self, spec: object, artifact: Path | None) -> Any:
        assert artifact is not None
        raise EngineError("no room for another one")


class First:
    def __init__(self) -> None:
        self.closed = False

    def close(self) -> None:
        self.closed = True


def test_a_lane_that_cannot_be_loaded_closes_the_others_and_leaves_their_plan(
    tmp_path: Path, tiny_engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = tmp_path / "good.plan"
    plan.write_bytes(b"good")
    monkeypatch.setattr(load, "ready_plan", lambda choice: SimpleNamespace(path=plan))
    spec = choices(EngineConfig(name=str(tiny_engine), backend="onnx"))[0].spec
    first: Any = First()
    with pytest.raises(EngineError, match="no room for another one"):
        load_replicas(2, Choice(OnceOnly(), spec), first)  # type: ignore[arg-type]
    assert first.closed
    assert plan.read_bytes() == b"good"


def test_as_many_engines_as_replicas(tiny_engine: Path) -> None:
    (choice,) = choices(EngineConfig(name=str(tiny_engine), backend="onnx"))
    engines = load_replicas(3, choice, choice.backend.load(choice.spec, None))
    assert len({id(engine) for engine in engines}) == 3
    load.close_all(engines)
