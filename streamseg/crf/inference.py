"""Mean field on arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy.typing as npt

from streamseg.crf import native
from streamseg.crf.job import Job, Outputs, make_job
from streamseg.crf.params import CrfParams, PairwiseTerm, Quality
from streamseg.errors import CrfError
from streamseg.types import F32


def mean_field(
    logits: npt.NDArray[Any],
    image: npt.NDArray[Any] | None,
    params: CrfParams | Sequence[PairwiseTerm],
    *,
    quality: Quality = "exact",
    threads: int = 1,
    iterations: int | None = None,
    workspace: native.Workspace | None = None,
) -> F32:
    """Approximate posterior marginals of a fully connected CRF (Krähenbühl & Koltun 2011, algorithm 1).

    logits (C, h, w) float32: log p of each class up to a constant per pixel, at the picture's size or below
    it (a network's own stride), then scaled bilinearly, pixel centres aligned. -inf is p = 0. image (H, W,
    channels) uint8 or float32 of up to 13 channels; None where no term looks at it.
    Returns probabilities (C, H, W) float32, the caller's.

    quality: `exact` is the reference's arithmetic; the others iterate on every second or fourth pixel and
    take the last step on all of them (docs/design/0006-dense-crf.md says what each costs). 1 and 2 threads
    give the same result to the bit. Blocks, without the GIL. A `workspace` spares allocation and the lattice
    of kernels that see only positions; it belongs to one caller at a time.

    Raises CrfError for wrong shapes, wrong parameters and NaN, and where the compiled library is missing;
    MemoryError.
    """
    job = make_job(
        logits,
        image,
        params,
        quality=quality,
        iterations=iterations,
        threads=threads,
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
        out_stride=out_stride,
        probabilities=probabilities,
        log_probabilities=log_probabilities,
        labels=labels,
    )
    if not (probabilities or log_probabilities or labels):
        raise CrfError("none of probabilities, log_probabilities and labels was asked for")
    return run_job(job, workspace)


def run_job(job: Job, workspace: native.Workspace | None = None) -> Outputs:
    """Run a checked job; raises CrfError where the compiled library is missing."""
    if workspace is not None:
        return workspace.run(job)
    with native.Workspace() as space:
        return space.run(job)
