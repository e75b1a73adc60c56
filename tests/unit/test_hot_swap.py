"""An engine is replaced between two batches, and the one before takes what the new one does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from streamseg.config import EngineConfig
from streamseg.errors import EngineError
from streamseg.inference.engine import Engine, Shapes
from streamseg.inference.plans.hot_swap import SwitchEngine
from streamseg.inference.plans.load import load_engine
from streamseg.types import U8
from tests.engines import write_tiny_engine


class _Bounded:
    """A real engine that says it takes only small batches."""

    def __init__(self, engine: Engine, shapes: Shapes) -> None:
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
    config = EngineConfig(name=str(write_tiny_engine(tmp_path / "tiny")))
    switch, late = SwitchEngine(load_engine(config)), load_engine(config)
    switch.close()
    switch.switch(late)
    with pytest.raises(EngineError, match="is closed"):
        late(np.zeros((1, 48, 64, 3), np.uint8))
