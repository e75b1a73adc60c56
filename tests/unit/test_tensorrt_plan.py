"""TensorRT-RTX builds our graphs on a machine without a GPU: plans that are whole and ours."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from streamseg.config import EngineConfig, Precision
from streamseg.errors import EngineError
from streamseg.inference.backends import tensorrt as backends
from streamseg.inference.backends.device import Cuda
from streamseg.inference.backends.protocol import BuildSpec, Choice, backend_of, build_spec, usual_shapes
from streamseg.inference.backends.tensorrt.plan import (
    build_plan,
    make_logger,
    open_plan,
    profile_shapes,
    targets,
    unlike,
)
from streamseg.inference.engine import Shapes
from streamseg.inference.plans.build import Build
from streamseg.inference.plans.load import ready_plan
from streamseg.inference.plans.recipe_key import recipe_of
from streamseg.inference.spec import find_engine
from streamseg.models.zoo import NETWORKS
from tests.plans import CLASSES, write_small_engine
from tests.waiting import LIMIT_S

trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed (streamseg[tensorrt-rtx])")
pytest.importorskip("onnx")

from streamseg.inference.backends.tensorrt.graph import plan_graph  # noqa: E402

DYNAMIC = Shapes((1, 32, 32), (4, 64, 96), (8, 128, 128))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CACHE_DIRECTORY", raising=False)


@pytest.fixture
def small(tmp_path: Path) -> Choice:
    return choice(write_small_engine(tmp_path / "small"))


def choice(name: Path | str, precision: Precision = "fp16", **changes: Any) -> Choice:
    """An engine built ahead of time for SM 8.9, batch 1 to 8."""
    folder, engine = find_engine(str(name))
    spec = build_spec(EngineConfig(), folder, engine, precision)
    given = {"target": "sm_89", "shapes": DYNAMIC, **changes}
    return Choice(backend_of("tensorrt-rtx"), msgspec.structs.replace(spec, **given))


def built(wanted: Choice, folder: Path | None = None) -> bytes:
    """The plan that a build in a process of its own wrote."""
    Build(wanted, folder).run()
    if folder is not None:
        (path,) = folder.glob("*.plan")
        return path.read_bytes()
    plan = ready_plan(wanted)
    assert plan is not None
    return plan.path.read_bytes()


def plan_of(spec: BuildSpec) -> bytes:
    return build_plan(trt, plan_graph(spec.graph(), spec.precision), spec.shapes, spec.target)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_every_kind_of_node_builds_in_every_precision(small: Choice, precision: Any) -> None:
    plan = plan_of(msgspec.structs.replace(small.spec, precision=precision))
    assert plan[:4] == b"vtrt"


@pytest.mark.parametrize("target", ["sm_75", "sm_89", "sm_120"])
def test_plans_are_built_for_gpus_that_are_not_here(small: Choice, target: str) -> None:
    assert plan_of(msgspec.structs.replace(small.spec, target=target))


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_the_shipped_engine_builds(precision: Any) -> None:
    spec = choice("camvid-slim", precision, shapes=Shapes((1, 240, 240), (4, 360, 480), (8, 720, 720))).spec
    weights = spec.engine.weights_of(precision)
    size = (Path(spec.folder) / weights.file).stat().st_size
    assert len(plan_of(spec)) > size / 4


def test_another_dilation_is_another_key_and_another_plan(small: Choice, tmp_path: Path) -> None:
    other = choice(write_small_engine(tmp_path / "dilated", dilation=3))
    assert recipe_of(*other).key != recipe_of(*small).key
    assert plan_of(other.spec) != plan_of(small.spec)


def test_a_plan_built_ahead_of_time_is_the_one_that_its_gpu_looks_for(
    small: Choice, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead = recipe_of(*small).key
    monkeypatch.setattr(backends, "cuda_device", lambda: Cuda("NVIDIA L4", "sm_89", "13.0"))
    there = small._replace(spec=msgspec.structs.replace(small.spec, target=""))
    assert recipe_of(*there).key == ahead
    monkeypatch.setattr(backends, "cuda_device", lambda: Cuda("NVIDIA A40", "sm_86", "13.0"))
    assert recipe_of(*there).key != ahead


@pytest.mark.slow
def test_a_corrupted_or_foreign_plan_is_refused_and_built_again(
    small: Choice, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = built(small)
    plan = ready_plan(small)
    assert plan is not None

    damaged = bytearray(whole)
    damaged[len(damaged) // 2] ^= 1
    plan.path.write_bytes(damaged)
    with caplog.at_level(logging.WARNING):
        assert ready_plan(small) is None
    assert "is damaged" in caplog.text
    assert len(built(small)) == len(whole)

    # Ours, put where the plan for another GPU is looked for, manifest and all.
    other = small._replace(spec=msgspec.structs.replace(small.spec, target="sm_75"))
    for path in plan.path.parent.glob(f"{recipe_of(*small).key}.*"):
        shutil.copy(path, path.with_name(path.name.replace(recipe_of(*small).key, recipe_of(*other).key)))
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert ready_plan(other) is None
    assert "is for another network, machine or version" in caplog.text
    built(other)
    again = ready_plan(other)
    assert again is not None
    assert again.manifest.device == "sm_75"
    assert again.manifest.recipe.identity["tensorrt_rtx"] == trt.__version__
    assert again.manifest.agreement is None  # it was not run


@pytest.mark.parametrize("content", [b"", b"foreign" * 1000, b"whole but for its end"])
def test_the_library_refuses_what_is_no_plan_with_its_reason(
    small: Choice, tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "some.plan"
    path.write_bytes(plan_of(small.spec)[:-1000] if content.startswith(b"whole") else content)
    logger = make_logger(trt)
    with pytest.raises(EngineError, match=r"TensorRT refuses some\.plan: .*(?i:serialization|empty)"):
        open_plan(trt, trt.Runtime(logger), logger, path, small.spec)


def test_a_plan_with_other_shapes_classes_or_outputs_is_another_plan(small: Choice) -> None:
    """The deserialised plan is made up, because having a real one takes a GPU."""

    def plan(shapes: Shapes = DYNAMIC, classes: int = CLASSES, dtype: Any = trt.float32) -> Any:
        modes = {"rgb": trt.TensorIOMode.INPUT, "logits": trt.TensorIOMode.OUTPUT}
        return SimpleNamespace(
            num_io_tensors=2,
            get_tensor_name=lambda i: ("logits", "rgb")[i],
            get_tensor_mode=modes.__getitem__,
            get_tensor_dtype=lambda name: trt.uint8 if name == "rgb" else dtype,
            get_tensor_shape=lambda name: (-1, classes, -1, -1),
            get_tensor_profile_shape=lambda name, profile: profile_shapes(shapes),
        )

    assert unlike(trt, plan(), small.spec) == ""
    assert "7 classes" in unlike(trt, plan(classes=7), small.spec)
    assert "takes batches of" in unlike(trt, plan(Shapes((1, 8, 8), (1, 8, 8), (1, 8, 8))), small.spec)
    assert "logits" in unlike(trt, plan(dtype=trt.uint8), small.spec)


def test_a_graph_that_tensorrt_cannot_take_names_the_node(small: Choice) -> None:
    import onnx

    model = onnx.load_from_string(plan_graph(small.spec.graph(), "fp32"))
    next(node for node in model.graph.node if node.op_type == "Relu").op_type = "NoSuchThing"
    with pytest.raises(EngineError, match=r"TensorRT cannot take the graph: .*NoSuchThing"):
        build_plan(trt, model.SerializeToString(), DYNAMIC, "sm_89")


def test_a_gpu_that_is_no_target_is_refused_with_those_that_are(small: Choice) -> None:
    assert "sm_89" in targets(trt)
    assert "sm_90" not in targets(trt)  # H100 and H200
    missing = backend_of("tensorrt-rtx").why_not_build("fp16", "sm_90")
    assert missing is not None
    assert missing.startswith("TensorRT-RTX builds for sm_75")
    with pytest.raises(EngineError, match="not for sm_90"):
        Build(small._replace(spec=msgspec.structs.replace(small.spec, target="sm_90"))).run()


@pytest.mark.slow
def test_the_command_builds_beside_the_engine_for_a_gpu_elsewhere(tmp_path: Path) -> None:
    folder = write_small_engine(tmp_path / "small")
    command = [sys.executable, "-m", "streamseg", "engine", "build", str(folder), "--backend", "tensorrt-rtx"]
    arguments = ["--sm", "89", "--precision", "fp16", "--max-batch", "8", "--beside"]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 0, done.stderr
    (plan,) = (folder / "plans").glob("*.plan")
    assert str(plan) in done.stdout
    manifest = msgspec.json.decode(plan.with_suffix(".json").read_bytes())
    assert manifest["device"] == "sm_89"
    assert manifest["recipe"]["shapes"]["largest"][0] == 8


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_of_the_zoo_builds_at_full_size(name: str, tmp_path: Path) -> None:
    """Prints the table of docs/benchmarks.md with -s: fp16 for SM 8.9, batch 1 to 8, CPU seconds."""
    torch = pytest.importorskip("torch")
    from streamseg.models.export import write_engine

    entry = NETWORKS[name]
    torch.manual_seed(0)
    folder = write_engine(entry.build().eval(), name, tmp_path / name)
    shapes = usual_shapes(entry.input_size, entry.size_multiple, 8)
    shapes = Shapes(shapes.smallest, (4, *shapes.usual[1:]), shapes.largest)
    begun_s = time.process_time()
    plan = plan_of(choice(folder, shapes=shapes).spec)
    print(f"\n| {name} | {time.process_time() - begun_s:.1f} | {len(plan) / 1e6:.1f} |")
    shutil.rmtree(tmp_path)  # half a gigabyte
