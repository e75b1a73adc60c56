"""What travels along the route: Frame → Logits → Mask, with Refined joining from the side.

All are frozen and own their arrays: whoever receives one may keep it and must not write into it. Sizes are
(height, width). dtype, dimensions and contiguity are checked once, here, so that no stage checks again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

IGNORE = 255
"""The label that counts nowhere: unlabelled in ground truth, outside the picture in a mask."""

Size = tuple[int, int]
"""(height, width) in pixels."""

Clock = Literal["camera", "arrival"]
"""Where captured_unix_ns comes from: the camera's clock (RTCP), or the moment the frame was decoded here."""

U8 = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]


class DevicePicture(Protocol):
    """A decoded picture that lies on a GPU; any thread may ask."""

    @property
    def size(self) -> Size: ...

    def rgb(self) -> U8:
        """Bring it here, (H, W, 3); the next time it is here already."""
        ...


class DeviceLogits(Protocol):
    """One frame's logits (C, h, w) that lie where they were computed; any thread may ask."""

    def to_host(self) -> F32:
        """Bring them here; the next time they are here already."""
        ...

    def labels(self, size: Size) -> U8:
        """What inference.upsample makes of them, (H, W): computed there, and only that is brought here."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One decoded picture.

    epoch counts the connections of a stream (PTS may restart with each), seq the decoded frames of an epoch
    from 0. pts is in units of time_base and exactly the container's; None where the container has none. The
    picture may lie on a GPU: then rgb is made when somebody first asks, and size is known without.
    """

    stream: str
    epoch: int
    seq: int
    pts: int | None
    time_base: Fraction
    captured_unix_ns: int
    clock: Clock
    picture: U8 | DevicePicture  # (H, W, 3) RGB, or where the decoder left it
    decoded_ns: int  # monotonic, when the picture was ready
    decode_us: int = 0

    def __post_init__(self) -> None:
        if not hasattr(self.picture, "rgb"):
            _check("Frame.picture", self.picture, np.uint8, (None, None, 3))

    @property
    def rgb(self) -> U8:
        """The picture here, (H, W, 3)."""
        return self.picture if isinstance(self.picture, np.ndarray) else self.picture.rgb()

    @property
    def size(self) -> Size:
        if isinstance(self.picture, np.ndarray):
            return self.picture.shape[0], self.picture.shape[1]
        return self.picture.size

    @property
    def pts_ns(self) -> int | None:
        """Presentation time in nanoseconds, rounded to the nearest."""
        return None if self.pts is None else round(self.pts * self.time_base * 1_000_000_000)


@dataclass(frozen=True, slots=True)
class Geometry:
    """How a frame became a network input: scaled to input_size as a whole, without borders.

    Pixel centres line up: x_input = (x_frame + 0.5) · w_input / w_frame − 0.5, and the same for y.
    """

    frame_size: Size
    input_size: Size


@dataclass(frozen=True, slots=True, eq=False)
class Logits:
    """What the network said about one frame: logits before softmax, on the grid of its output stride.

    They may lie where they were computed: then logits is made when somebody first asks.
    """

    frame: Frame
    data: F32 | DeviceLogits  # (C, h, w)
    geometry: Geometry
    stage_us: dict[str, int] = field(default_factory=dict)
    engine: str = ""  # id of the one that said it

    def __post_init__(self) -> None:
        if not hasattr(self.data, "to_host"):
            _check("Logits.data", self.data, np.float32, (None, None, None))

    @property
    def array(self) -> F32:
        """The logits here, (C, h, w)."""
        return self.data if isinstance(self.data, np.ndarray) else self.data.to_host()


@dataclass(frozen=True, slots=True, eq=False)
class Refined:
    """The dense CRF's answer to one keyframe."""

    scores: Logits  # of the keyframe
    log_probabilities: F32 | None  # (C, h, w), half the network's input, where fusion wants them
    took_s: float
    labels: U8 | None = None  # (H, W), where a mask of the keyframe was wanted

    def __post_init__(self) -> None:
        if self.log_probabilities is not None:
            _check("Refined.log_probabilities", self.log_probabilities, np.float32, (None, None, None))
        if self.labels is not None:
            _check("Refined.labels", self.labels, np.uint8, (None, None))


@dataclass(frozen=True, slots=True, eq=False)
class Mask:
    """One published label mask.

    n counts the published masks of a stream: a gap in n was lost on the way to you, a gap in seq alone was
    skipped by us. revision 0 is the mask that comes at once, 1 the same frame after the dense CRF.
    refined_seq is the keyframe whose refinement went into this mask, None when there was none. n and run are
    given by the publisher; run is drawn when a publisher starts, so a new run is a restart: n begins again.
    """

    stream: str
    epoch: int
    seq: int
    n: int
    revision: Literal[0, 1]
    refined_seq: int | None
    pts: int | None
    time_base: Fraction
    captured_unix_ns: int
    clock: Clock
    labels: U8  # (H, W), class ids, IGNORE where nothing is known
    label_set: str
    engine: str
    confidence: U8 | None = None  # (H, W), highest probability, 0..255 for 0..1
    stage_us: dict[str, int] = field(default_factory=dict)
    published_unix_ns: int = 0
    run: int = 0  # below 2**53, so that every language's number holds it

    def __post_init__(self) -> None:
        _check("Mask.labels", self.labels, np.uint8, (None, None))
        if self.confidence is not None:
            _check("Mask.confidence", self.confidence, np.uint8, self.labels.shape)

    @property
    def size(self) -> Size:
        return self.labels.shape[0], self.labels.shape[1]

    @property
    def pts_ns(self) -> int | None:
        """Presentation time in nanoseconds, rounded to the nearest."""
        return None if self.pts is None else round(self.pts * self.time_base * 1_000_000_000)


@dataclass(frozen=True, slots=True, eq=False)
class Preview:
    """The frame that a mask belongs to, as a small JPEG; run, epoch, seq and n are that mask's."""

    stream: str
    epoch: int
    seq: int
    n: int
    pts: int | None
    time_base: Fraction
    captured_unix_ns: int
    clock: Clock
    jpeg: bytes
    size: Size  # of the JPEG
    frame_size: Size
    published_unix_ns: int = 0
    run: int = 0


@dataclass(frozen=True, slots=True)
class ClassInfo:
    """One class of a label set; its id is its position."""

    name: str
    colour: tuple[int, int, int]  # RGB
    thin: bool = False  # narrower than the CRF's kernels: fusion keeps it from the raw network


@dataclass(frozen=True, slots=True)
class LabelSet:
    """The classes that labels refer to."""

    id: str
    classes: tuple[ClassInfo, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.classes)

    def palette(self) -> U8:
        """RGB for each of the 256 label values, (256, 3); black where there is no class."""
        table = np.zeros((256, 3), np.uint8)
        for i, c in enumerate(self.classes):
            table[i] = c.colour
        return table


def _check(name: str, array: Any, dtype: type[np.generic], shape: tuple[int | None, ...]) -> None:
    if not isinstance(array, np.ndarray) or array.dtype != dtype:
        raise TypeError(f"{name}: must be {np.dtype(dtype).name}, is {getattr(array, 'dtype', type(array))}")
    if array.ndim != len(shape) or any(
        want is not None and have != want for have, want in zip(array.shape, shape, strict=True)
    ):
        raise ValueError(f"{name}: must be {shape}, is {array.shape}")
    if not array.flags.c_contiguous:
        raise ValueError(f"{name}: must be C-contiguous")
