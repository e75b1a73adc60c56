"""Nothing new, nothing to do: frames that do not differ from what the network saw last pass beside it.

Of streams with gate = "motion", in the infer threads, between the frame scheduler and the network. Such a
frame gets a mask that has its own stamp and the labels of the last one (Mask.same_as).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from streamseg.inference.engine import Engine
from streamseg.inference.infer import batch_key, input_size
from streamseg.live.engines import ServedEngine
from streamseg.live.motion import BUSY_S, Motion, cells_of
from streamseg.runtime.mailbox import FrameScheduler
from streamseg.types import U8, Frame, FrameSettings, Mask, Size
from streamseg.wire import KINDS, Kind


@dataclass(frozen=True, slots=True, eq=False)
class Unchanged:
    """A frame for which the labels of an earlier one of its stream and epoch hold."""

    frame: Frame
    same_as: int  # seq of the earlier one
    stage_us: dict[str, int]

    def holds(self, mask: Mask) -> bool:
        """Whether this is the mask of the earlier one."""
        return (mask.epoch, mask.seq) == (self.frame.epoch, self.same_as)

    def mask(self, held: Mask) -> Mask:
        """The frame's mask; held: that of the earlier one."""
        return Mask(
            self.frame.stamp,
            held.labels,
            held.label_set,
            held.engine,
            refined_seq=held.refined_seq,
            confidence=held.confidence,
            stage_us=self.stage_us,
            same_as=self.same_as,
        )


@dataclass(frozen=True, slots=True)
class Taken:
    """What an infer thread does in one turn."""

    frames: list[Frame]  # to run the network on
    unchanged: list[Unchanged] = field(default_factory=list)  # to hand over behind them
    inside: list[Frame] = field(default_factory=list)  # all that the scheduler counts as not left


@dataclass(slots=True, eq=False)
class _Camera:
    """A stream, and the last of its frames that the network was given."""

    motion: Motion
    settings: FrameSettings
    epoch: int
    seq: int
    frame_size: Size
    input_size: Size
    at_s: float
    kinds: frozenset[Kind]  # of messages that had a subscriber then
    late: bool = False  # something new has come and waits for gate_min_s
    settled: bool = False  # nothing has changed since the frame before, and the CRF was asked for it

    def fits(self, frame: Frame, size: Size) -> bool:
        """Whether a frame can be compared, and its mask would be made in the same way."""
        return (
            frame.settings is self.settings
            and frame.epoch == self.epoch
            and frame.size == self.frame_size
            and size == self.input_size
        )


class Gate:
    """The cameras by name. sort() is called in infer threads, for a stream by one at a time and in order."""

    def __init__(
        self,
        scheduler: FrameScheduler[Frame],
        is_wanted: Callable[[Frame], bool],
        hand_over: Callable[[Unchanged], None],
        wants: Callable[[Kind, str], bool],
        uses_crf: Callable[[Frame], bool],
    ) -> None:
        """is_wanted: whether a frame gets a mask at all, now. hand_over: takes those that need not wait."""
        self._scheduler = scheduler
        self._is_wanted = is_wanted
        self._hand_over = hand_over
        self._wants = wants
        self._uses_crf = uses_crf
        # Each operation on these is whole.
        self._cameras: dict[str, _Camera] = {}
        self._keyframes: dict[str, tuple[int, int]] = {}  # epoch and seq of a frame for the CRF, by stream

    def sort(self, taken: list[Frame], served: ServedEngine, engine: Engine) -> Taken:
        """Hand over what has not changed, and go on taking, until there is work for this thread's turn.

        Only where a frame of the same stream is still in the network, an unchanged one waits for its turn.
        Raises Closed.
        """
        turn = Taken([])
        alike = partial(batch_key, engine)
        while True:
            for frame in taken:
                self._sort(frame, input_size(engine, frame.size), turn)
            room = served.max_batch - len(turn.frames)
            if room and turn.frames:
                taken = self._scheduler.more(room, alike, turn.frames[0], served.key)
                if taken:
                    continue
            if turn.frames or turn.unchanged:
                return turn
            taken = self._scheduler.take(served.max_batch, alike, served.key)

    def must_look(self, stream: str | None = None) -> None:
        """Have the network see the next frame of a stream, or of all: an earlier mask holds no more.

        From any thread; also when a stream is removed.
        """
        if stream is None:
            self._cameras.clear()
        else:
            self._cameras.pop(stream, None)
            self._keyframes.pop(stream, None)

    def is_keyframe(self, frame: Frame) -> bool:
        """Whether the CRF should see a frame because later ones will refer to it."""
        found = self._keyframes.get(frame.stream) == (frame.epoch, frame.seq)
        if found:
            self._keyframes.pop(frame.stream, None)
        return found

    def _sort(self, frame: Frame, size: Size, turn: Taken) -> None:
        if not self._is_wanted(frame):
            self._scheduler.left([frame])
        elif frame.settings.gate == "none" or (unchanged := self.unchanged(frame, size)) is None:
            turn.frames.append(frame)
            turn.inside.append(frame)
        elif self._scheduler.inside(frame.stream) > 1:
            turn.unchanged.append(unchanged)
            turn.inside.append(frame)
        else:
            self._hand_over(unchanged)
            self._scheduler.left([frame])

    def unchanged(self, frame: Frame, size: Size) -> Unchanged | None:
        """None: the network must see this frame, with which later ones are compared from now on."""
        begun = time.monotonic_ns()
        luma = frame.luma(cells_of(size))
        now_s = frame.decoded_ns / 1e9
        camera = self._cameras.get(frame.stream)
        if camera is None or not camera.fits(frame, size):
            motion = Motion(luma)
        elif self._holds(camera, frame, luma, now_s):
            took = (time.monotonic_ns() - begun) // 1000
            waited = (begun - frame.decoded_ns) // 1000
            return Unchanged(frame, camera.seq, {"decode": frame.decode_us, "wait": waited, "gate": took})
        else:
            motion = camera.motion
            motion.refer(luma)
        settled = camera is not None and camera.settled
        if settled:
            self._keyframes[frame.stream] = frame.epoch, frame.seq
        wanted = frozenset(kind for kind in KINDS if self._wants(kind, frame.stream))
        self._cameras[frame.stream] = _Camera(
            motion, frame.settings, frame.epoch, frame.seq, frame.size, size, now_s, wanted, settled=settled
        )
        if frame.settings.removed.is_set():  # while this was at it
            self.must_look(frame.stream)
        return None

    def _holds(self, camera: _Camera, frame: Frame, luma: U8, now_s: float) -> bool:
        settings, since_s = frame.settings, now_s - camera.at_s
        change = camera.motion.look(luma, now_s)
        if change != "none":
            camera.settled = False
            camera.late |= change != "habitual"
        if since_s >= settings.gate_max_s:
            return False
        if change != "none" or camera.late:
            return since_s < (settings.gate_min_s if camera.late else max(settings.gate_min_s, BUSY_S))
        if not camera.settled and self._uses_crf(frame):
            camera.settled = True
            return False
        return all(kind in camera.kinds or not self._wants(kind, frame.stream) for kind in KINDS)
