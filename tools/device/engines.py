"""Stages engines, knobs and aoti: networks alone, and what would make them faster."""

from __future__ import annotations

import contextlib
import functools
import glob
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamseg.runtime.cuda_graphs import record
from tools.device.common import (
    DRY,
    ENGINES,
    PARTS,
    Part,
    device,
    gpu_ms,
    graph_of,
    load,
    pictures,
    small,
    top_kernels,
    wall_ms,
)

if TYPE_CHECKING:
    from torch import Tensor

    from streamseg.config import Precision
    from streamseg.types import F32, Size

PEAK = 790.0  # TFLOP/s of a bf16 product; facts measures it
GFLOP_513 = {"deeplab-v1-largefov": 257.2, "deeplab-v2-resnet101": 377.8}
GFLOP_321 = {"deeplab-v1-largefov": 101.8}
GFLOP_SLIM = 5.8  # camvid-slim at 480x360


def prep(name: str) -> None:
    """Make an engine of a network with random weights; in its own process, beside the first stages."""
    from streamseg.bench.engine import random_engine

    folder = ENGINES / name
    begun = time.monotonic()
    if DRY:
        from streamseg.models.export import write_engine
        from tests.narrow import narrow_network

        folder.mkdir(parents=True, exist_ok=True)
        write_engine(narrow_network(name, classes=21), name, folder)
    else:
        random_engine(name, folder)
    (ENGINES / f"{name}.done").write_text(f"{time.monotonic() - begun:.1f}")


def cases() -> list[tuple[str, Size, tuple[int, ...], tuple[Precision, ...], float]]:
    """(engine, input, batches, precisions, GFLOP a frame), the most wanted first."""
    largefov, resnet = "deeplab-v1-largefov", "deeplab-v2-resnet101"
    if DRY:
        return [
            ("camvid-slim", (96, 128), (1, 2), ("fp32", "bf16"), 0.4),
            (largefov, (64, 64), (1,), ("bf16",), 0.1),
        ]
    return [
        ("camvid-slim", (360, 480), (1, 8, 32), ("bf16", "fp16", "fp32"), GFLOP_SLIM),
        (largefov, (504, 504), (1, 8, 32), ("bf16", "fp16"), GFLOP_513[largefov]),
        (largefov, (312, 312), (1, 8), ("bf16",), GFLOP_321[largefov]),
        (resnet, (512, 512), (1, 8), ("bf16", "fp16"), GFLOP_513[resnet]),
        (largefov, (504, 504), (1,), ("fp32",), GFLOP_513[largefov]),
    ]


@functools.cache
def _peak() -> float:
    with contextlib.suppress(OSError, ValueError, KeyError):
        return float(json.loads((PARTS / "facts.json").read_text())["matmul_bf16_TFLOP_s"])
    return PEAK


def engines(part: Part) -> None:
    import numpy as np
    import torch

    references: dict[tuple[str, Size], F32] = {}
    for name, size, batches, precisions, gflop in cases():
        for precision in precisions:
            with part.step(f"{name} {precision}"):
                engine = load(name, precision, size)
                for count in batches:
                    batch = pictures(count, size)
                    if not DRY:
                        torch.cuda.reset_peak_memory_stats()
                    begun = time.perf_counter()
                    logits = engine(batch)
                    first_s = time.perf_counter() - begun
                    again = engine(batch)
                    row: dict[str, Any] = {
                        "engine": f"{name}/{precision}",
                        "input": f"{size[1]}x{size[0]}",
                        "batch": count,
                    }
                    row["call_ms"] = wall_ms(lambda: engine(batch), small(40))
                    row["frames_s"] = round(1000 * count / row["call_ms"], 1)
                    on_gpu = torch.from_numpy(batch).to(device())
                    row["on_device_ms"] = wall_ms(lambda: engine.on_device(on_gpu), small(40))
                    row["gpu_ms"] = gpu_ms(graph_of(engine, batch), small(40))
                    row["gpu_frames_s"] = round(1000 * count / row["gpu_ms"], 1)
                    row["TFLOP_s"] = round(gflop * count / row["gpu_ms"], 1)
                    row["of_peak_percent"] = round(100 * row["TFLOP_s"] / _peak(), 1)
                    row["memory_MiB"] = 0 if DRY else torch.cuda.max_memory_allocated() >> 20
                    row["first_call_s"] = round(first_s, 2)
                    row["same_twice"] = bool(np.array_equal(logits, again))
                    if count == 1:  # ONNX Runtime on the CPU, which takes a while for more
                        key = (name, size)
                        if key not in references:
                            with contextlib.closing(load(name, "fp32", size, "onnx")) as reference:
                                references[key] = reference(batch)
                        want = references[key]
                        row["relative_error"] = float(
                            f"{np.linalg.norm(logits - want) / np.linalg.norm(want):.3g}"
                        )
                        row["argmax_percent"] = round(
                            100 * float(np.mean(logits.argmax(1) == want.argmax(1))), 2
                        )
                    part.add("engines", row)
                engine.close()


