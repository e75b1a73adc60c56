"""What the stages share: their figures on disk, timing, and engines to measure."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

if TYPE_CHECKING:
    from streamseg.config import BackendName, Precision
    from streamseg.inference.backends.aoti import AotiEngine
    from streamseg.inference.backends.torch import TorchEngine
    from streamseg.inference.engine import Engine
    from streamseg.types import U8, Size

PARTS = Path(os.environ.get("PARTS", "out/device/parts"))
OUT = Path(os.environ.get("OUT", "out/device"))
CARRIED = Path(os.environ.get("CARRIED", ".device"))  # what prepare.sh put into .device/
DATA = Path(os.environ.get("DATA", CARRIED / "data"))  # a folder with video/ and camvid/
ENGINES = Path(os.environ.get("PROBE_ENGINES", "out/device/engines"))
DRY = os.environ.get("DEVICE_DRY") == "1"
CRF_CLASSES, CRF_ITERATIONS = 21, 1 if DRY else 10


class Part:
    """The figures of a stage; the file is written at each."""

    def __init__(self, name: str) -> None:
        self.path = PARTS / f"{name}.json"
        self.data: dict[str, Any] = {}
        PARTS.mkdir(parents=True, exist_ok=True)

    def put(self, key: str, value: object, shown: object = None) -> None:
        self.data[key] = value
        beside = self.path.with_suffix(".part")
        beside.write_text(json.dumps(self.data, default=str))
        beside.replace(self.path)
        text = json.dumps(value if shown is None else shown, default=str)[:700]
        print(f"  {self.path.stem}.{key}: {text}", flush=True)

    def add(self, key: str, row: dict[str, Any]) -> None:
        self.put(key, [*self.data.get(key, []), row], row)

    @contextlib.contextmanager
    def step(self, what: str) -> Iterator[None]:
        """What fails inside is a line of the report, and the stage goes on; a broken CUDA context ends it."""
        try:
            yield
        except (Exception, SystemExit) as error:  # noqa: BLE001
            text = " ".join(f"{type(error).__name__}: {error}".split())[:400]
            where = [
                f"{Path(f.filename).name}:{f.lineno}" for f in traceback.extract_tb(error.__traceback__)
            ][-4:]
            self.add("failed", {"what": what, "error": text, "where": " > ".join(where)})
            if (
                "illegal memory access" in text
                or "device-side assert" in text
                or "misaligned address" in text
            ):
                sys.exit(f"{what}: the CUDA context is broken: {text}")


def no_gpu() -> str:
    """Why nothing can be measured; empty where there is a GPU, or in a dry run."""
    if DRY:
        return ""
    from streamseg.inference.backends.device import cuda_missing

    if problem := cuda_missing():
        return problem
    import torch

    return "" if torch.cuda.is_available() else "torch finds no CUDA"


def device() -> str:
    return "cpu" if DRY else "cuda"


def wait() -> None:
    import torch

    if not DRY:
        torch.cuda.synchronize()


def median(values: Sequence[float]) -> float:
    import numpy as np

    return round(float(np.median(values)), 4)


def wall_ms(work: Callable[[], object], repeats: int, warm: int = 3) -> float:
    """Median time of a call that ends with its result on the host, or is waited for."""
    times = []
    for at in range(warm + repeats):
        wait()
        begun = time.perf_counter()
        work()
        wait()
        if at >= warm:
            times.append((time.perf_counter() - begun) * 1000)
    return median(times)


def gpu_ms(work: Callable[[], object], repeats: int, warm: int = 3) -> float:
    """Median time on the GPU's own clock, between events around the work."""
    if DRY:
        return wall_ms(work, 1, 0)
    import torch

    for _ in range(warm):
        work()
    pairs = [
        (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(repeats)
    ]
    for begun, ended in pairs:
        begun.record()
        work()
        ended.record()
    torch.cuda.synchronize()
    return median([begun.elapsed_time(ended) for begun, ended in pairs])


def top_kernels(work: Callable[[], object], most: int = 12) -> list[dict[str, Any]]:
    """The kernels that a piece of work spends its time in."""
    from torch.profiler import ProfilerActivity, profile

    kinds = [ProfilerActivity.CPU] if DRY else [ProfilerActivity.CPU, ProfilerActivity.CUDA]
    work()
    wait()
    with profile(activities=kinds) as found:
        work()
        wait()
    rows = []
    for event in found.key_averages():
        if not DRY and "CUDA" not in str(event.device_type):
            continue  # what launched a kernel is charged with its time as well
        us = getattr(event, "self_device_time_total", 0) or (event.self_cpu_time_total if DRY else 0)
        if us:
            rows.append({"kernel": event.key[:90], "us": round(us, 1), "calls": event.count})
    return sorted(rows, key=lambda row: -row["us"])[:most]


def small(count: int, dry: int = 2) -> int:
    return dry if DRY else count


def engine_folder(name: str, patience_s: float = 720 if DRY else 90) -> str:
    if name == "camvid-slim":
        return name
    done = ENGINES / f"{name}.done"
    until = time.monotonic() + patience_s
    while not done.exists():
        if time.monotonic() > until:
            raise RuntimeError(f"{name}: its engine was not made in time")
        time.sleep(0.2)
    return str(ENGINES / name)


@functools.cache
def pictures(count: int, size: Size) -> U8:
    from streamseg.inference.scaling import make_batch
    from tools.demo import draw_scene

    return make_batch([draw_scene(0.7 * i)[0] for i in range(count)], size)


@overload
def load(
    name: str, precision: Precision, size: Size, backend: Literal["torch"] = ..., max_batch: int = ...
) -> TorchEngine: ...
@overload
def load(
    name: str, precision: Precision, size: Size, backend: Literal["aoti"], max_batch: int = ...
) -> AotiEngine: ...
@overload
def load(
    name: str, precision: Precision, size: Size, backend: Literal["onnx"], max_batch: int = ...
) -> Engine: ...
def load(
    name: str, precision: Precision, size: Size, backend: BackendName = "torch", max_batch: int = 32
) -> Engine:
    """An engine. In a dry run that of torch has CUDA's stand-in, and so the code round graphs is run, too."""
    from streamseg.config import EngineConfig
    from streamseg.inference.plans.load import load_engine

    max_batch = small(max_batch, 4)
    engine = load_engine(
        EngineConfig(
            name=engine_folder(name),
            backend=backend,
            precision=precision,
            input_size=size,
            max_batch=max_batch,
        )
    )
    if DRY and backend == "torch":
        from tests.cuda_standin import with_graphs

        with_graphs(engine, max_batch)
    return engine


def graph_of(engine: TorchEngine, batch: U8) -> Callable[[], object]:
    """What queues the network alone, for batches of this shape: on a GPU a CUDA graph."""
    import torch

    assert engine._batches is not None
    return engine._batches._of(len(batch), tuple(batch.shape[1:]), torch.uint8).start


def clip(name: str = "camvid_0016E5_15hz.mp4") -> str:
    found = [str(p) for p in (CARRIED / "data" / name, DATA / "video" / name) if p.exists()]
    return found[0] if found else "demo:"
