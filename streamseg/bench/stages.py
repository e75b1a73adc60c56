"""What each stage of a frame's way costs: CPU time, measured stage by stage on a short piece of video.

The same functions that the live route calls are called here, by one thread on each core at once, since a
core that is alone is faster. CPU time is that of the whole process, so that threads of libraries are in it,
and depends little on what else runs on the machine.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import partial
from itertools import cycle

import msgspec
from av.video.frame import VideoFrame

from streamseg.bench.pieces import Piece, decoding
from streamseg.bench.side_by_side import Spent, side_by_side
from streamseg.config import RefinementConfig
from streamseg.inference.engine import Engine
from streamseg.inference.infer import infer, input_size
from streamseg.inference.scaling import labels_of, mask_size_of
from streamseg.live.motion import Motion, cells_of
from streamseg.refinement.crf_step import crf_setup
from streamseg.refinement.streams import StreamRefinement
from streamseg.sources.events import SkipFrames
from streamseg.sources.picture import HostPicture, RgbConverter
from streamseg.sources.surface import UPRIGHT
from streamseg.types import U8, Frame, Logits, Mask, Size, Stamp
from streamseg.types.picture import Picture
from streamseg.types.sizes import MaskSize
from streamseg.wire.codec import Encoding
from streamseg.wire.message import encode_mask

KEPT = 8  # pictures that the stages behind decoding are measured on
_NO_REFINEMENT = RefinementConfig()


class StageTimes(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds of CPU: decode of each picture that the source sends, the others of each mask."""

    decode: float
    scale: float
    network: float
    labels: float
    pack: float
    network_wall: float  # one call, while each replica is in one; of a batch, divided by it
    labels_input: float  # labels and packing with masks of the network's size
    pack_input: float
    gate: float  # looking whether a picture shows anything new
    on_device: bool = False  # the network runs on a GPU: network_wall counts

    @property
    def beside(self) -> float:
        """All but the network, of a frame that becomes a mask."""
        return self.decode + self.scale + self.labels + self.pack

    @property
    def beside_input(self) -> float:
        """The same with masks of the network's size."""
        return self.decode + self.scale + self.labels_input + self.pack_input


def stage_times(
    piece: Piece,
    engines: Sequence[Engine],
    mask_size: MaskSize = "frame",
    *,
    threads: int,
    skip_frames: SkipFrames = "none",
    max_fps: float | None = None,
    encoding: Encoding = "zstd",
    refinement: RefinementConfig = _NO_REFINEMENT,
    batch: int = 1,
    seconds: float,
) -> StageTimes:
    """Measure all stages of a piece; blocks for some `seconds` for each of them.

    engines: the replicas. threads: how many threads run at once besides the network's, one for each core.
    Raises SourceError where no packet can be decoded, EngineError.
    """
    decode = decoding(piece, threads, seconds, skip_frames, max_fps)
    images = list(itertools.islice(piece.decoded(), KEPT))
    size = input_size(engines[0], piece.size)
    scale = side_by_side([partial(_scaled, cycle(images), size) for _ in range(threads)], seconds)
    looking = [partial(_looked, cycle(images), cells_of(size), Motions()) for _ in range(threads)]
    gate = side_by_side(looking, seconds / 2)
    frames = [small_frame(image, size) for image in images]
    network = network_time(engines, frames, batch, seconds)
    logits = [one for frame in frames for one in infer(engines[0], [frame])]

    def behind(wanted: Size) -> tuple[float, float]:
        """The CPU time of labels of this size, and of packing them."""
        spec = engines[0].info.spec
        setup = crf_setup(refinement.crf, spec)
        memories = [StreamRefinement(refinement, setup, lambda keyframe: None) for _ in range(threads)]
        labels = [partial(_labelled, memory, cycle(logits), wanted) for memory in memories]
        made = side_by_side(labels, seconds).cpu_ms
        masks = [
            Mask(
                one.frame.stamp, labels_of(one, wanted)[0], spec.labels.id, one.engine, stage_us=one.stage_us
            )
            for one in logits
        ]
        packed = [partial(_packed, cycle(masks), encoding) for _ in range(threads)]
        return made, side_by_side(packed, seconds / 2).cpu_ms

    wanted = mask_size_of(mask_size, piece.size, size)
    labels, pack = behind(wanted)
    labels_input, pack_input = behind(size) if wanted != size else (labels, pack)
    return StageTimes(
        decode=decode.cpu_ms,
        scale=scale.cpu_ms,
        network=network.cpu_ms,
        labels=labels,
        pack=pack,
        network_wall=network.wall_ms,
        labels_input=labels_input,
        pack_input=pack_input,
        gate=gate.cpu_ms,
        on_device=engines[0].info.tensors == "cuda",
    )


def network_time(engines: Sequence[Engine], frames: Sequence[Frame], batch: int, seconds: float) -> Spent:
    """The cost of one frame in the network, all replicas running at once; the frames have its input size."""
    size = engines[0].info.limits.batch or batch
    works = [partial(infer, engine, [frames[i % len(frames)] for i in range(size)]) for engine in engines]
    spent = side_by_side(works, seconds)
    return Spent(spent.calls * size, spent.cpu_ms / size, spent.wall_ms / size)


def frame_of(image: VideoFrame) -> Frame:
    """A decoded picture as the live route has it when it leaves the decoder."""
    return _frame(HostPicture(image, UPRIGHT, _to_rgb))


def small_frame(image: VideoFrame, size: Size) -> Frame:
    """A frame that has been scaled already."""
    return _frame(frame_of(image).scaled(size))


def _frame(picture: U8 | Picture) -> Frame:
    stamp = Stamp("measured", 0, 0, 0, Fraction(1, 1000), time.time_ns(), "arrival")
    return Frame(stamp, picture, time.monotonic_ns())


def _scaled(images: Iterator[VideoFrame], size: Size) -> U8:
    """A decoded picture at the network's size, by the way that frames go."""
    return frame_of(next(images)).scaled(size)


class Motions:
    """The gate's memory of one stream of pictures."""

    def __init__(self) -> None:
        self._motion: Motion | None = None

    def look(self, luma: U8, now_s: float) -> bool:
        """Whether a picture differs from the last one that did."""
        if self._motion is None:
            self._motion = Motion(luma)
            return True
        new = self._motion.look(luma, now_s) != "none"
        if new:
            self._motion.refer(luma)
        return new


def _looked(images: Iterator[VideoFrame], cells: Size, motions: Motions) -> None:
    motions.look(frame_of(next(images)).luma(cells), time.monotonic())


def _labelled(memory: StreamRefinement, logits: Iterator[Logits], size: Size) -> None:
    memory.add(next(logits), size)


def _packed(masks: Iterator[Mask], encoding: Encoding) -> None:
    encode_mask(next(masks), encoding)


_to_rgb = RgbConverter()
