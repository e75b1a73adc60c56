"""pydensecrf, the reference implementation, in a process of its own: it holds the GIL while it runs."""

from __future__ import annotations

import contextlib
import importlib.util
import multiprocessing
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from streamseg.crf.job import Job, make_job
from streamseg.crf.params import CrfParams
from streamseg.errors import CrfError
from streamseg.types import F32

_STOP_S = 2.0


def reference_available() -> bool:
    """Whether pydensecrf is installed (the extra `pydensecrf`)."""
    return importlib.util.find_spec("pydensecrf") is not None


class ReferenceCrf:
    """Owns one child process that runs pydensecrf; used by one thread at a time, a context manager.

    The child starts with the first job. One that died or overran its time is replaced, with a new pipe, since
    the old one may hold half a message; the job that it took with it is tried once more.
    """

    def __init__(self, timeout_s: float = 60.0) -> None:
        if not reference_available():
            raise CrfError("pydensecrf is not installed: pip install 'streamseg[pydensecrf]'")
        self.timeout_s = timeout_s
        self.restarts = 0
        self._child: multiprocessing.process.BaseProcess | None = None
        self._pipe: Connection[Any, Any] | None = None

    def mean_field(
        self,
        logits: npt.NDArray[Any],
        image: npt.NDArray[Any],
        params: CrfParams,
        align_corners: bool = False,
    ) -> F32:
        """The same as streamseg.crf.mean_field with quality exact; blocks, without the GIL."""
        job = make_job(logits, image, params, align_corners=align_corners)
        if job.image is None or job.image.dtype != np.uint8 or job.image.shape[2] != 3:
            raise CrfError("pydensecrf takes RGB pictures of uint8 only")
        for attempt in (1, 2):
            try:
                return self._ask((job.logits, job.image, params, align_corners))
            except (EOFError, OSError, TimeoutError) as error:
                self._drop()
                self.restarts += 1
                if attempt == 2:
                    raise CrfError(f"pydensecrf's process failed twice: {error!r}") from error
        raise AssertionError("unreachable")

    @property
    def pid(self) -> int | None:
        """The child's, while there is one."""
        return self._child.pid if self._child is not None else None

    def close(self) -> None:
        """End the child; closing twice is fine, and a later job starts another."""
        if self._pipe is not None:
            with contextlib.suppress(OSError):  # it may be gone already
                self._pipe.send(None)
            if self._child is not None:
                self._child.join(_STOP_S)
        self._drop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, job: tuple[Any, ...]) -> F32:
        pipe = self._pipe or self._start()
        pipe.send(job)
        if not pipe.poll(self.timeout_s):
            raise TimeoutError(f"nothing for {self.timeout_s:g} s")
        answer: F32 | str = pipe.recv()
        if isinstance(answer, str):
            raise CrfError(answer)
        return answer

    def _start(self) -> Connection[Any, Any]:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        self._child = context.Process(target=_serve, args=(theirs,), name="pydensecrf", daemon=True)
        self._child.start()
        theirs.close()  # so that its end shows as EOF here
        self._pipe = ours
        return ours

    def _drop(self) -> None:
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None
        if self._child is not None:
            self._child.kill()
            self._child.join()
            self._child.close()
            self._child = None


def _serve(pipe: Connection[Any, Any]) -> None:
    """The child: one job after another until the pipe ends."""
    while True:
        try:
            job = pipe.recv()
        except EOFError:
            return
        if job is None:
            return
        logits, image, params, align_corners = job
        try:
            answer: F32 | str = run_reference(make_job(logits, image, params, align_corners=align_corners))
        except (ValueError, MemoryError) as error:
            answer = f"pydensecrf: {error}"
        pipe.send(answer)


def run_reference(job: Job) -> F32:
    """Run pydensecrf here and now, holding the GIL: probabilities (C, H, W)."""
    import pydensecrf.densecrf as dense

    from streamseg.crf.fallback import full_unary

    height, width = job.size
    crf = dense.DenseCRF2D(width, height, job.classes)
    rows = full_unary(job)  # (N, C), log p up to a constant
    crf.setUnaryEnergy(np.ascontiguousarray(-rows.T))
    for term in job.terms:
        compat = term.compatibility_array(job.classes)
        # pydensecrf subtracts a vector times Q, where ours rewards equal labels.
        given = {"compat": float(compat) if compat.ndim == 0 else -compat if compat.ndim == 1 else compat}
        given["normalization"] = dense.NormalizationType(int(term.normalisation))
        if term.features is not None:
            crf.addPairwiseEnergy(np.ascontiguousarray(term.features, np.float32), **given)
        elif term.sigma_channels is None:
            crf.addPairwiseGaussian(sxy=term.sigma_x_y(), **given)
        else:
            assert job.image is not None
            sigmas = term.channel_sigmas(job.image.shape[2])
            assert sigmas is not None
            crf.addPairwiseBilateral(
                sxy=term.sigma_x_y(), srgb=tuple(float(s) for s in sigmas), rgbim=job.image, **given
            )
    return np.array(crf.inference(job.iterations), np.float32).reshape(job.classes, height, width)
