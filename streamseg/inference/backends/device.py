"""The GPU and the CPU of this machine, read without loading a framework."""

from __future__ import annotations

import ctypes
import functools
import platform
from pathlib import Path
from typing import NamedTuple

from streamseg.config import Precision

_FEATURES = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_bf16",
    "amx_int8",
    "amx_fp16",
)
_ARM_FEATURES = ("asimddp", "bf16", "i8mm", "sve", "sve2")
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*


class Cuda(NamedTuple):
    """The first CUDA GPU."""

    name: str
    sm: str  # such as "sm_90"
    driver: str  # the newest CUDA that the driver runs, such as "13.0"


@functools.cache
def cuda_device() -> Cuda | str:
    """The first CUDA GPU, or why there is none."""
    try:
        lib = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "no NVIDIA driver is installed"
    count, device, driver = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    if code := lib.cuInit(0):
        return f"the NVIDIA driver does not start (CUDA error {code}); check nvidia-smi"
    if lib.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        return "the NVIDIA driver finds no GPU; check nvidia-smi and CUDA_VISIBLE_DEVICES"
    lib.cuDeviceGet(ctypes.byref(device), 0)
    lib.cuDriverGetVersion(ctypes.byref(driver))
    name = ctypes.create_string_buffer(256)
    lib.cuDeviceGetName(name, len(name), device)
    parts = []
    for attribute in (_MAJOR, _MINOR):
        value = ctypes.c_int()
        lib.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
        parts.append(str(value.value))
    version = f"{driver.value // 1000}.{driver.value % 1000 // 10}"
    return Cuda(name.value.decode(errors="replace"), "sm_" + "".join(parts), version)


def loaded_from(name: str) -> str:
    """The file of a library that this process has loaded, such as libcuda.so; empty if it has not."""
    for line in Path("/proc/self/maps").read_text(errors="replace").splitlines():
        path = line.split(maxsplit=5)[-1]
        if Path(path).name.startswith(name):
            return path
    return ""


def cuda_missing() -> str | None:
    """None where there is a CUDA GPU, else why not."""
    found = cuda_device()
    return found if isinstance(found, str) else None


@functools.cache
def cpu_features() -> tuple[str, ...]:
    """The instruction sets of the processor that matter for networks, from /proc/cpuinfo."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return ()
    lines = [line for line in text.splitlines() if line.lower().startswith(("flags", "features"))]
    flags = set(lines[0].split(":", 1)[1].split()) if lines else set()
    return tuple(f for f in (*_FEATURES, *_ARM_FEATURES) if f in flags)


def cpu_has_bf16() -> bool:
    """Whether the processor has bfloat16 instructions."""
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(cpu_features())


def int8_saturates() -> bool:
    """Whether a sum of two products of 8-bit numbers may be cut: on x86 without VNNI it has 16 bits."""
    exact = {"avx512_vnni", "avx_vnni", "amx_int8"}
    return platform.machine() == "x86_64" and exact.isdisjoint(cpu_features())


def gpu_precisions(sm: str) -> tuple[Precision, ...]:
    """The precisions of a GPU such as "sm_89", fastest first."""
    capability = int(sm.removeprefix("sm_") or 0)
    return ("bf16", "fp16", "fp32") if capability >= 80 else ("fp16", "fp32")


def cpu_identity() -> str:
    """The processor, as far as compiled networks depend on it."""
    return " ".join((platform.machine(), *cpu_features()))
