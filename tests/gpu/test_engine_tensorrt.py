"""Plans on a GPU: built, agreeing with fp32, fed from the GPU, refused if damaged. Not run on hardware."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from streamseg.config import EngineConfig
from streamseg.errors import EngineError
from streamseg.inference.backends.device import Cuda, cuda_device
from streamseg.inference.backends.protocol import BuildSpec, backend_of, build_spec
from streamseg.inference.plans.verify import check_agreement, reference_engine
from streamseg.inference.scaling import make_batch
from streamseg.inference.spec import find_engine
from streamseg.types import U8
from tools.demo import draw_scene

torch = pytest.importorskip("torch")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
SIZE = (360, 480)


@pytest.fixture(params=["tensorrt", "tensorrt-rtx"])
def backend(request: pytest.FixtureRequest) -> Any:
    found = backend_of(request.param)
    if reason := found.why_not("fp16"):
        pytest.skip(reason)
    return found


def spec_of(precision: Any = "fp16", **changes: Any) -> BuildSpec:
    folder, engine = find_engine("camvid-slim")
    return msgspec.structs.replace(build_spec(EngineConfig(), folder, engine, precision), **changes)


def loaded(backend: Any, spec: BuildSpec, folder: Path) -> Any:
    backend.build(spec, folder / "a.plan", print)
    return backend.load(spec, folder / "a.plan")


def pictures(count: int = 1) -> U8:
    return make_batch([draw_scene(float(t))[0] for t in range(count)], SIZE)


@pytest.mark.parametrize(("precision", "percent"), [("fp32", 99.9), ("fp16", 99), ("bf16", 98), ("int8", 95)])
def test_a_plan_agrees_with_fp32(backend: Any, precision: Any, percent: float, tmp_path: Path) -> None:
    engine = loaded(backend, spec_of(precision), tmp_path)
    assert check_agreement(engine, spec_of(precision)).argmax_percent > percent
    engine.close()


def test_every_batch_and_shape_between_smallest_and_largest_runs(backend: Any, tmp_path: Path) -> None:
    engine, reference = loaded(backend, spec_of("fp32"), tmp_path), reference_engine(spec_of())
    for count in (4, 1, 3, 1):
        for size in (SIZE, (240, 480), SIZE):
            batch = make_batch(list(pictures(count)), size)
            got, want = engine(batch), reference(batch)
            assert np.mean(got.argmax(1) == want.argmax(1)) > 0.99
    engine.close()


def test_a_picture_on_the_gpu_gives_what_it_gives_from_here(backend: Any, tmp_path: Path) -> None:
    engine = loaded(backend, spec_of(), tmp_path)
    here = engine(pictures(2))
    np.testing.assert_array_equal(engine(torch.from_numpy(pictures(2)).cuda()), here)
    engine.close()


def test_a_damaged_plan_and_one_of_another_shape_are_refused(backend: Any, tmp_path: Path) -> None:
    spec = spec_of()
    path = tmp_path / "a.plan"
    backend.build(spec, path, print)
    other = msgspec.structs.replace(spec.shapes, largest=(2, 720, 720))
    with pytest.raises(EngineError, match="takes batches of"):
        backend.load(msgspec.structs.replace(spec, shapes=other), path)
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(EngineError, match="refuses"):
        backend.load(spec, path)


def test_what_tensorrt_rtx_does_on_a_gpu_that_it_does_not_list(tmp_path: Path) -> None:
    """For H100 and H200, to be told: prints whether a plan for the GPU at hand can be built."""
    pytest.importorskip("tensorrt_rtx")
    found = cuda_device()
    assert isinstance(found, Cuda)
    if backend_of("tensorrt-rtx").why_not("fp16") is None:
        pytest.skip(f"{found.name} is a target")
    try:
        loaded(backend_of("tensorrt-rtx"), spec_of(), tmp_path).close()
        print(f"{found.name}: built and loaded, though it is no target")
    except EngineError as error:
        print(f"{found.name}: {error}")
