"""What a CUDA GPU does, in one command: LargeFOV on every backend, and the dense CRF. `make gpu` runs it.

python -m streamseg.bench.gpu --out FOLDER writes gpu.json and gpu.md there. The network's weights are random:
times do not depend on them. It has not been run on hardware yet.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import msgspec
import numpy as np

from streamseg.bench.engine import EngineResult, bench_engines
from streamseg.bench.summary import Spread, spread_of
from streamseg.bench.zoo import random_engine
from streamseg.demo import draw_scene
from streamseg.engine.device import cuda_missing
from streamseg.errors import UsageError

NETWORK = "deeplab-v1-largefov"
INPUT = (504, 504)  # with the border that the network wants 513x513
CLASSES, ITERATIONS = 21, 10
BARS = {("bf16", 8): 1000.0, ("bf16", 1): 300.0}  # frames/s on an H200 without TensorRT
CRF_BAR_MS = 5.0


class GpuResult(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that `make gpu` measures."""

    engines: EngineResult
    crf: dict[str, Spread]  # kernels → of one mean field at 513x513


def bench_gpu(repeats: int = 100) -> GpuResult:
    """Measure; raises UsageError without a GPU. Takes minutes, since plans are built."""
    if missing := cuda_missing():
        raise UsageError(f"there is nothing to measure: {missing}")
    with tempfile.TemporaryDirectory() as folder:
        engine = random_engine(NETWORK, Path(folder) / "largefov")
        engines = bench_engines(
            [str(engine)],
            "demo:",
            backends=("torch", "aoti", "tensorrt", "tensorrt-rtx"),
            precisions=("fp32", "fp16", "bf16"),
            sizes=(INPUT,),
            batches=(1, 8),
            repeats=repeats,
        )
    return GpuResult(engines=engines, crf=_crf_times(repeats))


def table_of(result: GpuResult) -> str:
    """The result in Markdown, for docs/benchmarks.md."""
    engines = result.engines
    versions = ", ".join(f"{name} {version}" for name, version in engines.machine.versions.items())
    lines = [
        f"{engines.gpu}; {versions}",
        "",
        "| engine | input | batch | p50, ms | frames/s | argmax as in fp32, % | max \\|Δ\\| |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in engines.rows:
        height, width = row.input_size
        lines.append(
            f"| {row.engine} | {width}x{height} | {row.batch} | {row.time.p50_ms} | {row.fps} "
            f"| {row.agreement} | {row.max_difference:.2g} |"
        )
    lines += ["", f"| CRF at 513x513, {CLASSES} classes, {ITERATIONS} iterations | p50, ms |", "|---|---|"]
    lines += [f"| {kernels} | {times.p50_ms} |" for kernels, times in result.crf.items()]
    lines += ["", *(f"Not run: {form}: {why}" for form, why in engines.left_out.items())]
    return "\n".join(lines) + "\n"


def _crf_times(repeats: int) -> dict[str, Spread]:
    import torch

    from streamseg.crf.gpu import Kernels, mean_field_torch, triton_available
    from streamseg.crf.presets import preset
    from streamseg.preprocess import scale_picture

    image = torch.from_numpy(scale_picture(draw_scene(1.0)[0], (513, 513))).cuda()
    logits = np.random.default_rng(0).normal(size=(CLASSES, 513, 513)).astype(np.float32)
    unary = torch.from_numpy(logits).cuda()
    params = preset("deeplab-largefov")
    kinds: list[Kernels] = ["torch", "triton"] if triton_available() else ["torch"]
    found: dict[str, Spread] = {}
    for kernels in kinds:
        times = []
        for _ in range(repeats + 3):
            torch.cuda.synchronize()
            begun = time.perf_counter()
            mean_field_torch(unary, image, params, iterations=ITERATIONS, kernels=kernels)
            torch.cuda.synchronize()
            times.append((time.perf_counter() - begun) * 1000)
        found[kernels] = spread_of(times[3:])
    return found


def main() -> None:
    """Measure, print the table, and write it and the JSON."""
    parser = argparse.ArgumentParser(description="Measure what a CUDA GPU does.")
    parser.add_argument("--out", type=Path, default=Path("out/gpu"))
    out: Path = parser.parse_args().out
    result = bench_gpu()
    out.mkdir(parents=True, exist_ok=True)
    (out / "gpu.json").write_bytes(msgspec.json.format(msgspec.json.encode(result)))
    (out / "gpu.md").write_text(table_of(result))
    print(table_of(result), end="")


if __name__ == "__main__":
    main()
