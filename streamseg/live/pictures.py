"""Single pictures through the network that serves the streams: each waits as a stream's newest frame does."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from fractions import Fraction

from streamseg.errors import ControlError
from streamseg.runtime.mailbox import Closed, Ended
from streamseg.types import DEFAULT_ENGINE, U8, EngineKey, Frame, FrameSettings, Logits, Stamp

STREAM = "/picture"
"""Beside which no stream has this name. Its frame takes its turn: one, however many streams there are."""


class Pictures:
    """One picture at a time. segment() may be called from any thread; answer() is that of fuse."""

    def __init__(
        self,
        submit: Callable[[Frame], object],
        forget: Callable[[str], None],
        engine: Callable[[], EngineKey] = lambda: DEFAULT_ENGINE,
    ) -> None:
        """submit: leaves a frame for its network, or raises Closed, or Ended for one that serves no more;
        forget: takes it back where it still waits.

        engine: the network that a picture is run on where none is named.
        """
        self._submit, self._forget, self._engine = submit, forget, engine
        self._one = threading.Lock()  # guards that one waits
        self._count = 0
        self._answers: queue.SimpleQueue[Logits | None] = queue.SimpleQueue()

    def segment(self, rgb: U8, timeout_s: float, engine: Callable[[], EngineKey] | None = None) -> Logits:
        """Wait for the network's answer to an RGB picture (H, W, 3); raises ControlError.

        engine: that it is run on; asked again where that was exchanged at this moment.
        """
        deadline_s = time.monotonic() + timeout_s
        with self._one:
            self._count += 1
            stamp = Stamp(STREAM, 0, self._count, None, Fraction(1, 1), time.time_ns(), "arrival")
            while True:
                try:
                    settings = FrameSettings(engine=(engine or self._engine)())
                    self._submit(Frame(stamp, rgb, time.monotonic_ns(), settings=settings))
                    break
                except Closed:
                    raise ControlError("stopping", "picture: the daemon is stopping") from None
                except Ended:
                    if time.monotonic() > deadline_s:
                        raise ControlError("failed", "picture: its network serves no more") from None
                    time.sleep(0.01)  # the one in its place serves in a moment
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
