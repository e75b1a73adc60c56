"""What travels along the route: Frame → Logits → Mask, with Refined joining from the side.

All are frozen and own their arrays: a receiver may keep one and must not write into it. Sizes are (height,
width). dtype, dimensions and contiguity are checked here, once, so that no stage checks again.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, cast

import numpy as np
import numpy.typing as npt

from streamseg.types.label_set import NO_CLASSES as NO_CLASSES
from streamseg.types.label_set import ClassInfo as ClassInfo
from streamseg.types.label_set import LabelSet as LabelSet
from streamseg.types.picture import U8 as U8
from streamseg.types.picture import ArrayPicture, Picture
from streamseg.types.picture import Size as Size
from streamseg.types.sizes import MaskSize, nearest

if TYPE_CHECKING:
    from streamseg.config import EventConfig, LabelsConfig, ZoneConfig
    from streamseg.inference.label_view import LabelView

IGNORE = 255
"""The label of pixels that count nowhere: unlabelled in ground truth, outside the picture in a mask."""

Clock = Literal["camera", "arrival"]
"""Where captured_unix_ns comes from: the camera's clock (RTCP), or when its packet arrived."""

AnswerKind = Literal["logits", "probabilities", "labels"]
"""What a network says of each cell: a number for each class before or after softmax, or a class id."""

U64 = npt.NDArray[np.uint64]
F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]


class DeviceLogits(Protocol):
    """One frame's logits (C, h, w) in a GPU's memory; any thread may ask."""

    def to_host(self) -> F32:
        """Copy them to the host; only the first call copies."""
        ...

    def labels(
        self,
        size: Size,
        view: LabelView | None = None,
        probabilities: bool = False,
        temperature: float = 1.0,
    ) -> U8:
        """What inference.scaling makes of them, (H, W): computed on the GPU, only the labels are copied."""
        ...


@dataclass(frozen=True, slots=True)
class Stamp:
    """Which frame of which stream, and when; a frame, its masks and its preview carry the same one.

    epoch counts the connections of a stream (PTS may restart with each), seq the decoded frames of an epoch
    from 0. pts is in units of time_base and exactly the container's; None where the container has none.

    n, run and published_unix_ns are 0 until the publisher sets them. n counts the published masks of a
    stream: a gap in n was lost on the way to you, a gap in seq alone was skipped by the daemon. run is drawn
    when a publisher starts, so a new run is a restart: n begins again.
    """

    stream: str
    epoch: int
    seq: int
    pts: int | None
    time_base: Fraction
    captured_unix_ns: int
    clock: Clock
    n: int = 0
    run: int = 0  # below 2**53, so that every language's number holds it
    published_unix_ns: int = 0

    @property
    def pts_ns(self) -> int | None:
        """Presentation time in nanoseconds, rounded to the nearest."""
        return None if self.pts is None else round(self.pts * self.time_base * 1_000_000_000)


@dataclass(frozen=True, slots=True, eq=False)
class Stamped:
    """What carries a stamp; the stamp's fields are read as its own."""

    stamp: Stamp

    @property
    def stream(self) -> str:
        return self.stamp.stream

    @property
    def epoch(self) -> int:
        return self.stamp.epoch

    @property
    def seq(self) -> int:
        return self.stamp.seq

    @property
    def pts(self) -> int | None:
        return self.stamp.pts

    @property
    def pts_ns(self) -> int | None:
        return self.stamp.pts_ns

    @property
    def time_base(self) -> Fraction:
        return self.stamp.time_base

    @property
    def captured_unix_ns(self) -> int:
        return self.stamp.captured_unix_ns

    @property
    def clock(self) -> Clock:
        return self.stamp.clock

    @property
    def n(self) -> int:
        return self.stamp.n

    @property
    def run(self) -> int:
        return self.stamp.run

    @property
    def published_unix_ns(self) -> int:
        return self.stamp.published_unix_ns

    def stamped(self, **changes: Any) -> Self:
        """The same with these fields of the stamp replaced."""
        return replace(self, stamp=replace(self.stamp, **changes))


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class EngineKey:
    """Stands for one engine that serves, in the frames that it is to run on; compared by identity.

    When the engine of a name becomes another one, that is another key.
    """

    name: str = "default"  # as a stream's setting `engine` has it


DEFAULT_ENGINE = EngineKey()


@dataclass(frozen=True, slots=True, eq=False)
class FrameSettings:
    """The settings of a live stream that matter behind its source; each of its frames refers to them.

    One object serves all frames until a setting changes; the frames that follow refer to another one.
    """

    live: bool = True  # a newer frame replaces the one that waits; False: each waits for its turn
    max_age_ms: float | None = None
    mask_size: MaskSize = "frame"
    hwaccel: str = "none"
    zones: Mapping[str, ZoneConfig] = field(default_factory=dict)
    events: Mapping[str, EventConfig] = field(default_factory=dict)
    engine: EngineKey = DEFAULT_ENGINE
    removed: threading.Event = field(default_factory=threading.Event)  # set: the stream was removed
    labels: LabelsConfig | None = None  # the stream's own and its engine's; None: all as the engine has it
    gate: Literal["none", "motion"] = "none"
    gate_min_s: float = 0.0
    gate_max_s: float = 5.0


DEFAULT_SETTINGS = FrameSettings()


