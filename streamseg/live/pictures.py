"""Single pictures through the network that serves the streams: each waits as a stream's newest frame does."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from fractions import Fraction

from streamseg.errors import ControlError
from streamseg.runtime.mailbox import Closed
from streamseg.types import DEFAULT_ENGINE, U8, EngineKey, Frame, FrameSettings, Logits, Stamp

STREAM = "/picture"
"""Beside which no stream has this name. Its frame takes its turn: one, however many streams there are."""


class Pictures:
    """One picture at a time. segment() may be called from any thread; answer() is that of fuse."""

    def __init__(
        self,
        submit: Callable[[Frame], None],
        forget: Callable[[str], None],
        engine: Callable[[], EngineKey] = lambda: DEFAULT_ENGINE,
    ) -> None:
        """submit: leaves a frame for the network; forget: takes it back where it still waits.

        engine: the network that it is run on.
        """
        self._submit, self._forget, self._engine = submit, forget, engine
        self._one = threading.Lock()  # guards that one waits
        self._count = 0
        self._answers: queue.SimpleQueue[Logits | None] = queue.SimpleQueue()

    def segment(self, rgb: U8, timeout_s: float) -> Logits:
        """Wait for the network's answer to an RGB picture (H, W, 3); raises ControlError."""
        deadline_s = time.monotonic() + timeout_s
        with self._one:
            self._count += 1
            stamp = Stamp(STREAM, 0, self._count, None, Fraction(1, 1), time.time_ns(), "arrival")
            try:
                settings = FrameSettings(engine=self._engine())
                self._submit(Frame(stamp, rgb, time.monotonic_ns(), settings=settings))
            except Closed:
                raise ControlError("stopping", "picture: the daemon is stopping") from None
            with contextlib.suppress(queue.Empty):
                while (left_s := deadline_s - time.monotonic()) > 0:
                    answer = self._answers.get(timeout=left_s)
                    if answer is None:
                        raise ControlError("stopping", "picture: the daemon is stopping")
                    if answer.frame.seq == self._count:  # else to one that was given up
                        return answer
            self._forget(STREAM)
            raise ControlError("failed", f"picture: the network has not answered in {timeout_s:g} s")

    def answer(self, logits: Logits) -> None:
        """Hand over the logits of STREAM's frame."""
        self._answers.put(logits)

    def close(self) -> None:
        """Wake who waits."""
        self._answers.put(None)
