"""What a CUDA GPU does on every backend: the CRF, from NVDEC to labels, LargeFOV. A stage of tools/device.

python -m benchmarks.gpu --out FOLDER writes gpu.json and gpu.md there. What needs no build comes first, and
both files are written after each part, so an early end keeps what was measured. Weights are random where
times do not depend on them. It has not been run on hardware yet.
"""

from __future__ import annotations

import argparse
import functools
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks.gpu_route import RouteResult, bench_route, street_clip
from streamseg.bench.engine import EngineResult, bench_engines, random_engine
from streamseg.bench.summary import Spread, spread_of
from streamseg.config import EngineConfig, Precision
from streamseg.errors import StreamsegError, UsageError
from streamseg.inference.backends.device import cuda_device
from tools.demo import draw_scene

NETWORK = "deeplab-v1-largefov"
INPUT = (504, 504)  # with the border that the network wants 513x513
CLASSES, ITERATIONS = 21, 10
PRECISIONS: tuple[Precision, ...] = ("bf16", "fp16", "fp32")
BARS = {("bf16", 8): 1000.0, ("bf16", 1): 300.0}  # frames/s on an H200 without TensorRT


class GpuResult(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is measured."""

    gpu: str
    crf: dict[str, Spread] = {}  # kernels → of one mean field at 513x513
    routes: list[RouteResult] = []
    engines: list[EngineResult] = []  # those that build nothing, then those that do
    left_out: dict[str, str] = {}  # what was not measured → why


def bench_gpu(
    done: Callable[[GpuResult], None],
    precisions: Sequence[Precision] = PRECISIONS,
    repeats: int = 100,
) -> GpuResult:
    """Measure; calls `done` with the result so far after each part. Raises UsageError without a GPU.

    Takes minutes, since plans are built: about one for each precision of aoti, and more for TensorRT.
    """
    found = cuda_device()
    if isinstance(found, str):
        raise UsageError(f"nothing to measure: {found}")
    result = GpuResult(gpu=f"{found.name}, {found.sm}, CUDA {found.driver}")
    with tempfile.TemporaryDirectory() as folder:
        engine = random_engine(NETWORK, Path(folder) / "largefov")
        clip = street_clip(Path(folder) / "street.mp4")
        half = next((p for p in ("bf16", "fp16") if p in precisions), precisions[0])
        parts: list[tuple[str, Callable[[], dict[str, Any]]]] = [
            ("CRF", lambda: {"crf": _crf_times(repeats)}),
            *(
                (f"route, {Path(name).name}", functools.partial(_route, name, half, clip, repeats))
                for name in (EngineConfig().name, str(engine))
            ),
            *(
                (", ".join(kinds), functools.partial(_engines, str(engine), kinds, precisions, repeats))
                for kinds in (("torch",), ("aoti", "tensorrt", "tensorrt-rtx"))
            ),
        ]
        for name, measure in parts:
            try:
                measured = measure()
            except (StreamsegError, RuntimeError) as error:
                measured = {"left_out": {name: " ".join(str(error).split())[:300]}}
            for field, value in measured.items():
                before = getattr(result, field)
                whole = before + value if isinstance(before, list) else {**before, **value}
                result = msgspec.structs.replace(result, **{field: whole})
            done(result)
    return result


def _route(name: str, precision: Precision, clip: Path, repeats: int) -> dict[str, Any]:
    size = None if name == EngineConfig().name else INPUT
    config = EngineConfig(name=name, backend="torch", precision=precision, input_size=size)
    return {"routes": [bench_route(config, clip, 2 * repeats)]}


def _engines(
    name: str, backends: Sequence[str], precisions: Sequence[Precision], repeats: int
) -> dict[str, Any]:
    result = bench_engines(
        [name],
        "demo:",
        backends=backends,
        precisions=precisions,
        sizes=(INPUT,),
        batches=(1, 8),
        repeats=repeats,
    )
    return {"engines": [result], "left_out": result.left_out}


def table_of(result: GpuResult) -> str:
    """The result in Markdown, for docs/benchmarks.md."""
    known = {n: v for one in result.engines for n, v in one.machine.versions.items()}
    lines = [", ".join([result.gpu, *(f"{name} {version}" for name, version in known.items())])]
    if result.engines:
        lines += ["", "| engine | input | batch | p50, ms | frames/s | argmax as in fp32, % | max \\|Δ\\| |"]
        lines += ["|---|---|---|---|---|---|---|"]
    for row in (row for one in result.engines for row in one.rows):
        height, width = row.input_size
        lines.append(
            f"| {row.engine} | {width}x{height} | {row.batch} | {row.time.p50_ms} | {row.fps} "
            f"| {row.agreement} | {row.max_difference:.2g} |"
        )
    if result.routes:
        lines += [
            "",
            "| decoded by NVDEC → labels of the frame's size on the host | frame | picture stays, p50 ms ",
        ]
        lines[-1] += "| by memory, p50 ms | ratio | NVDEC, p50 ms | same labels, % |"
        lines += ["|---|---|---|---|---|---|---|"]
    for route in result.routes:
        height, width = route.frame_size
        lines.append(
            f"| {route.engine} | {width}x{height} | {route.stays.p50_ms} | {route.by_memory.p50_ms} "
            f"| {route.ratio} | {route.decode.p50_ms} | {route.same_labels_percent} |"
        )
    if result.crf:
        lines += [
            "",
            f"| CRF at 513x513, {CLASSES} classes, {ITERATIONS} iterations | p50, ms |",
            "|---|---|",
        ]
        lines += [f"| {kernels} | {times.p50_ms} |" for kernels, times in result.crf.items()]
    lines += ["", *(f"Not run: {form}: {why}" for form, why in result.left_out.items())]
    return "\n".join(lines) + "\n"


def _crf_times(repeats: int) -> dict[str, Spread]:
    import torch

    from streamseg.crf.gpu import Kernels, mean_field_torch, triton_available
    from streamseg.crf.gpu_graph import MeanField
    from streamseg.crf.presets import preset
    from streamseg.types.picture import scale_picture

    image = torch.from_numpy(scale_picture(draw_scene(1.0)[0], (513, 513))).cuda()
    logits = np.random.default_rng(0).normal(size=(CLASSES, 513, 513)).astype(np.float32)
    unary = torch.from_numpy(logits).cuda()
    params = preset("deeplab-largefov")
    kinds: list[Kernels] = ["torch", "triton"] if triton_available() else ["torch"]
    found: dict[str, Spread] = {}
    forms: dict[str, Callable[[], object]] = {
        kind: functools.partial(mean_field_torch, unary, image, params, iterations=ITERATIONS, kernels=kind)
        for kind in kinds
    }
    graph = MeanField(params, iterations=ITERATIONS, kernels=kinds[-1])
    forms[f"{kinds[-1]}, a graph"] = functools.partial(graph, unary, image)
    for form, run in forms.items():
        times = []
        for _ in range(repeats + 3):
            torch.cuda.synchronize()
            begun = time.perf_counter()
            run()
            torch.cuda.synchronize()
            times.append((time.perf_counter() - begun) * 1000)
        found[form] = spread_of(times[3:])
    return found


def main() -> None:
    """Measure, print the table, and write it and the JSON."""
    parser = argparse.ArgumentParser(description="Measure what a CUDA GPU does.")
    parser.add_argument("--out", type=Path, default=Path("out/gpu"))
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS)
    parser.add_argument("--repeats", type=int, default=100)
    args = parser.parse_args()
    out: Path = args.out
    out.mkdir(parents=True, exist_ok=True)

    def write(result: GpuResult) -> None:
        (out / "gpu.json").write_bytes(msgspec.json.format(msgspec.json.encode(result)))
        (out / "gpu.md").write_text(table_of(result))

    try:
        print(table_of(bench_gpu(write, args.precisions, args.repeats)), end="")
    except UsageError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