def knobs(part: Part) -> None:
    """LargeFOV in bf16, eight frames: what is slow, and what each change would gain."""
    import torch

    name, size, count = "deeplab-v1-largefov", ((64, 64) if DRY else (504, 504)), small(8)
    batch = pictures(count, size)
    with part.step("batches of changing size"):
        engine = load("camvid-slim", "bf16", (96, 128) if DRY else (360, 480))
        frames = pictures(small(16, 4), (96, 128) if DRY else (360, 480))
        import random

        order = [random.Random(1).randint(1, len(frames)) for _ in range(small(64, 4))]
        begun = time.perf_counter()
        for length in order:
            engine(frames[:length])
        took = time.perf_counter() - begun
        alone = wall_ms(lambda: engine(frames[: max(1, len(frames) // 2)]), small(20)) / 1000
        row = {
            "calls": len(order),
            "seconds": round(took, 2),
            "ms_a_call": round(1000 * took / len(order), 2),
        }
        part.put("changing_batches", {**row, "ms_of_a_recorded_one": round(1000 * alone, 2)})
        engine.close()
    with part.step("LargeFOV"):
        engine = load(name, "bf16", size)
        engine(batch)
        module, on_gpu = engine._module, torch.from_numpy(batch).to(device())
        rows = {}

        def recorded(run: Callable[[Tensor], Tensor]) -> float:
            with torch.inference_mode():
                return gpu_ms(record(lambda: run(on_gpu), torch.cuda.Stream()).replay, 30)

        rows["as it is"] = recorded(module)
        part.put("largefov_ms", dict(rows))
        with part.step("bias and relu in cuDNN"), _fused_relu(module):
            rows["bias and relu in cuDNN"] = recorded(module)
            part.put("largefov_ms", dict(rows))
        with part.step("all of cuDNN's kernels tried"):
            before = torch.backends.cudnn.benchmark_limit
            torch.backends.cudnn.benchmark_limit = 0
            other = load(name, "bf16", size)
            rows["all of cuDNN's kernels tried"] = recorded(other._module)
            torch.backends.cudnn.benchmark_limit = before
            part.put("largefov_ms", dict(rows))
        with part.step("planar memory"):
            plain = other._module.to(memory_format=torch.contiguous_format)
            rows["planar memory"] = recorded(plain)
            part.put("largefov_ms", dict(rows))
        with torch.inference_mode():
            part.put("largefov_kernels", top_kernels(lambda: module(on_gpu), 16))
    with part.step("camvid-slim's kernels"):
        slim = load("camvid-slim", "bf16", (96, 128) if DRY else (360, 480))
        few = torch.from_numpy(pictures(small(8), (96, 128) if DRY else (360, 480))).to(device())
        with torch.inference_mode():
            part.put("slim_kernels", top_kernels(lambda: slim._module(few)))
    with part.step("labels of 1080p on the GPU"):
        from streamseg.inference.upsample_device import TensorLogits

        for classes in (11, 21):
            kept = TensorLogits(torch.randn(classes, 90, 120, device=device()))
            part.put(f"labels_1080p_{classes}_ms", wall_ms(lambda: kept.labels((1080, 1920)), small(20)))


@contextlib.contextmanager
def _fused_relu(module: Any) -> Iterator[None]:
    """Each Conv whose one user is a Relu as one call of cuDNN, with bias and relu in it."""
    import torch

    from streamseg.inference.backends import torch_layers, torch_operations

    steps, done = list(module._steps), list(module._done_after)
    users: dict[str, int] = {}
    for _, inputs, _, _ in steps:
        for name in inputs:
            users[name] = users.get(name, 0) + 1
    relu_of = {inputs[0]: (at, outputs[0]) for at, (run, inputs, outputs, _) in enumerate(steps)
               if run is torch_operations.OPERATIONS["Relu"] and users[inputs[0]] == 1}  # fmt: skip

    def fused(at: dict[str, Any], x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        top, left, bottom, right = at.get("pads", [0, 0, 0, 0])
        if (top, left) != (bottom, right):
            x = torch.nn.functional.pad(x, (left, right, top, bottom))
            top = left = 0
            at = {**at, "pads": [0, 0, 0, 0]}
        x = x.to(weight.dtype)
        if not x.is_cuda:
            return torch.relu(torch_layers.conv(at, x, weight, bias))
        return torch.cudnn_convolution_relu(
            x,
            weight,
            bias,
            at.get("strides", [1, 1]),
            (top, left),
            at.get("dilations", [1, 1]),
            at.get("group", 1),
        )

    made, skipped = [], set()
    for at, (run, inputs, outputs, attributes) in enumerate(steps):
        if at in skipped:
            continue
        if run is torch_layers.conv and outputs[0] in relu_of and len(inputs) > 2:
            then, name = relu_of[outputs[0]]
            skipped.add(then)
            run, outputs = fused, [name]
        made.append((run, inputs, outputs, attributes))
    last = {name: at for at, step in enumerate(made) for name in step[1]}
    module._steps = made
    module._done_after = [[name for name in step[1] if last[name] == at] for at, step in enumerate(made)]
    try:
        yield
    finally:
        module._steps, module._done_after = steps, done


def aoti_build(name: str) -> None:
    """In its own process, beside the tests: it takes a minute or more."""
    size = (96, 128) if DRY else ((360, 480) if name == "camvid-slim" else (504, 504))
    log = PARTS / f"aoti-{name}.txt"
    begun = time.monotonic()
    try:
        load(name, "fp32" if DRY else "bf16", size, "aoti", 8).close()
        log.write_text(f"built in {time.monotonic() - begun:.1f} s")
    except Exception as error:  # noqa: BLE001
        log.write_text(f"failed after {time.monotonic() - begun:.1f} s: {' '.join(str(error).split())[:600]}")


def aoti(part: Part) -> None:
    import torch

    for name in ("camvid-slim", "deeplab-v1-largefov")[: 1 if DRY else None]:
        log = PARTS / f"aoti-{name}.txt"
        until = time.monotonic() + (400 if DRY else 60)
        while not log.exists() and time.monotonic() < until:
            time.sleep(0.5)
        text = log.read_text() if log.exists() else "still building"
        part.put(f"build {name}", text)
        if not text.startswith("built"):
            part.add("failed", {"what": f"build {name}", "error": text, "where": str(log)})
            for path in glob.glob(f"{os.environ.get('XDG_CACHE_HOME', '')}/streamseg/plans/*.log")[:4]:
                part.put(f"log {Path(path).name[:12]}", Path(path).read_text(errors="replace")[-1500:])
            continue
        size = (96, 128) if DRY else ((360, 480) if name == "camvid-slim" else (504, 504))
        with part.step(name):
            engine = load(name, "fp32" if DRY else "bf16", size, "aoti", 8)
            for benchmark in (False, True):
                torch.backends.cudnn.benchmark = benchmark
                for count in (1, small(8)):
                    batch = pictures(count, size)
                    on_gpu = torch.from_numpy(batch).to(device())
                    row: dict[str, Any] = {
                        "engine": engine.info.id,
                        "batch": count,
                        "cudnn_benchmark": benchmark,
                    }
                    row["call_ms"] = wall_ms(lambda: engine(batch), small(30))
                    row["on_device_ms"] = wall_ms(lambda: engine.on_device(on_gpu), small(30))
                    row["frames_s"] = round(1000 * count / row["call_ms"], 1)
                    part.add("aoti", row)
            engine.close()
    if not DRY:
        with part.step("aoti as a CUDA graph"):
            _aoti_graph(part)


def _aoti_graph(part: Part) -> None:
    import torch
    from torch._inductor import aoti_load_package

    plans = sorted(
        glob.glob(f"{os.environ['XDG_CACHE_HOME']}/streamseg/**/*.pt2", recursive=True), key=os.path.getsize
    )
    for path in plans:
        run = aoti_load_package(path, run_single_threaded=True)
        size = (504, 504) if os.path.getsize(path) > 20e6 else (360, 480)
        for count in (1, 8):
            on_gpu = torch.from_numpy(pictures(count, size)).cuda()
            with torch.inference_mode():
                graph = record(lambda: run(on_gpu), torch.cuda.Stream())
            part.add(
                "aoti_graph",
                {"input": f"{size[1]}x{size[0]}", "batch": count, "gpu_ms": gpu_ms(graph.replay, 30)},
            )
            del graph
