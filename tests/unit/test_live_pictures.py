"""A single picture among the frames of streams: one answer, of its own, or a reason why not."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from streamseg.errors import ControlError
from streamseg.live.pictures import STREAM, Pictures
from streamseg.runtime.mailbox import FrameScheduler
from streamseg.types import EngineKey, Frame, Geometry, LabelSet, Logits
from tests.waiting import LIMIT_S

RGB = np.zeros((4, 6, 3), np.uint8)


def answered(frame: Frame) -> Logits:
    return Logits(
        frame, np.zeros((2, 1, 1), np.float32), Geometry(frame.size, (4, 6)), label_set=LabelSet("two", ())
    )


class Route:
    """The scheduler, with a thread that answers each picture; `late` are kept and answered with the next."""

    def __init__(self, late: int = 0) -> None:
        self.scheduler: FrameScheduler[Frame] = FrameScheduler()
        self.pictures = Pictures(lambda frame: self.scheduler.put(frame), self.scheduler.forget)
        self.late = late
        self.thread = threading.Thread(target=self.run, daemon=True)

    def run(self) -> None:
        kept: list[Frame] = []
        while True:
            kept += self.scheduler.take(1, alike=lambda _: 0)
            if len(kept) > self.late:
                for frame in kept:
                    self.pictures.answer(answered(frame))
                kept = []


def test_each_picture_has_its_own_answer() -> None:
    route = Route()
    route.thread.start()
    first, second = (route.pictures.segment(RGB, LIMIT_S) for _ in range(2))
    assert (first.frame.stream, first.frame.seq, second.frame.seq) == (STREAM, 1, 2)
    assert first.frame.rgb is RGB


def test_an_answer_that_comes_too_late_is_not_that_of_the_next_picture() -> None:
    route = Route(late=1)
    route.thread.start()
    with pytest.raises(ControlError, match=r"has not answered in 0.05 s"):
        route.pictures.segment(RGB, 0.05)
    assert route.pictures.segment(RGB, LIMIT_S).frame.seq == 2


def test_a_picture_whose_network_is_exchanged_at_this_moment_goes_to_the_one_in_its_place() -> None:
    old, new = EngineKey("old"), EngineKey("new")
    keys = iter([old, new])
    scheduler: FrameScheduler[Frame] = FrameScheduler(lambda frame: frame.settings.engine)
    scheduler.end(old)
    pictures = Pictures(scheduler.replace, scheduler.forget, lambda: next(keys))

    def run() -> None:
        pictures.answer(answered(scheduler.take(1, lambda _: 0, new)[0]))

    thread = threading.Thread(target=run)
    thread.start()
    assert pictures.segment(RGB, LIMIT_S).frame.settings.engine is new
    thread.join()


def test_a_picture_that_nobody_takes_leaves_its_place() -> None:
    route = Route()
    for _ in range(2):
        with pytest.raises(ControlError, match="has not answered"):
            route.pictures.segment(RGB, 0.02)


def test_who_waits_is_told_when_the_daemon_stops() -> None:
    route = Route()
    threading.Timer(0.02, route.pictures.close).start()
    with pytest.raises(ControlError, match="stopping"):
        route.pictures.segment(RGB, LIMIT_S)
    route.scheduler.close()
    with pytest.raises(ControlError, match="stopping"):
        route.pictures.segment(RGB, LIMIT_S)
