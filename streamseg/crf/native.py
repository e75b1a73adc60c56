"""Mean field on arrays, by the compiled library (native/) through ctypes, which releases the GIL."""

from __future__ import annotations

import ctypes
import functools
import threading
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from streamseg.crf.params import CrfParams, Job, Outputs, PairwiseTerm, Quality, make_job
from streamseg.errors import CrfError
from streamseg.runtime.native import load_library
from streamseg.types import F32

InstructionSet = Literal["auto", "portable", "avx2", "avx512"]
_INSTRUCTION_SETS: tuple[InstructionSet, ...] = ("auto", "portable", "avx2", "avx512")
_ABI = 1
_KEEP_LATTICE, _FILTER = 1, 4
_MOST_STATS = 8
_MEMORY, _INTERNAL = 4, 5

REMEDY = "install a C++ compiler (Debian: apt install g++), then pip install --force-reinstall streamseg"

_pointer, _int, _float = ctypes.c_void_p, ctypes.c_int32, ctypes.c_float


def mean_field(
    logits: npt.NDArray[Any],
    image: npt.NDArray[Any] | None,
    params: CrfParams | Sequence[PairwiseTerm],
    *,
    quality: Quality = "exact",
    threads: int = 1,
    iterations: int | None = None,
    workspace: Workspace | None = None,
) -> F32:
    """Approximate posterior marginals of a fully connected CRF (Krähenbühl & Koltun 2011, algorithm 1).

    logits (C, h, w) float32: log p of each class up to a constant per pixel, at the picture's size or below
    it (a network's own stride), then scaled bilinearly, pixel centres aligned. -inf is p = 0. image (H, W,
    channels) uint8 or float32 of up to 13 channels; None where no term looks at it.
    Returns probabilities (C, H, W) float32, the caller's.

    quality: `exact` is the reference's arithmetic on every pixel in every iteration; the others iterate on
    every second or fourth pixel, at most five times, and take the last step on all of them
    (docs/design/0006-dense-crf.md says what each costs). 1 and 2 threads give the same result to the bit.
    Blocks, without the GIL. A `workspace` spares allocation and the lattice of kernels that see only
    positions; callers that share one take turns.

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
    workspace: Workspace | None = None,
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
        raise CrfError("ask for probabilities, log_probabilities or labels")
    return run_job(job, workspace)


def run_job(job: Job, workspace: Workspace | None = None) -> Outputs:
    """Run a checked job; raises CrfError where the compiled library is missing."""
    if workspace is not None:
        return workspace.run(job)
    with Workspace() as space:
        return space.run(job)


class _Term(ctypes.Structure):
    _fields_ = (
        ("features", _pointer),
        ("dims", _int),
        ("sigma_x", _float),
        ("sigma_y", _float),
        ("sigma_channels", _pointer),
        ("compat", _pointer),
        ("compat_kind", _int),
        ("normalisation", _int),
    )


class _Job(ctypes.Structure):
    _fields_ = (
        ("classes", _int),
        ("height", _int),
        ("width", _int),
        ("channels", _int),
        ("logits_height", _int),
        ("logits_width", _int),
        ("logits", _pointer),
        ("start", _pointer),
        ("image", _pointer),
        ("image_type", _int),
        ("term_count", _int),
        ("terms", _pointer),
        ("iterations", _int),
        ("lattice_stride", _int),
        ("out_stride", _int),
        ("threads", _int),
        ("instruction_set", _int),
        ("flags", _int),
        ("probabilities", _pointer),
        ("log_probabilities", _pointer),
        ("labels", _pointer),
    )


class _Stats(ctypes.Structure):
    _fields_ = (
        ("points", _int * _MOST_STATS),
        ("simplices", _int * _MOST_STATS),
        ("instruction_set", _int),
    )


class LatticeStats(NamedTuple):
    """What the last call built."""

    points: tuple[int, ...]  # lattice points, per term
    simplices: tuple[int, ...]  # simplices with a pixel in them, per term
    instruction_set: InstructionSet


def native_available() -> bool:
    """Whether the compiled library is there."""
    return not native_missing_reason()


@functools.cache
def native_missing_reason() -> str:
    """Why the compiled library cannot be used and how to get it, in one line; empty if it can be used."""
    try:
        _library()
    except OSError as error:
        return f"the compiled CRF is missing; {REMEDY} ({error})"
    return ""


def best_instruction_set() -> InstructionSet:
    """The fastest instruction set of this machine that the library has kernels for; needs the library."""
    return _INSTRUCTION_SETS[int(_library().ss_crf_instruction_set())]


class Workspace:
    """Memory for calls of any size, one after another, and the lattices of kernels that see only positions.

    Threads that share one take turns. Grows to what the largest call needed; `close` gives it back, and so
    does dropping the last reference. A context manager. Raises CrfError where the compiled library is
    missing.
    """

    def __init__(self) -> None:
        if reason := native_missing_reason():
            raise CrfError(reason)
        self._library = _library()
        self._lock = threading.Lock()  # guards the handle: its memory serves one call at a time
        self._handle: int | None = self._library.ss_crf_workspace_new()
        if not self._handle:
            raise MemoryError("no memory for a CRF workspace")
        self.stats: LatticeStats | None = None

    def run(self, job: Job, instruction_set: InstructionSet = "auto") -> Outputs:
        """Run one job, whose arrays are checked already; raises CrfError or MemoryError. Releases the GIL."""
        terms, alive = _terms_of(job)
        outputs = job.empty_outputs()
        height, width = job.size
        image = job.image
        call = _Job(
            job.classes,
            height,
            width,
            1 if image is None else image.shape[2],
            *job.logits.shape[1:],
            job.logits.ctypes.data,
            None if job.start is None else job.start.ctypes.data,
            None if image is None else image.ctypes.data,
            0 if image is None else 1 if image.dtype == np.uint8 else 2,
            len(job.terms),
            ctypes.addressof(terms),
            job.iterations,
            job.lattice_stride,
            job.out_stride,
            job.threads,
            _INSTRUCTION_SETS.index(instruction_set),
            (_KEEP_LATTICE if job.keep_lattice else 0) | (_FILTER if job.filter_only else 0),
            *(None if array is None else array.ctypes.data for array in outputs),
        )
        stats = _Stats()
        message = ctypes.create_string_buffer(512)
        with self._lock:
            if not self._handle:
                raise CrfError("this CRF workspace is closed")
            code = self._library.ss_crf_run(
                self._handle, ctypes.byref(call), ctypes.byref(stats), message, len(message)
            )
        del alive  # kept what the structures point to until here
        if code == _MEMORY:
            raise MemoryError(f"CRF on {job.classes} classes, {height}x{width}: out of memory")
        if code:
            text = message.value.decode(errors="replace")
            raise CrfError(f"internal error: {text}" if code == _INTERNAL else text)
        count = min(len(job.terms), _MOST_STATS)
        self.stats = LatticeStats(
            tuple(stats.points[:count]),
            tuple(stats.simplices[:count]),
            _INSTRUCTION_SETS[stats.instruction_set],
        )
        return outputs

    def close(self) -> None:
        """Free the memory; closing twice is fine."""
        with self._lock:
            if self._handle:
                self._library.ss_crf_workspace_free(self._handle)
                self._handle = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self.close()


@functools.cache
def _library() -> ctypes.CDLL:
    library = load_library("_crf")
    if library.ss_crf_abi() != _ABI:
        raise OSError(f"_crf.so has ABI {library.ss_crf_abi()}, this streamseg needs {_ABI}: build it again")
    library.ss_crf_workspace_new.restype = _pointer
    library.ss_crf_workspace_free.argtypes = (_pointer,)
    library.ss_crf_workspace_free.restype = None
    library.ss_crf_run.argtypes = (_pointer, _pointer, _pointer, ctypes.c_char_p, ctypes.c_size_t)
    return library


def _terms_of(job: Job) -> tuple[ctypes.Array[_Term], list[F32]]:
    """The terms as C structures, and the arrays they point into."""
    alive: list[F32] = []

    def keep(array: F32 | None) -> int | None:
        if array is None:
            return None
        alive.append(array)
        return array.ctypes.data

    def convert(term: PairwiseTerm) -> _Term:
        compat = term.compatibility_array(job.classes)
        channels = 0 if job.image is None else job.image.shape[2]
        features = None if term.features is None else np.ascontiguousarray(term.features, np.float32)
        sigma_x, sigma_y = term.sigma_x_y() if features is None else (0.0, 0.0)
        return _Term(
            keep(features),
            0 if features is None else features.shape[0],
            sigma_x,
            sigma_y,
            keep(term.channel_sigmas(channels)),
            keep(compat),
            compat.ndim,
            int(term.normalisation),
        )

    return (_Term * len(job.terms))(*map(convert, job.terms)), alive
