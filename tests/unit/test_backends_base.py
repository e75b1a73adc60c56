"""What all engines do alike: errors of one line that name the engine, closing twice, normalising."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from streamseg.config import EngineConfig
from streamseg.errors import EngineError
from streamseg.inference.backends.base import BaseEngine, library_errors
from streamseg.inference.backends.protocol import BuildSpec, build_spec
from streamseg.inference.spec import Normalisation, find_engine
from streamseg.types import F32, U8

BATCH = np.full((1, 8, 16, 3), 30, np.uint8)


class Recording(BaseEngine):
    """Keeps what it is fed; raises what it is given."""

    def __init__(self, spec: BuildSpec, error: Exception | None = None) -> None:
        super().__init__(spec, spec.info("onnx", "cpu"))
        self.error = error
        self.fed: list[U8 | F32] = []
        self.released = 0

    def _run(self, feed: U8 | F32) -> F32:
        if self.error is not None:
            raise self.error
        self.fed.append(feed)
        return np.zeros((1, 4, 2, 4), np.float32)

    def _release(self) -> None:
        self.released += 1


@pytest.fixture
def spec(tiny_engine: Path) -> BuildSpec:
    folder, engine = find_engine(str(tiny_engine))
    return build_spec(EngineConfig(name=str(tiny_engine)), folder, engine, "fp32")


def test_a_librarys_error_becomes_one_line_with_the_engine_and_the_batch(spec: BuildSpec) -> None:
    engine = Recording(spec, ValueError("wrong\n  shape"))
    with pytest.raises(
        EngineError, match=r"^engine tiny/fp32/onnx: failed on a batch of \(1, 8, 16, 3\): "
    ) as got:
        engine(BATCH)
    assert str(got.value).endswith("wrong shape")
    with pytest.raises(EngineError, match=r"^it cannot load: wrong shape$"), library_errors("it cannot load"):
        raise ValueError("wrong\nshape")


def test_memory_errors_and_our_own_are_left_as_they_are(spec: BuildSpec) -> None:
    for error in (MemoryError("all of it"), EngineError("known")):
        with pytest.raises(type(error)) as got:
            Recording(spec, error)(BATCH)
        assert got.value is error


def test_a_closed_engine_refuses_batches_and_may_be_closed_again(spec: BuildSpec) -> None:
    engine = Recording(spec)
    engine.close()
    engine.close()
    assert engine.released == 1
    with pytest.raises(EngineError, match="is closed"):
        engine.warm_up((8, 16))


def test_a_graph_that_does_not_normalise_gets_normalised_planes(spec: BuildSpec) -> None:
    inside = Recording(spec)
    inside(BATCH)
    assert inside.fed[0] is BATCH
    norm = Normalisation(mean=(10.0, 20.0, 30.0), std=(2.0, 5.0, 1.0), in_graph=False)
    engine = msgspec.structs.replace(spec.engine, normalisation=norm)
    outside = Recording(msgspec.structs.replace(spec, engine=engine))
    outside(BATCH)
    (fed,) = outside.fed
    assert (fed.dtype, fed.shape) == (np.float32, (1, 3, 8, 16))
    assert fed[0, :, 0, 0].tolist() == [10.0, 2.0, 0.0]
