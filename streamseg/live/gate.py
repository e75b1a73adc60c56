"""Nothing new, nothing to do: frames that do not differ from what the network saw last pass beside it.

Of streams with gate = "motion", in the stream's own thread, before the frame scheduler: an unchanged frame
waits for the network only where that is still at the frame it refers to. It gets a mask with its own
stamp and the labels of that one (Mask.same_as).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from streamseg.live.motion import Motion, cells_of
from streamseg.types import U8, Frame, FrameSettings, Mask, Size
from streamseg.wire import KINDS, Kind

Key = tuple[int, int]
"""Epoch and seq of a frame."""


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


@dataclass(slots=True, eq=False)
class _Reference:
    """The last frame of a stream that an infer thread took."""

    key: Key
    settings: FrameSettings
    frame_size: Size
    at_s: float
    kinds: frozenset[Kind]  # of messages that had a subscriber then


@dataclass(slots=True, eq=False)
class _Camera:
    """A stream. Its lock guards all of it, and is held while something is handed over, so order is kept."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    motion: Motion | None = None
    reference: _Reference | None = None  # None: the network must look
    looked: tuple[Key, U8] | None = None  # the luma of the last frame that was looked at
    input_size: Size = (0, 0)
    waiting: Key | None = None  # the frame that was left for the network last, while it was not taken
    inside: set[Key] = field(default_factory=set)  # taken, and the answer not handed over
    behind: Unchanged | None = None  # waits for the answer to the reference
    late: bool = False  # something new has come and waits for gate_min_s
    settled: bool = False  # nothing has changed since the frame before, and the CRF was asked for it


class Gate:
    """The cameras by name. Of a stream one thread at a time calls passes(), in order."""

    def __init__(
        self,
        hand_over: Callable[[Unchanged], None],
        on_replaced: Callable[[Frame], None],
        wants: Callable[[Kind, str], bool],
        uses_crf: Callable[[Frame], bool],
    ) -> None:
        """hand_over: takes unchanged frames, in order with the answers to others; may wait, and raise Closed.

        on_replaced: told of an unchanged frame that a newer one replaced while both waited for an answer.
        """
        self._hand_over = hand_over
        self._on_replaced = on_replaced
        self._wants = wants
        self._uses_crf = uses_crf
        # Each operation on these is whole.
        self._cameras: dict[str, _Camera] = {}
        self._keyframes: dict[str, Key] = {}  # of frames for the CRF, by stream

    def passes(self, frame: Frame, input_size: Size) -> bool:
        """Whether a frame was unchanged, and is handed over; else it is to be left for the network.

        input_size: of its network.
        """
        begun = time.monotonic_ns()
        camera = self._cameras.get(frame.stream)
        if camera is None:
            camera = self._cameras[frame.stream] = _Camera()
            if frame.settings.removed.is_set():  # while this was at it
                self.forget(frame.stream)
        luma = frame.luma(cells_of(input_size))
        with camera.lock:
            if not self._holds(camera, frame, input_size, luma):
                camera.waiting, camera.looked = _key(frame), (_key(frame), luma)
                return False
            reference = camera.reference
            assert reference is not None, "only with it something holds"
            took, waited = (time.monotonic_ns() - begun) // 1000, (begun - frame.decoded_ns) // 1000
            stage_us = {"decode": frame.decode_us, "wait": waited, "gate": took}
            unchanged = Unchanged(frame, reference.key[1], stage_us)
            if reference.key not in camera.inside:
                self._hand_over(unchanged)
                return True
            replaced, camera.behind = camera.behind, unchanged
        if replaced is not None:
            self._on_replaced(replaced.frame)
        return True

    def taken(self, frame: Frame, *, dropped: bool = False) -> None:
        """The network is run on a frame now, with which later ones are compared; dropped: it was too old.

        Called in the order in which the frames of a stream are taken.
        """
        camera = self._cameras.get(frame.stream)
        if camera is None:  # removed
            return
        with camera.lock:
            key = _key(frame)
            if camera.waiting == key:
                camera.waiting = None
            if dropped:
                return
            camera.inside.add(key)
            cells = cells_of(camera.input_size)
            luma = camera.looked[1] if camera.looked and camera.looked[0] == key else frame.luma(cells)
            if camera.motion is None or camera.motion.reference.shape != luma.shape:
                camera.motion = Motion(luma)
            camera.motion.refer(luma)
            kinds = frozenset(kind for kind in KINDS if self._wants(kind, frame.stream))
            camera.reference = _Reference(key, frame.settings, frame.size, frame.decoded_ns / 1e9, kinds)
            camera.late = False
            if camera.settled:
                self._keyframes[frame.stream] = key

    def answered(self, frame: Frame) -> None:
        """The network's answer was handed over: what waited for it follows. May wait, and raise Closed."""
        camera = self._cameras.get(frame.stream)
        if camera is None:
            return
        with camera.lock:
            camera.inside.discard(_key(frame))
            behind = camera.behind
            if behind is not None and (behind.frame.epoch, behind.same_as) == _key(frame):
                camera.behind = None
                self._hand_over(behind)

    def must_look(self, stream: str | None = None) -> None:
        """Have the network see the next frame of a stream, or of all: an earlier mask holds no more.

        From any thread.
        """
        for name, camera in list(self._cameras.items()):
            if stream in (None, name):
                with camera.lock:
                    camera.reference = None

    def forget(self, stream: str) -> None:
        """Drop what is kept of a removed stream."""
        self._cameras.pop(stream, None)
        self._keyframes.pop(stream, None)

    def is_keyframe(self, frame: Frame) -> bool:
        """Whether the CRF should see a frame because later ones will refer to it."""
        found = self._keyframes.get(frame.stream) == _key(frame)
        if found:
            self._keyframes.pop(frame.stream, None)
        return found

    def _holds(self, camera: _Camera, frame: Frame, input_size: Size, luma: U8) -> bool:
        """Whether the labels of the reference hold for a frame; the lock is held."""
        reference, motion = camera.reference, camera.motion
        fits = camera.input_size == input_size
        camera.input_size = input_size
        if (
            reference is None
            or motion is None
            or not fits
            or frame.settings is not reference.settings
            or frame.epoch != reference.key[0]
            or frame.size != reference.frame_size
        ):
            return False
        settings, since_s = frame.settings, frame.decoded_ns / 1e9 - reference.at_s
        change = motion.look(luma, frame.decoded_ns / 1e9, settings.gate_min_s)
        if change != "none":
            camera.settled = False
            camera.late = camera.late or change != "habitual"
        if camera.waiting is not None or since_s >= settings.gate_max_s:
            return False
        if camera.late:
            return since_s < settings.gate_min_s
        if change == "habitual":
            return True
        if not camera.settled and self._uses_crf(frame):
            camera.settled = True
            return False
        return all(kind in reference.kinds or not self._wants(kind, frame.stream) for kind in KINDS)


def _key(frame: Frame) -> Key:
    return frame.epoch, frame.seq
