"""Networks alone: every backend × engine × size × precision × batch on real frames, beside fp32."""

from __future__ import annotations

import contextlib
import itertools
import logging
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import get_args

import msgspec

from streamseg.bench.summary import Machine, Spread, spread_of, this_machine
from streamseg.config import EngineConfig, Precision, StreamConfig
from streamseg.errors import EngineError, UsageError
from streamseg.inference.backends.device import Cuda, cuda_device
from streamseg.inference.backends.protocol import backend_names
from streamseg.inference.backends.torch import torch_missing
from streamseg.inference.engine import Engine
from streamseg.inference.engine_folders import engine_folder
from streamseg.inference.infer import input_size
from streamseg.inference.plans.load import load_engine
from streamseg.inference.plans.verify import agreement_of
from streamseg.inference.scaling import make_batch
from streamseg.inference.spec import find_engine, read_spec
from streamseg.models.zoo import NETWORKS
from streamseg.runtime.folders import cache_folder
from streamseg.sources import open_source
from streamseg.sources.frames import decode
from streamseg.types import U8, Size

log = logging.getLogger(__name__)

RANDOM = "random"  # the folder of engines with random weights, in the cache
CALIBRATION_FRAMES = 6  # for int8 with random weights: enough to time it


class EngineRow(msgspec.Struct, frozen=True, kw_only=True):
    """One engine in one form."""

    engine: str
    device: str
    threads: int
    batch: int
    input_size: tuple[int, int]
    random_weights: bool  # times do not depend on them, agreement does
    time: Spread  # of one call
    fps: float  # frames per second at the median
    agreement: float  # cells whose best class is that of ONNX Runtime in fp32, in per cent
    max_difference: float  # of logits from those


class EngineResult(msgspec.Struct, frozen=True, kw_only=True):
    """The table of `streamseg bench engine`."""

    source: str
    rows: list[EngineRow]
    left_out: dict[str, str]  # engine/precision/backend → why
    gpu: str  # its name, SM and the driver's CUDA; empty without one
    machine: Machine


def bench_engines(
    names: Sequence[str],
    source: str,
    *,
    backends: Sequence[str] = (),
    precisions: Sequence[Precision] = (),
    sizes: Sequence[Size] = (),
    batches: Sequence[int] = (1,),
    threads: int = 0,
    repeats: int = 50,
) -> EngineResult:
    """Time engines on frames of `source`, all forms of one by turns, so that ratios hold.

    names: of engines, and of networks of the zoo, which get random weights where there is no engine.
    backends and precisions: unset all, those left out that cannot run here. sizes: unset each engine's own.
    Builds what has to be built first.
    """
    pictures = _pictures(source, max(batches))
    rows: list[EngineRow] = []
    left_out: dict[str, str] = {}
    for wanted, size in itertools.product(names, sizes or (None,)):
        random = is_random(wanted)
        name = str(kept_engine(wanted, source, int8="int8" in precisions)) if random else wanted
        _, spec = find_engine(name)
        forms = [
            EngineConfig(
                name=name,
                backend=backend,  # type: ignore[arg-type]
                precision=precision,
                input_size=size,
                threads=threads,
                max_batch=max(batches),
            )
            for backend in (backends or backend_names())
            for precision in (precisions or get_args(Precision))
            if precision != "int8" or "int8" in spec.weights
        ]
        with contextlib.ExitStack() as owned:
            fp32 = EngineConfig(name=name, backend="onnx", precision="fp32", input_size=size, threads=threads)
            reference = owned.enter_context(contextlib.closing(load_engine(fp32)))
            engines = []
            for form in forms:
                try:
                    engines.append(owned.enter_context(contextlib.closing(load_engine(form))))
                except EngineError as error:
                    left_out[f"{spec.name}/{form.precision}/{form.backend}"] = str(error)
            for batch in batches:
                rows += _rows(engines, reference, pictures[:batch], repeats, random)
    found = cuda_device()
    return EngineResult(
        source=source,
        rows=rows,
        left_out=left_out,
        gpu=f"{found.name}, {found.sm}, CUDA {found.driver}" if isinstance(found, Cuda) else "",
        machine=this_machine(*_installed("onnxruntime", "numpy", "openvino", "torch")),
    )


def _rows(
    engines: list[Engine], reference: Engine, pictures: list[U8], repeats: int, random: bool
) -> Iterator[EngineRow]:
    frame_size = (pictures[0].shape[0], pictures[0].shape[1])
    batch = make_batch(pictures, input_size(reference, frame_size))
    want = reference(batch)
    agreement = [agreement_of([(engine(batch), want)]) for engine in engines]  # and each has run once
    times: list[list[float]] = [[] for _ in engines]
    for _ in range(repeats):
        for engine, taken in zip(engines, times, strict=True):
            begun = time.perf_counter()
            engine(batch)
            taken.append((time.perf_counter() - begun) * 1000)
    for engine, taken, agrees in zip(engines, times, agreement, strict=True):
        spread = spread_of(taken)
        yield EngineRow(
            engine=engine.info.id,
            device=engine.info.device,
            threads=engine.info.threads,
            batch=len(pictures),
            input_size=(batch.shape[1], batch.shape[2]),
            random_weights=random,
            time=spread,
            fps=round(len(pictures) * 1000 / spread.p50_ms, 1),
            agreement=agrees.argmax_percent,
            max_difference=agrees.max_difference,
        )


def _pictures(source: str, count: int) -> list[U8]:
    with open_source(StreamConfig(source=source), "bench") as opened:
        return [frame.rgb for frame in itertools.islice(decode(opened, "bench"), count)]


def _installed(*packages: str) -> list[str]:
    found = []
    for package in packages:
        with contextlib.suppress(PackageNotFoundError):
            version(package)
            found.append(package)
    return found


def is_random(name: str) -> bool:
    """Whether this is a network of the zoo for which no engine exists, so that it gets random weights."""
    return name in NETWORKS and engine_folder(name) is None


def kept_engine(name: str, source: str, *, int8: bool) -> Path:
    """The folder of a zoo network's engine with random weights; made on first use and kept in the cache.

    int8: also quantise it, on frames of `source`. Takes up to minutes. Raises UsageError without torch.
    """
    if missing := torch_missing():
        raise UsageError(f"{name}: no such engine; making one with random weights: {missing}")
    folder = cache_folder(RANDOM) / name
    if not (folder / "engine.toml").is_file():
        log.warning("%s: making an engine with random weights in %s", name, folder)
        random_engine(name, folder)
    if int8 and "int8" not in read_spec(folder).weights:
        from streamseg.evaluation.dataset import pictures_of
        from streamseg.models.quantise import quantise_engine

        log.warning("%s: quantising it to int8", name)
        quantise_engine(str(folder), pictures_of(source, CALIBRATION_FRAMES))
    return folder


def random_engine(name: str, folder: Path) -> Path:
    """Write an engine of a zoo network with random (Kaiming) weights, which keep the activations' scale."""
    import torch
    from torch import nn

    from streamseg.models.export import write_engine
    from streamseg.models.zoo import find_network

    torch.manual_seed(0)
    network = find_network(name).build().eval()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return write_engine(network, name, folder)
