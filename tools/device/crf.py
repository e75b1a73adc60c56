"""Stage crf: the dense CRF on the GPU, its parts, and other shapes of its kernels."""

from __future__ import annotations

import functools
import os
import sys
import time
from pathlib import Path

from tools.device.common import (
    CRF_CLASSES,
    CRF_ITERATIONS,
    DRY,
    Part,
    device,
    gpu_ms,
    small,
    top_kernels,
    wait,
    wall_ms,
)

HERE = Path(__file__).resolve().parent


def crf(part: Part) -> None:
    import numpy as np
    import torch

    from streamseg import crf as dense
    from streamseg.crf import gpu
    from tests.crf_scenes import agreement, scene

    side = 20 if DRY else 513
    logits, image, _ = scene(side, side, CRF_CLASSES)
    on_gpu = torch.from_numpy(logits).to(device()), torch.from_numpy(image).to(device())
    kinds = ["torch"] if DRY or not gpu.triton_available() else ["triton", "torch"]
    for preset in ("deeplab-largefov", "deeplab-v2-resnet101"):
        params = dense.preset(preset)
        begun = time.perf_counter()
        want = dense.mean_field(logits, image, params, threads=small(16))
        cpu_ms = (time.perf_counter() - begun) * 1000
        for kernels in kinds:
            with part.step(f"{preset} {kernels}"):
                run = functools.partial(gpu.mean_field_torch, *on_gpu, params, kernels=kernels)
                begun = time.perf_counter()
                first = run().cpu().numpy()
                first_s = time.perf_counter() - begun
                again = run().cpu().numpy()
                row = {
                    "preset": preset,
                    "kernels": kernels,
                    "ms": gpu_ms(run, small(20)),
                    "first_s": round(first_s, 2),
                }
                row |= {
                    "agreement": round(agreement(first, want), 6),
                    "mean_difference": float(f"{np.abs(first - want).mean():.3g}"),
                }
                row |= {
                    "two_runs_differ_by": float(f"{np.abs(first - again).max():.3g}"),
                    "cpu_16_threads_ms": round(cpu_ms, 1),
                }
                part.add("times", row)
    with part.step("parts of it"):
        _crf_parts(part, on_gpu, kinds[0])
    if kinds[0] == "triton":
        with part.step("sizes of blocks"):
            _crf_blocks(part, on_gpu)
    with part.step("kernels"):
        run = functools.partial(
            gpu.mean_field_torch, *on_gpu, dense.preset("deeplab-largefov"), kernels=kinds[0]
        )
        part.put("kernels", top_kernels(run, 18))


def _crf_terms(on_gpu, preset: str, kernels: str):
    import torch

    from streamseg import crf as dense
    from streamseg.crf import gpu
    from streamseg.crf.params import terms_of

    logits, image = on_gpu
    classes, height, width = logits.shape
    unary = logits.reshape(classes, -1).T.contiguous()
    steps = gpu._steps(kernels, unary.is_cuda)
    terms = [
        gpu._Term(t, image, (height, width), classes, unary, steps) for t in terms_of(dense.preset(preset))
    ]
    return steps, terms, unary, torch.softmax(unary, 1)


def _crf_loop(steps, terms, unary, q, iterations: int = CRF_ITERATIONS):
    for _ in range(iterations):
        q = steps.update(unary, [(term.lattice, term.rows(q), term.gain) for term in terms])
    return q


def _crf_parts(part: Part, on_gpu, kernels: str) -> None:
    import torch

    from streamseg import crf as dense
    from streamseg.crf import gpu
    from streamseg.crf.params import terms_of
    from streamseg.crf.torch_lattice import TorchLattice

    for preset in ("deeplab-largefov", "deeplab-v2-resnet101"):
        steps, terms, unary, q = _crf_terms(on_gpu, preset, kernels)
        row: dict = {"preset": preset, "points": [term.lattice.points for term in terms]}
        size = tuple(on_gpu[0].shape[1:])
        for term in terms_of(dense.preset(preset)):
            features = gpu._features(term, on_gpu[1], size, unary)
            row[f"lattice_{features.shape[0]}d_ms"] = wall_ms(lambda: TorchLattice(features), small(10))
        row["loop_ms"] = wall_ms(lambda: _crf_loop(steps, terms, unary, q), small(10))
        begun = time.perf_counter()
        _crf_loop(steps, terms, unary, q)
        row["loop_launched_after_ms"] = round((time.perf_counter() - begun) * 1000, 3)
        wait()
        for index, term in enumerate(terms):
            rows = steps.splat(term.lattice, q)
            row[f"splat_{index}_us"] = round(
                1000 * gpu_ms(lambda: steps.splat(term.lattice, q), small(30)), 1
            )
            row[f"blur_{index}_us"] = round(
                1000 * gpu_ms(lambda: steps.blur(term.lattice, rows.clone()), small(30)), 1
            )
            row[f"slice_{index}_us"] = round(
                1000 * gpu_ms(lambda: steps.slice(term.lattice, rows), small(30)), 1
            )
        if not DRY:
            with part.step(f"{preset}: the loop as a CUDA graph"):
                stream = torch.cuda.Stream()
                stream.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(stream):
                    _crf_loop(steps, terms, unary, q, 2)
                    stream.synchronize()
                    graph = torch.cuda.CUDAGraph()
                    with torch.cuda.graph(graph, stream=stream):
                        kept = _crf_loop(steps, terms, unary, q)
                row["loop_as_graph_ms"] = gpu_ms(graph.replay, 20)
                graph.replay()
                torch.cuda.synchronize()
                row["graph_differs_by"] = float((kept - _crf_loop(steps, terms, unary, q)).abs().max())
                del graph, kept
        part.add("parts", row)


