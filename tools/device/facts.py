"""Stage facts: versions, tools, and what this GPU can do at most."""

from __future__ import annotations

import contextlib
import subprocess

from tools.device.common import DRY, Part, device, gpu_ms, no_gpu, small, wall_ms


def facts(part: Part) -> None:
    import importlib.metadata
    import platform
    import shutil

    names = (
        *("torch", "triton", "numpy", "onnx", "onnxruntime", "onnxscript", "opencv-python-headless", "av"),
        *("msgspec", "pyzmq", "zstandard", "pytest", "cupy-cuda13x", "scikit-build-core", "streamseg"),
    )
    versions = {"python": platform.python_version()}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    part.put("versions", versions)
    for key, command in {
        "smi": "nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.sm,clocks.max.sm,power.limit,"
        "ecc.mode.current --format=csv,noheader",
        "nvcc": "command -v nvcc; readlink -f $(command -v nvcc); nvcc --version | tail -1",
        "nvcuvid": "ldconfig -p | grep -E 'nvcuvid|libcuda.so'; "
        "find /usr/local/nvidia /usr/lib -name 'libnvcuvid.so*' 2>/dev/null | head -3",
        "cuda_home": "ls -d /usr/local/cuda* 2>/dev/null; ls /usr/local/cuda/include/cuda.h "
        "/usr/local/cuda/include/crt/host_defines.h /usr/local/cuda/lib64/stubs/libcuda.so 2>&1",
        "tools": "command -v g++ ninja cmake ncu compute-sanitizer cuobjdump xz; nproc; free -g | sed -n 2p",
        "cpu": "grep -m1 'model name' /proc/cpuinfo; grep -om1 -wE 'avx512f' /proc/cpuinfo; uname -r",
    }.items():
        done = subprocess.run(
            ["bash", "-c", command], capture_output=True, text=True, timeout=30, check=False
        )
        part.put(key, " | ".join((done.stdout + done.stderr).split("\n"))[:600].strip(" |"))
    with part.step("onnxruntime's providers"):
        import onnxruntime

        part.put("onnxruntime_providers", onnxruntime.get_available_providers())
    with part.step("our own libraries"):
        from streamseg import crf
        from streamseg.crf import native

        part.put(
            "native", native.best_instruction_set() if crf.native_available() else crf.native_missing_reason()
        )
    with part.step("compilers for aoti"):
        from streamseg.inference.backends.aoti import cuda_home

        part.put("aoti_cuda_home", str(cuda_home()))
        part.put("gxx", str(shutil.which("g++")))
    with part.step("PyAV and NVDEC"):
        from streamseg.sources.hardware import why_not_on_gpu

        if not no_gpu() and not DRY:
            import torch

            torch.zeros(1, device="cuda")
        part.put("why_pictures_do_not_stay", why_not_on_gpu("cuda") or "they may")
    if not no_gpu():
        with part.step("ceilings"):
            _ceilings(part)


def _ceilings(part: Part) -> None:
    import torch

    on = device()
    if not DRY:
        properties = torch.cuda.get_device_properties(0)
        l2_mib, memory_gib = properties.L2_cache_size >> 20, properties.total_memory >> 30
        sms = properties.multi_processor_count
        part.put("device", f"{properties.name}, {sms} SMs, {l2_mib} MiB L2, {memory_gib} GiB")
    floats = small(2**30, 2**16)
    source = torch.randn(floats // 2, device=on)
    target = torch.empty_like(source)
    ms = gpu_ms(lambda: target.copy_(source), 10)
    part.put("copy_TB_s", round(2 * source.nbytes / ms / 1e9, 3))
    side = small(8192, 64)
    for name, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
        a, b = (torch.randn(side, side, device=on).to(dtype) for _ in range(2))
        ms = gpu_ms(lambda: a @ b, 10)
        part.put(f"matmul_{name}_TFLOP_s", float(f"{2 * side**3 / ms / 1e9:.4g}"))
    on_host = torch.randint(0, 255, (small(2**26, 2**12),), dtype=torch.uint8)
    for kind, array in (("pageable", on_host), ("pinned", on_host if DRY else on_host.pin_memory())):
        on_gpu = torch.empty_like(array, device=on)
        part.put(
            f"to_gpu_{kind}_GB_s",
            round(array.nbytes / wall_ms(lambda: on_gpu.copy_(array, non_blocking=True), 5) / 1e6, 2),
        )
    x = torch.randn(1024, device=on)

    def many() -> None:
        for _ in range(small(1000)):
            x.add_(1.0)

    part.put("eager_launch_us", round(1000 * wall_ms(many, 3, 1) / small(1000), 2))
    with part.step("a Triton launch"):
        part.put("triton_launch_us", _triton_launch_us())


def _triton_launch_us() -> float:
    import torch

    from streamseg.crf import triton_kernels as k

    rows = torch.randn(65, 24, device=device())
    other, at = torch.empty_like(rows), torch.zeros(64, dtype=torch.int32, device=device())

    def many() -> None:
        for _ in range(small(1000)):
            k._blur[(2,)](rows, at, at, other, 64, **k._shape(rows))

    return round(1000 * wall_ms(many, 3, 1) / small(1000), 2)