@dataclass(frozen=True, slots=True, eq=False)
class Frame(Stamped):
    """One decoded picture; where its pixels lie, and in which form, is the picture's own matter.

    An array given as `picture` becomes an ArrayPicture.
    """

    picture: U8 | Picture  # (H, W, 3) RGB, or where the decoder left it
    decoded_ns: int  # monotonic, when the picture was ready
    decode_us: int = 0
    settings: FrameSettings = DEFAULT_SETTINGS
    arrived_ns: int | None = None  # monotonic, when its packet entered the machine, where that is known

    def __post_init__(self) -> None:
        if not hasattr(self.picture, "rgb"):
            _check("Frame.picture", self.picture, np.uint8, (None, None, 3))
            object.__setattr__(self, "picture", ArrayPicture(self.picture))

    @property
    def rgb(self) -> U8:
        """The whole picture in host memory, (H, W, 3): costs its conversion, once."""
        return cast(Picture, self.picture).rgb()

    def scaled(self, size: Size) -> U8:
        """The picture as RGB of this size, (h, w, 3); that of the last size asked for is kept."""
        return cast(Picture, self.picture).scaled(size)

    def luma(self, size: Size) -> U8:
        """Its brightness alone at this size, (h, w), 0 to 255."""
        return cast(Picture, self.picture).luma(size)

    @property
    def size(self) -> Size:
        return cast(Picture, self.picture).size


@dataclass(frozen=True, slots=True)
class Geometry:
    """How a frame became a network input: scaled to input_size as a whole, without borders.

    Pixel centres line up: x_input = (x_frame + 0.5) · w_input / w_frame − 0.5, and the same for y.
    """

    frame_size: Size
    input_size: Size


@dataclass(frozen=True, slots=True, eq=False)
class Logits:
    """The network's output for one frame: logits before softmax, on the grid of its output stride.

    They may lie on a GPU, where they were computed: then array copies them when somebody first asks.
    Of other networks `kind` says what they are: probabilities, or class ids, (1, h, w), IGNORE for none.
    """

    frame: Frame
    data: F32 | DeviceLogits  # (C, h, w)
    geometry: Geometry
    stage_us: dict[str, int] = field(default_factory=dict)
    engine: str = ""  # id of the one that computed it
    kind: AnswerKind = "logits"
    temperature: float = 1.0  # that the confidence is made with; the engine's own
    label_set: LabelSet = NO_CLASSES  # the engine's

    def __post_init__(self) -> None:
        if not hasattr(self.data, "to_host"):
            _check("Logits.data", self.data, np.float32, (None, None, None))

    @property
    def array(self) -> F32:
        """The logits in host memory, (C, h, w)."""
        return self.data if isinstance(self.data, np.ndarray) else self.data.to_host()


@dataclass(frozen=True, slots=True, eq=False)
class Refined:
    """The dense CRF's answer to one keyframe."""

    logits: Logits  # of the keyframe
    log_probabilities: F32 | None  # (C, h, w), half the network's input, where fusion wants them
    took_s: float
    labels: U8 | None = None  # (H, W), where a mask of the keyframe was wanted

    def __post_init__(self) -> None:
        if self.log_probabilities is not None:
            _check("Refined.log_probabilities", self.log_probabilities, np.float32, (None, None, None))
        if self.labels is not None:
            _check("Refined.labels", self.labels, np.uint8, (None, None))


@dataclass(frozen=True, slots=True, eq=False)
class Mask(Stamped):
    """One label mask.

    revision 0 is the mask that comes at once, 1 the same frame after the dense CRF. refined_seq is the
    keyframe whose refinement went into this mask, None when there was none. same_as is the seq, in the same
    epoch, of the earlier mask whose labels these are: the frame was unchanged, and no network was run on it.
    """

    labels: U8  # (H, W), class ids, IGNORE where nothing is known
    label_set: str
    engine: str
    revision: Literal[0, 1] = 0
    refined_seq: int | None = None
    confidence: U8 | None = None  # (H, W), highest probability, 0..255 for 0..1
    stage_us: dict[str, int] = field(default_factory=dict)
    same_as: int | None = None

    def __post_init__(self) -> None:
        _check("Mask.labels", self.labels, np.uint8, (None, None))
        if self.confidence is not None:
            _check("Mask.confidence", self.confidence, np.uint8, self.labels.shape)
        if self.same_as is not None and not 0 <= self.same_as < self.seq:
            raise ValueError(f"Mask.same_as: must be from 0 to below seq {self.seq}; is {self.same_as}")

    @property
    def size(self) -> Size:
        return self.labels.shape[0], self.labels.shape[1]

    def at(self, size: Size) -> Mask:
        """The mask at another size, (height, width): each pixel from the one that its centre lies in."""
        sure = None if self.confidence is None else nearest(self.confidence, size)
        return replace(self, labels=nearest(self.labels, size), confidence=sure)


@dataclass(frozen=True, slots=True, eq=False)
class Preview(Stamped):
    """The frame that a mask belongs to, as a small JPEG; it has that mask's stamp."""

    jpeg: bytes
    size: Size  # of the JPEG
    frame_size: Size


def _check(name: str, array: Any, dtype: type[np.generic], shape: tuple[int | None, ...]) -> None:
    if not isinstance(array, np.ndarray) or array.dtype != dtype:
        raise TypeError(f"{name}: must be {np.dtype(dtype).name}; is {getattr(array, 'dtype', type(array))}")
    if array.ndim != len(shape) or any(
        want is not None and have != want for have, want in zip(array.shape, shape, strict=True)
    ):
        raise ValueError(f"{name}: must be {shape}; is {array.shape}")
    if not array.flags.c_contiguous:
        raise ValueError(f"{name}: must be C-contiguous")
