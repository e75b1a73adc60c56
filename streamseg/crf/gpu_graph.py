"""Mean field on a GPU for one picture after another: a CUDA graph for each size."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from streamseg.crf.gpu import Kernels, Steps, Term, checked, inferred, steps_for
from streamseg.crf.params import CrfParams, PairwiseTerm, terms_of
from streamseg.errors import CrfError
from streamseg.runtime.cuda_graphs import Recorded, record

if TYPE_CHECKING:
    from torch import Tensor

_ROOM = 1.5  # rows for so many times the points of the first picture
_ROWS = 1024  # their number is a multiple of this
_MOST_SIZES = 4  # of pictures; each has its graph and its memory


class MeanField:
    """mean_field_torch for one picture after another, each by one launch of its size's CUDA graph.

    What depends on the size alone, the lattice of positions and its norms, is made once. The appearance
    lattice has room for more points than the first picture needed; a picture that needs still more is found
    out behind the graph, which is then recorded anew. Off a GPU it computes without graphs. Belongs to one
    thread at a time; the sizes used last keep their memory.
    """

    def __init__(
        self, params: CrfParams, *, iterations: int | None = None, kernels: Kernels = "auto"
    ) -> None:
        self._params, self._iterations, self._kernels = params, iterations, kernels
        self._sizes: OrderedDict[Any, _OneSize] = OrderedDict()
        self.recorded = 0  # graphs, since it was made

    def __call__(self, logits: Tensor, image: Tensor) -> Tensor:
        """Compute as mean_field_torch does. image (H, W, channels) must be uint8.

        The result is written again by the next call.
        """
        import torch

        iterations = checked(logits, image, self._params, self._iterations)
        if image.dtype != torch.uint8:
            raise CrfError(f"image: must be uint8; is {image.dtype}")
        shape = (tuple(logits.shape), tuple(image.shape), logits.device)
        if shape not in self._sizes:
            while len(self._sizes) >= _MOST_SIZES:
                self._sizes.popitem(last=False)
            self._sizes[shape] = _OneSize(
                logits, image, terms_of(self._params), iterations, steps_for(self._kernels, logits.is_cuda)
            )
        self._sizes.move_to_end(shape)
        one = self._sizes[shape]
        before = one.recorded
        try:
            return one(logits, image)
        finally:
            self.recorded += one.recorded - before


class _OneSize:
    """MeanField for pictures of one size."""

    def __init__(
        self,
        logits: Tensor,
        image: Tensor,
        pairwise: Sequence[PairwiseTerm],
        iterations: int,
        steps: Steps,
    ) -> None:
        import torch

        self._logits = torch.empty_like(logits, dtype=torch.float32)
        self._image = torch.empty_like(image)
        self._pairwise, self._iterations, self._steps = pairwise, iterations, steps
        self._first = [Term(t, logits, image, steps) for t in pairwise]
        self._rooms = [_with_room(int(t.lattice.points)) for t in self._first if t.looks_at_image]
        cuda: Any = torch.cuda
        self._stream = cuda.Stream() if is_on_gpu(logits) else None
        self._graph: Recorded[tuple[Tensor, Tensor]] | None = None
        self.recorded = 0

    def __call__(self, logits: Tensor, image: Tensor) -> Tensor:
        self._logits.copy_(logits)
        self._image.copy_(image)
        while True:
            q, state = self._run()
            is_finite, *points = state.tolist()  # waits for the device
            if not is_finite:
                raise CrfError("unary holds NaN or infinity")
            if all(count <= room for count, room in zip(points, self._rooms, strict=True)):
                return q
            self._rooms = [_with_room(count) for count in points]
            self._graph = None

    def _run(self) -> tuple[Tensor, Tensor]:
        if self._stream is None:
            return self.work()
        if self._graph is None:
            self._graph = record(self.work, self._stream)
            self.recorded += 1
        return self._graph.replay()

    def work(self) -> tuple[Tensor, Tensor]:
        """The probabilities, and whether the logits are finite followed by the points of each lattice."""
        import torch

        rooms = iter(self._rooms)
        terms, points = [], []
        for pairwise, term in zip(self._pairwise, self._first, strict=True):
            if term.looks_at_image:
                term = Term(pairwise, self._logits, self._image, self._steps, next(rooms), term.compatibility)
                points.append(term.lattice.points)
            terms.append(term)
        q, is_finite = inferred(self._logits, terms, self._steps, self._iterations)
        return q, torch.stack([is_finite.to(torch.int64), *points])


def is_on_gpu(tensor: Tensor) -> bool:
    """Whether work on the tensor may be recorded."""
    return tensor.is_cuda


def _with_room(points: int) -> int:
    """Rows for some more points than these."""
    return -(-int(points * _ROOM) // _ROWS) * _ROWS