def _crf_blocks(part: Part, on_gpu) -> None:
    """The loop as a CUDA graph with other block sizes, numbers of warps, and relaxed atomics."""
    import importlib.util
    import tempfile

    import torch

    from streamseg.crf import triton_kernels as plain

    text = Path(plain.__file__).read_text()
    variants = {
        "as it is": text,
        "relaxed": text.replace("value, mask=mask)\n\n", 'value, mask=mask, sem="relaxed")\n\n', 1),
    }
    if (HERE / "padded_kernels.py").exists():
        variants["padded rows"] = (HERE / "padded_kernels.py").read_text()
    folder = Path(tempfile.mkdtemp())
    want = None
    for name, source in variants.items():
        if name == "relaxed" and source == text:
            part.add(
                "blocks", {"kernels": name, "note": "nothing to change: already so, or written otherwise"}
            )
            continue
        path = folder / f"kernels_{name.replace(' ', '_')}.py"
        path.write_text(source)
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module
        spec.loader.exec_module(module)
        shape = module._shape
        padded = hasattr(module, "stride")
        sizes = ((32, 4), (64, 8)) if name == "as it is" else ((32, 4), (16, 2), (16, 4), (64, 4), (64, 8))
        for block, warps in sizes:
            with part.step(f"blocks of {block}, {warps} warps, {name}"):
                module._BLOCK = block
                module._shape = lambda rows, w=warps: {**shape(rows), "num_warps": w}
                _, terms, unary, q = _crf_terms(on_gpu, "deeplab-largefov", "triton")
                steps = module.TritonSteps(CRF_CLASSES) if padded else module.TritonSteps()
                if padded:
                    wide = module.stride(CRF_CLASSES) - CRF_CLASSES
                    unary = torch.nn.functional.pad(unary, (0, wide), value=-1e4)
                    q = torch.softmax(unary, 1)
                for term in terms:
                    term.steps = steps
                row = {"kernels": name, "block": block, "warps": warps}
                term, rows = terms[1], steps.splat(terms[1].lattice, q)
                row["splat_us"] = round(1000 * gpu_ms(lambda: steps.splat(term.lattice, q), 30), 1)
                row["blur_us"] = round(1000 * gpu_ms(lambda: steps.blur(term.lattice, rows), 30), 1)
                row["slice_us"] = round(1000 * gpu_ms(lambda: steps.slice(term.lattice, rows), 30), 1)
                stream = torch.cuda.Stream()
                stream.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(stream):
                    _crf_loop(steps, terms, unary, q, 2)
                    stream.synchronize()
                    graph = torch.cuda.CUDAGraph()
                    with torch.cuda.graph(graph, stream=stream):
                        kept = _crf_loop(steps, terms, unary, q)
                row["loop_as_graph_ms"] = gpu_ms(graph.replay, 20)
                found = kept[:, :CRF_CLASSES].clone()
                want = found if want is None else want
                row["differs_by"] = float(f"{float((found - want).abs().max()):.3g}")
                part.add("blocks", row)
                del graph, kept


def tiny_crf() -> None:
    """What compute-sanitizer and ncu run."""
    import msgspec
    import torch

    from streamseg import crf as dense
    from streamseg.crf import gpu
    from tests.crf_scenes import scene

    side = int(os.environ.get("SIDE", "48"))
    logits, image, _ = scene(side, side + 5, CRF_CLASSES)
    params = msgspec.structs.replace(dense.preset("deeplab-largefov"), iterations=1)
    q = gpu.mean_field_torch(
        torch.from_numpy(logits).cuda(), torch.from_numpy(image).cuda(), params, kernels="triton"
    )
    print("sum", float(q.sum()), "of", (side + 5) * side)
