"""What each stage of a frame's way costs: CPU time, measured stage by stage on a short piece of video.

The same functions that the live route calls are called here, by one thread on each core at once, since a
core that is alone is faster. CPU time is that of the whole process, so that threads of libraries are in it,
and depends little on what else runs on the machine.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import cycle

import av
import msgspec
import numpy as np
from av.video.frame import VideoFrame

from streamseg.config import RefinementConfig
from streamseg.inference.engine import Engine
from streamseg.inference.infer import infer, input_size
from streamseg.inference.scaling import labels_of
from streamseg.refinement.crf_step import crf_setup
from streamseg.refinement.streams import StreamRefinement
from streamseg.runtime.stage import Stage
from streamseg.sources.picture import HostPicture, RgbConverter
from streamseg.sources.reading import OpenSource
from streamseg.sources.surface import UPRIGHT
from streamseg.types import U8, Frame, Logits, Mask, Size, Stamp
from streamseg.types.picture import Picture
from streamseg.types.sizes import MaskSize, mask_size_of
from streamseg.wire.codec import Encoding
from streamseg.wire.message import encode_mask

KEPT = 8  # pictures that the stages behind decoding are measured on
MOST_S = 4.0  # of a stage whose single call takes long
_NO_REFINEMENT = RefinementConfig()


class StageTimes(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds of CPU: decode of each decoded picture, the others of each mask."""

    decode: float
    scale: float
    network: float
    labels: float
    pack: float
    network_wall: float  # one call, while each replica is in one; of a batch, divided by it
    labels_input: float  # labels and packing with masks of the network's size
    pack_input: float
    on_device: bool = False  # the network runs on a GPU: network_wall counts

    @property
    def beside(self) -> float:
        """All but the network, of a frame that becomes a mask."""
        return self.decode + self.scale + self.labels + self.pack

    @property
    def beside_input(self) -> float:
        """The same with masks of the network's size."""
        return self.decode + self.scale + self.labels_input + self.pack_input


@dataclass(frozen=True, slots=True)
class Spent:
    """What some calls of one kind took."""

    calls: int
    cpu_ms: float  # of one
    wall_ms: float  # of one; the lower quartile, which other programs disturb least


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """Packets of some seconds of video, beginning with an intra frame, and what their decoder needs."""

    codec: str
    size: Size
    fps: float | None
    packets: tuple[bytes, ...]
    extradata: bytes | None

    def decoded(self) -> Iterator[VideoFrame]:
        """Its pictures, again and again, without an end; raises FFmpegError."""
        while True:
            context = av.CodecContext.create(self.codec, "r")
            assert isinstance(context, av.VideoCodecContext)
            if self.extradata:
                context.extradata = self.extradata
            context.thread_type = "SLICE"  # as of cameras: frame threads hold pictures back
            for data in self.packets:
                yield from context.decode(av.Packet(data))
            yield from context.decode(None)


def piece_of(source: OpenSource, seconds: float) -> Piece | None:
    """Read a piece of an open source; None where no intra frame came in time.

    Blocks for up to twice `seconds` with a camera.
    """
    packets: list[bytes] = []
    if source.path is not None:
        source.seek(0)
    most = max(2, round(seconds * float(source.fps or 25)))
    deadline_s = time.monotonic() + 2 * seconds
    for packet in source.container.demux(source.video):
        if source.live and time.monotonic() > deadline_s:
            break
        if packet.size and (packets or packet.is_keyframe):
            packets.append(bytes(packet))
            if len(packets) >= most:
                break
    if not packets:
        return None
    fps = float(source.fps) if source.fps else None
    context = source.video.codec_context
    return Piece(source.codec, source.size, fps, tuple(packets), context.extradata)


def side_by_side(works: Sequence[Callable[[], object]], seconds: float) -> Spent:
    """Call each of these again and again in a thread of its own, all at once; raises what one of them does.

    Each has been called once before. A work that takes long is called twice, as far as MOST_S goes.
    """
    walls: list[float] = []  # list.append is atomic
    for work in works:
        work()
    begun_s = time.monotonic()

    def run(work: Callable[[], object]) -> None:
        while True:
            before_s = time.monotonic()
            work()
            now_s = time.monotonic()
            walls.append(now_s - before_s)
            if now_s - begun_s >= (seconds if len(walls) >= 2 * len(works) else MOST_S):
                return

    cpu_s = time.process_time()
    stages = [Stage(f"measure-{i}", partial(run, work), lambda _: None) for i, work in enumerate(works)]
    for stage in stages:
        stage.start()
    for stage in stages:
        stage.join()
        if stage.error is not None:
            raise stage.error
    cpu_s = time.process_time() - cpu_s
    return Spent(len(walls), 1000 * cpu_s / len(walls), 1000 * float(np.percentile(walls, 25)))


def decoding(piece: Piece, threads: int, seconds: float) -> Spent:
    """The cost of one picture of a piece, with so many decoders at once."""
    return side_by_side([partial(next, piece.decoded()) for _ in range(threads)], seconds)


def stage_times(
    piece: Piece,
    engines: Sequence[Engine],
    mask_size: MaskSize = "frame",
    *,
    threads: int,
    encoding: Encoding = "zstd",
    refinement: RefinementConfig = _NO_REFINEMENT,
    batch: int = 1,
    seconds: float,
) -> StageTimes:
    """Measure all stages of a piece; blocks for some `seconds` for each of them.

    engines: the replicas. threads: how many threads run at once besides the network's, one for each core.
    Raises FFmpegError for packets that cannot be decoded, EngineError.
    """
    decode = decoding(piece, threads, seconds)
    images = list(itertools.islice(piece.decoded(), KEPT))
    size = input_size(engines[0], piece.size)
    scale = side_by_side([partial(_scaled, cycle(images), size) for _ in range(threads)], seconds)
    frames = [_frame(_scaled(iter([image]), size)) for image in images]
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


def _frame(picture: U8 | Picture) -> Frame:
    stamp = Stamp("measured", 0, 0, 0, Fraction(1, 1000), time.time_ns(), "arrival")
    return Frame(stamp, picture, time.monotonic_ns())


def _scaled(images: Iterator[VideoFrame], size: Size) -> U8:
    """A decoded picture at the network's size, by the way that frames go."""
    return frame_of(next(images)).scaled(size)


def _labelled(memory: StreamRefinement, logits: Iterator[Logits], size: Size) -> None:
    memory.add(next(logits), size)


def _packed(masks: Iterator[Mask], encoding: Encoding) -> None:
    encode_mask(next(masks), encoding)


_to_rgb = RgbConverter()
