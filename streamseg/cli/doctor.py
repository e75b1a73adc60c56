"""streamseg doctor: what this machine offers streamseg, and what is missing."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from streamseg.runtime.terminal import echo


@click.command()
def command() -> None:
    """Show what works on this machine (versions, decoders, devices), and how to install the rest."""
    findings = examine()
    for finding in findings:
        mark = "ok  " if finding.ok else "MISS" if finding.required else "-   "
        echo(f"{mark} {finding.what:22} {finding.found}")
        if not finding.ok and finding.remedy:
            echo(f"     {'':22} → {finding.remedy}")
    if any(f.required and not f.ok for f in findings):
        sys.exit(1)


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check."""

    what: str
    ok: bool
    found: str
    required: bool = False
    remedy: str = ""


def examine() -> list[Finding]:
    """Check everything that streamseg can use; never raises."""
    checks: list[Callable[[], Iterator[Finding]]] = [
        _python,
        _packages,
        _kernels,
        _decoders,
        _engines,
        _backends,
        _tensorrt,
        _devices,
        _placement,
        _capacity,
    ]
    return [finding for check in checks for finding in check()]


def _python() -> Iterator[Finding]:
    version = platform.python_version()
    yield Finding("Python", sys.version_info >= (3, 11), version, True, "install Python 3.11 or newer")
    yield Finding("system", True, f"{platform.platform()}, {len(os.sched_getaffinity(0))} CPU cores")


def _packages() -> Iterator[Finding]:
    required = (
        "av",
        "opencv-python-headless",
        "onnxruntime",
        "pynacl",
        "numpy",
        "msgspec",
        "zstandard",
        "click",
        "rich",
    )
    for name in required:
        yield _package(name, True, "pip install streamseg")
    yield _package("torch", False, "pip install 'streamseg[torch]' (training, export)")
    yield _package("aiohttp", False, "pip install 'streamseg[web]' (console, health, metrics)")
    yield _package("prometheus-client", False, "pip install 'streamseg[web]' (metrics)")
    yield _package("paho-mqtt", False, "pip install 'streamseg[forward]' (events and shares to MQTT)")
    yield _package("confluent-kafka", False, "pip install 'streamseg[kafka]' (events and shares to Kafka)")
    yield _package("apprise", False, "pip install 'streamseg[apprise]' (events as messages to people)")
    yield _package("ray", False, "pip install 'streamseg[ray]' (recorded files on a cluster)")
    yield _package("s3fs", False, "pip install 'streamseg[s3]' (recorded files from and to s3://)")
    yield _package("pyarrow", False, "pip install 'streamseg[parquet]' (tables of recorded files)")
    yield _package("zarr", False, "pip install 'streamseg[zarr]' (arrays of recorded files)")
    yield _package("pydensecrf2", False, "pip install 'streamseg[pydensecrf]' (bench crf)")


def _package(name: str, required: bool, remedy: str) -> Finding:
    try:
        return Finding(name, True, importlib.metadata.version(name), required)
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, False, "not installed", required, remedy)


def _kernels() -> Iterator[Finding]:
    from streamseg.crf.native import REMEDY
    from streamseg.runtime.native import load_library

    kernels = {
        "_scale_planes": "scaling kernel",
        "_upsample": "upsampling kernel",
        "_blend": "fusion kernel",
        "_crf": "CRF kernel",
    }
    for library, what in kernels.items():
        try:
            load_library(library)
            yield Finding(what, True, "compiled")
        except OSError as error:
            without = "no refinement by the CRF" if library == "_crf" else "array fallback, slower"
            yield Finding(what, False, f"missing: {without} ({error})", remedy=REMEDY)


def _decoders() -> Iterator[Finding]:
    try:
        import av
        from av.codec.hwaccel import hwdevices_available
    except ImportError as error:
        yield Finding("decoders", False, str(error), True, "pip install streamseg")
        return
    names = ("h264", "hevc", "av1", "vp9", "mjpeg", "ffv1", "prores")
    missing = [n for n in names if n not in av.codecs_available]
    yield Finding(
        "decoders", not missing, ", ".join(n for n in names if n not in missing), remedy="pip install av"
    )
    yield Finding("hardware decoders", True, ", ".join(sorted(hwdevices_available())) or "none")
    protocols = ("rtsp", "hls", "mpegts", "v4l2,video4linux2", "video4linux2,v4l2")
    yield Finding(
        "inputs", True, ", ".join(sorted({p.split(",")[0] for p in protocols if p in av.formats_available}))
    )


def _engines() -> Iterator[Finding]:
    from streamseg.errors import EngineError
    from streamseg.inference.spec import list_engines

    wrong: list[EngineError] = []
    engines = [spec.name for _, spec in list_engines(wrong.append)]
    for error in wrong:
        yield Finding("an engine", False, str(error))
    yield Finding(
        "engines", bool(engines), ", ".join(engines) or "none", True, "set STREAMSEG_ENGINES to their folder"
    )


def _tensorrt() -> Iterator[Finding]:
    from streamseg.errors import EngineError
    from streamseg.inference.backends.protocol import backend_of

    for name in ("tensorrt", "tensorrt-rtx"):
        try:
            backend = backend_of(name)
            missing = backend.why_not("fp16")
            can_build = backend.why_not_build("fp16", "sm_89") is None
        except EngineError as error:
            missing, can_build = str(error), False
        if missing is None:
            yield Finding(name, True, "runs here")
        elif can_build:
            yield Finding(name, False, f"builds plans for other machines; does not run here: {missing}")
        else:
            yield Finding(name, False, missing)


def _backends() -> Iterator[Finding]:
    from streamseg.inference.backends.protocol import backend_of

    for name in ("onnx", "openvino", "torch", "aoti"):
        backend = backend_of(name)
        reason = backend.why_not("fp32")
        found = f"runs on {backend.device}" if reason is None else reason
        yield Finding(f"backend {name}", reason is None, found)


def _devices() -> Iterator[Finding]:
    cameras = sorted(str(p) for p in Path("/dev").glob("video*"))
    yield Finding("cameras", bool(cameras), ", ".join(cameras) or "none at /dev/video*")
    gpu = Path("/proc/driver/nvidia/version")
    if gpu.is_file():
        yield Finding("NVIDIA driver", True, gpu.read_text().splitlines()[0])
    else:
        yield Finding("NVIDIA driver", False, "none; networks run on the CPU")


def _placement() -> Iterator[Finding]:
    from streamseg.sources.hardware import why_not_on_gpu

    why_not = why_not_on_gpu("cuda")
    found = f"copied to host memory: {why_not}" if why_not else 'stay on the GPU with hwaccel = "cuda"'
    yield Finding("pictures on the GPU", not why_not, found)


def _capacity() -> Iterator[Finding]:
    """Measured for about a second on the embedded clip, with the default engine as far as it is built."""
    from streamseg.bench.rough import rough_capacity
    from streamseg.errors import StreamsegError

    try:
        yield Finding(
            "capacity", True, rough_capacity(), remedy="streamseg capacity CONFIG says it for yours"
        )
    except StreamsegError as error:
        yield Finding("capacity", False, str(error), remedy="streamseg capacity CONFIG says why")
