"""Stage crf: the dense CRF on the GPU, its parts, and other shapes of its kernels."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from streamseg.runtime.cuda_graphs import record
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

if TYPE_CHECKING:
    from torch import Tensor

    from streamseg.crf.gpu import Kernels, Steps, Term

    OnGpu = tuple[Tensor, Tensor]  # logits (C, H, W) and the image (H, W, 3)


def crf(part: Part) -> None:
    import msgspec
    import numpy as np
    import torch

    from streamseg import crf as dense
    from streamseg.crf import gpu
    from streamseg.crf.gpu_graph import MeanField
    from tests.crf_scenes import TWO_RUNS_DIFFER, agreement, scene

    side = 6 if DRY else 513
    logits, image, _ = scene(side, side, CRF_CLASSES)
    on_gpu = torch.from_numpy(logits).to(device()), torch.from_numpy(image).to(device())
    kinds: list[Kernels] = ["triton", "torch"] if DRY or gpu.triton_available() else ["torch"]
    for preset in ("deeplab-largefov", "deeplab-v2-resnet101")[: 1 if DRY else None]:
        params = msgspec.structs.replace(dense.preset(preset), iterations=CRF_ITERATIONS)
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
                row: dict[str, Any] = {
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
                if not row["two_runs_differ_by"] <= TWO_RUNS_DIFFER:
                    raise RuntimeError(f"two runs differ by more than {TWO_RUNS_DIFFER}")
            with part.step(f"{preset} {kernels}, one graph a picture"):
                one = MeanField(params, kernels=kernels)
                run = functools.partial(one, *on_gpu)
                found = run().cpu().numpy()
                row = {"preset": preset, "kernels": f"{kernels}, graph", "ms": gpu_ms(run, small(20))}
                row |= {"agreement": round(agreement(found, want), 6), "recorded": one.recorded}
                part.add("times", row)
    with part.step("parts of it"):
        _crf_parts(part, on_gpu, kinds[0])
    if kinds[0] == "triton":
        with part.step("sizes of blocks"):
            _crf_blocks(part, on_gpu)
    with part.step("kernels"):
        run = functools.partial(
            gpu.mean_field_torch,
            *on_gpu,
            dense.preset("deeplab-largefov"),
            iterations=CRF_ITERATIONS,
            kernels=kinds[0],
        )
        part.put("kernels", top_kernels(run, 18))


def _crf_terms(on_gpu: OnGpu, preset: str, kernels: Kernels) -> tuple[Steps, list[Term], Tensor, Tensor]:
    import torch
    from torch.nn import functional

    from streamseg import crf as dense
    from streamseg.crf import gpu
    from streamseg.crf.params import terms_of

    logits, image = on_gpu
    classes = len(logits)
    steps = gpu.steps_for(kernels, logits.is_cuda)
    unary = functional.pad(logits.reshape(classes, -1).T, (0, steps.width(classes) - classes), value=-1e4)
    unary = unary.contiguous()
    terms = [gpu.Term(t, logits, image, steps) for t in terms_of(dense.preset(preset))]
    return steps, terms, unary, torch.softmax(unary, 1)


def _crf_loop(
    steps: Steps, terms: Sequence[Term], unary: Tensor, q: Tensor, iterations: int = CRF_ITERATIONS
) -> Tensor:
    for _ in range(iterations):
        q = steps.update(unary, [(term.lattice, term.rows(q), term.gain) for term in terms], CRF_CLASSES)
    return q


def _crf_parts(part: Part, on_gpu: OnGpu, kernels: Kernels) -> None:
    import torch

    from streamseg import crf as dense
    from streamseg.crf import gpu
    from streamseg.crf.params import terms_of
    from streamseg.crf.torch_lattice import TorchLattice

    for preset in ("deeplab-largefov", "deeplab-v2-resnet101")[: 1 if DRY else None]:
        steps, terms, unary, q = _crf_terms(on_gpu, preset, kernels)
        row: dict[str, Any] = {"preset": preset, "points": [int(term.lattice.points) for term in terms]}
        size = on_gpu[0].shape[1], on_gpu[0].shape[2]
        for pairwise, made in zip(terms_of(dense.preset(preset)), terms, strict=True):
            features, bounds = gpu._features(pairwise, on_gpu[1], size, unary)
            room = made.lattice.capacity
            row[f"lattice_{len(features)}d_ms"] = wall_ms(lambda: TorchLattice(features), small(10))
            row[f"lattice_{len(features)}d_with_room_ms"] = wall_ms(
                lambda: TorchLattice(features, bounds, room), small(10)
            )
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
        with part.step(f"{preset}: the loop as a CUDA graph"):
            work = functools.partial(_crf_loop, steps, terms, unary, q)
            loop = record(work, torch.cuda.Stream())
            row["loop_as_graph_ms"] = gpu_ms(loop.replay, 20)
            kept = loop.replay()
            wait()
            row["graph_differs_by"] = float((kept - work()).abs().max())
            del loop, kept
        part.add("parts", row)


def _crf_blocks(part: Part, on_gpu: OnGpu) -> None:
    """The loop as a CUDA graph with other block sizes and numbers of warps."""
    import torch

    from streamseg.crf import triton_kernels as module

    shape, block_before = module._shape, module._BLOCK
    want = None
    for block, warps in ((32, 4), (16, 2), (16, 4), (64, 4), (64, 8))[: 1 if DRY else None]:
        with part.step(f"blocks of {block}, {warps} warps"):
            module._BLOCK = block

            def shaped(rows: Tensor, block: int = block, warps: int = warps) -> dict[str, Any]:
                return {**shape(rows), "BLOCK": block, "num_warps": warps}

            module._shape = shaped
            steps, terms, unary, q = _crf_terms(on_gpu, "deeplab-largefov", "triton")
            row: dict[str, Any] = {"block": block, "warps": warps}
            term, rows = terms[1], steps.splat(terms[1].lattice, q)
            row["splat_us"] = round(1000 * gpu_ms(lambda: steps.splat(term.lattice, q), 30), 1)
            row["blur_us"] = round(1000 * gpu_ms(lambda: steps.blur(term.lattice, rows), 30), 1)
            row["slice_us"] = round(1000 * gpu_ms(lambda: steps.slice(term.lattice, rows), 30), 1)
            loop = record(functools.partial(_crf_loop, steps, terms, unary, q), torch.cuda.Stream())
            row["loop_as_graph_ms"] = gpu_ms(loop.replay, 20)
            found = loop.replay()[:, :CRF_CLASSES].clone()
            want = found if want is None else want
            row["differs_by"] = float(f"{float((found - want).abs().max()):.3g}")
            part.add("blocks", row)
            del loop
    module._shape, module._BLOCK = shape, block_before


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
        torch.from_numpy(logits).to(device()), torch.from_numpy(image).to(device()), params, kernels="triton"
    )
    print("sum", float(q.sum()), "of", (side + 5) * side)
