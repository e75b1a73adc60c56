"""Mean field on arrays: the compiled library where it is there, NumPy where it is not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from streamseg.crf import fallback, native
from streamseg.crf.job import Job, Outputs, make_job
from streamseg.crf.params import CrfParams, PairwiseTerm, Quality
from streamseg.errors import CrfError
from streamseg.types import F32, Size


def mean_field(
    logits: npt.NDArray[Any],
    image: npt.NDArray[Any] | None,
    params: CrfParams | Sequence[PairwiseTerm],
    *,
    quality: Quality = "exact",
    threads: int = 1,
    iterations: int | None = None,
    align_corners: bool = False,
    workspace: native.Workspace | None = None,
) -> F32:
    """Approximate posterior marginals of a fully connected CRF (Krähenbühl & Koltun 2011, algorithm 1).

    logits (C, h, w) float32: log p of each class up to a constant per pixel, at the picture's size or below
    it (a network's own stride), then scaled bilinearly, pixel centres aligned unless `align_corners`. -inf
    is p = 0. image (H, W, channels) uint8 or float32 of up to 13 channels; None where no term looks at it.
    Returns probabilities (C, H, W) float32, the caller's.

    quality: `exact` is the reference's arithmetic; the others iterate on every second or fourth pixel and
    take the last step on all of them (docs/design/0006-dense-crf.md says what each costs). 1 and 2 threads
    give the same result to the bit. Blocks, without the GIL. A `workspace` spares allocation and the lattice
    of kernels that see only positions; it belongs to one caller at a time.

    Raises CrfError for shapes, parameters and NaN that cannot be, MemoryError.
    """
    job = make_job(
        logits,
        image,
        params,
        quality=quality,
        iterations=iterations,
        threads=threads,
        align_corners=align_corners,
    )
    outputs = run_job(job, workspace)
    assert outputs.probabilities is not None
    return outputs.probabilities


def mean_field_outputs(
    logits: npt.NDArray[Any],
    image: npt.NDArray[Any] | None,
    params: CrfParams | Sequence[PairwiseTerm],
    *,
    quality: Quality = "exact",
    threads: int = 1,
    iterations: int | None = None,
    align_corners: bool = False,
    workspace: native.Workspace | None = None,
    out_stride: int = 1,
    probabilities: bool = False,
    log_probabilities: bool = False,
    labels: bool = False,
) -> Outputs:
    """The same as mean_field, with only the outputs asked for, at every `out_stride`-th pixel (1, 2, 4 or 8).

    Outputs are (C, ceil(H / out_stride), ceil(W / out_stride)). Where mean field ran at a finer stride they
    are means over blocks; where it ran at the same stride nothing is scaled, which is the cheapest.
    """
    job = make_job(
        logits,
        image,
        params,
        quality=quality,
        iterations=iterations,
        threads=threads,
        align_corners=align_corners,
        out_stride=out_stride,
        probabilities=probabilities,
        log_probabilities=log_probabilities,
        labels=labels,
    )
    if not (probabilities or log_probabilities or labels):
        raise CrfError("none of probabilities, log_probabilities and labels was asked for")
    return run_job(job, workspace)


def mean_field_batch(
    logits: npt.NDArray[Any],
    images: npt.NDArray[Any],
    params: CrfParams | Sequence[PairwiseTerm],
    *,
    quality: Quality = "exact",
    threads: int = 1,
    iterations: int | None = None,
    align_corners: bool = False,
    workspace: native.Workspace | None = None,
) -> F32:
    """mean_field for logits (N, C, h, w) and images (N, H, W, channels) → (N, C, H, W), one after another."""
    if logits.ndim != 4 or images.ndim not in (3, 4) or len(logits) != len(images):
        raise CrfError(
            f"a batch: logits (N, C, h, w) and images (N, H, W, channels) are wanted, "
            f"got {logits.shape} and {images.shape}"
        )
    result = np.empty((*logits.shape[:2], *images.shape[1:3]), np.float32)
    space = workspace if workspace is not None or not native.available() else native.Workspace()
    for index, (scores, image) in enumerate(zip(logits, images, strict=True)):
        result[index] = mean_field(
            scores,
            image,
            params,
            quality=quality,
            threads=threads,
            iterations=iterations,
            align_corners=align_corners,
            workspace=space,
        )
    return result


def gaussian_filter(
    values: npt.NDArray[Any],
    image: npt.NDArray[Any] | None,
    term: PairwiseTerm,
    *,
    size: Size | None = None,
    threads: int = 1,
    workspace: native.Workspace | None = None,
) -> F32:
    """One term's message: values (C, H, W) through its kernel, normalisation, weight and compatibility.

    A Potts or per-class compatibility multiplies, a matrix μ gives −μ · filtered: what mean field adds to
    log Q (Krähenbühl & Koltun 2011, equation 4). Returns (C, H, W) float32.
    """
    job = make_job(values, image, [term], size=size, threads=threads, iterations=1, filter_only=True)
    outputs = run_job(job, workspace)
    assert outputs.probabilities is not None
    return outputs.probabilities


def run_job(job: Job, workspace: native.Workspace | None = None) -> Outputs:
    """Run a checked job on whatever this install has."""
    if not native.available():
        return fallback.run(job)
    if workspace is not None:
        return workspace.run(job)
    with native.Workspace() as space:
        return space.run(job)
