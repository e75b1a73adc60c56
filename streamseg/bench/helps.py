"""Settings that would change how many streams are held, each with its own number."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import msgspec

from streamseg.bench.clips import ENCODERS
from streamseg.bench.kinds import Kind, Measuring, written
from streamseg.bench.probe import drawn_piece
from streamseg.bench.stages import StageTimes
from streamseg.config import Precision
from streamseg.errors import EngineError, OutputError
from streamseg.live.capacity import Room, fitting_fps, held
from streamseg.runtime.cpus import usable_cores
from streamseg.types import Size

log = logging.getLogger(__name__)

SMALL: Size = (360, 640)  # of a camera's second stream


class Help(msgspec.Struct, frozen=True, kw_only=True):
    """A setting, and how many streams would be held with it."""

    setting: str
    streams: float
    note: str = ""


def possible_helps(kinds: list[Kind], measuring: Measuring, room: Room) -> Iterator[Help]:
    """Each setting that is not set yet, with what it would give."""

    def with_times(change: Callable[[Kind], dict[str, float]], room: Room = room) -> float:
        return round(held([(kind.cost(**change(kind)), kind.count) for kind in kinds], room), 1)

    if any(kind.stream.mask_size != "input" for kind in kinds):
        yield Help(
            setting='mask_size = "input"',
            streams=with_times(
                lambda kind: {"labels": kind.measured.labels_input, "pack": kind.measured.pack_input}
            ),
            note="masks of the network's size",
        )
    if any(kind.stream.gate == "none" for kind in kinds):
        yield Help(
            setting='gate = "motion"',
            streams=with_times(lambda kind: {"network_share": kind.still_share}),
            note="where nothing moves",
        )
    if any(_leaves_out_more(kind) for kind in kinds):
        decode = {id(k): measuring.decode_ms(k.piece, "nonref", k.stream.max_fps) for k in kinds if k.decodes}
        yield Help(
            setting='skip_frames = "nonref"',
            streams=with_times(lambda kind: {"decode": decode[id(kind)]} if kind.decodes else {}),
        )
    yield from _faster_networks(kinds, measuring, with_times)
    if room.replicas < usable_cores() and room.threads > 1:
        more = msgspec.structs.replace(room, replicas=usable_cores(), threads=1)
        yield Help(setting=f"replicas = {usable_cores()}", streams=with_times(lambda kind: {}, more))
    if any(_larger(kind.piece.size) for kind in kinds):
        yield from _second_streams(kinds, measuring, with_times)
    fps = fitting_fps([(kind.cost(), kind.count) for kind in kinds], room)
    if fps is not None and fps < max(kind.cost().masks_fps for kind in kinds):
        yield Help(
            setting=f"max_fps = {fps:g}",
            streams=with_times(lambda kind: {"max_fps": min(fps, kind.cost().masks_fps)}),
        )


def _faster_networks(
    kinds: list[Kind], measuring: Measuring, with_times: Callable[..., float]
) -> Iterator[Help]:
    """Other precisions of the network, where all streams are run on one."""
    if len({written(kind.engine) for kind in kinds}) > 1:
        return
    config = kinds[0].engine
    info = measuring.engines(config)[0].info
    precisions: tuple[Precision, ...] = ("int8", "bf16")
    for precision in precisions:
        if (
            precision == info.precision
            or (precision == "bf16" and info.precision == "int8")
            or info.tensors == "cuda"
        ):
            continue
        other = msgspec.structs.replace(config, precision=precision)
        try:
            ms = {id(kind): measuring.network_ms(kind.piece, other) for kind in kinds}
        except EngineError:
            continue
        yield Help(
            setting=f'precision = "{precision}"',
            streams=with_times(lambda kind, ms=ms: {"network": ms[id(kind)]}),
        )


def _second_streams(
    kinds: list[Kind], measuring: Measuring, with_times: Callable[..., float]
) -> Iterator[Help]:
    """The second stream that most cameras have, by a clip of its size that is drawn."""
    small: dict[str, StageTimes] = {}
    for kind in kinds:
        codec = kind.piece.codec if kind.piece.codec in ENCODERS else "h264"
        if _larger(kind.piece.size) and codec not in small:
            try:
                clip = drawn_piece(SMALL, codec, kind.piece.fps)
            except OutputError as error:  # this FFmpeg has no encoder, or there is no room: a hint less
                log.debug("no second stream: %s", error)
                return
            small[codec] = measuring.times(clip, kind.engine, kind.stream)

    def change(kind: Kind) -> dict[str, float]:
        if not _larger(kind.piece.size):
            return {}
        times = small[kind.piece.codec if kind.piece.codec in ENCODERS else "h264"]
        return {name: getattr(times, name) for name in ("decode", "scale", "labels", "pack")}

    height, width = SMALL
    yield Help(
        setting=f"source: a second stream of {width}x{height}",
        streams=with_times(change),
        note="most cameras have one; masks of that size",
    )


def _leaves_out_more(kind: Kind) -> bool:
    """Whether pictures of a source that no other refers to are decoded now."""
    stream, taken = kind.stream, kind.piece.taken
    return sum(taken("nonref", stream.max_fps)) < sum(taken(stream.skip_frames, stream.max_fps))


def _larger(size: Size) -> bool:
    return size[0] * size[1] > 2 * SMALL[0] * SMALL[1]
