"""The refine stage: feeds keyframes to the CRF's process, and outlives it."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Generator

from streamseg.config import RefinementConfig
from streamseg.refinement.crf_step import Answer, Hello, Keyframe
from streamseg.runtime.backoff import Backoff
from streamseg.runtime.channel import ChannelChild, ChildLost
from streamseg.runtime.counters import Stats
from streamseg.runtime.import_path import module_command
from streamseg.runtime.mailbox import Closed, FrameScheduler
from streamseg.types import Logits, Refined

log = logging.getLogger(__name__)

START_TIMEOUT_S = 60.0  # for the child to be ready: it imports NumPy and OpenCV, perhaps on a busy machine
END_WITHIN_S = 1.0  # for a child that has closed its end of the channel to end by itself


class CrfWorker:
    """Owns the CRF's process. refined() is the work of one thread; submit() and close() come from any.

    Of each stream the newest keyframe waits; one that waits gives way. The process is started with the first
    keyframe. When it dies, or gives no answer in timeout_s, it is replaced after a pause that grows from 0.5
    to 30 s (full jitter); keyframes that come meanwhile are left out and counted.
    """

    def __init__(
        self,
        config: RefinementConfig,
        stats: Stats,
        command: list[str] | None = None,
    ) -> None:
        """command: what to start instead, in tests."""
        self._config = config
        self._stats = stats
        self._command = command or module_command("streamseg.refinement.crf_worker")
        self._slots: FrameScheduler[Keyframe] = FrameScheduler()
        self._child: ChannelChild | None = None
        self._backoff = Backoff()
        self._again_at = 0.0  # monotonic seconds
        self._closing = False
        self._wakes: Callable[[], None] = lambda: None  # of the child that runs, replaced whole

    def submit(self, keyframe: Keyframe) -> None:
        """Leave a keyframe to be refined; never waits. Nothing happens once closed."""
        with contextlib.suppress(Closed):
            if self._slots.replace(keyframe) is not None:
                self._leave_out(keyframe.stream, "replaced")

    @property
    def pid(self) -> int | None:
        """The number of the CRF's process, None while there is none. From any thread."""
        child = self._child
        return None if child is None else child.pid

    def apply(self, config: RefinementConfig) -> None:
        """Take other settings; the priority is that of a process that runs already, and stays."""
        self._config = config

    def refined(self) -> Generator[Refined, None, None]:
        """Refine what is submitted until close(), one after another; raises Closed then.

        Closing the generator kills the process.
        """
        try:
            while not self._closing:
                (keyframe,) = self._slots.take(1, alike=lambda _: 0)
                refined = self._refine(keyframe)
                if refined is not None:
                    self._stats.of(keyframe.stream).refined += 1
                    yield refined
            raise Closed
        finally:
            self._end_child()

    def close(self) -> None:
        """End refined() at once, also while it waits; closing twice is fine."""
        self._closing = True
        self._slots.close()
        self._wakes()

    def _refine(self, keyframe: Keyframe) -> Refined | None:
        logits = keyframe.logits
        if self._too_old(logits):
            return None
        if time.monotonic() < self._again_at:
            self._leave_out(keyframe.stream, "restarting")
            return None
        try:
            began = time.monotonic()
            child = self._running_child()
            started_s = time.monotonic() - began  # long only where the process had to be started
            answer: Answer = child.channel.ask(keyframe.request(), self._config.timeout_s)
        except (ChildLost, TimeoutError, OSError) as error:
            self._leave_out(keyframe.stream, "lost")
            self._child_failed(error)
            return None
        if self._again_at:
            self._again_at = 0.0
            self._backoff.reset()
        if answer.posterior is None:
            self._leave_out(keyframe.stream, "failed")
            log.debug("%s: the CRF refused a keyframe: %s", keyframe.stream, answer.problem)
            self._stats.of(keyframe.stream).refine_error = answer.problem
            return None
        if self._too_old(logits, started_s):
            return None
        posterior = answer.posterior
        return Refined(logits, posterior.log_probabilities, answer.took_s, posterior.labels)

    def _too_old(self, logits: Logits, started_s: float = 0.0) -> bool:
        age_s = (time.monotonic_ns() - logits.frame.decoded_ns) / 1e9 - started_s
        if age_s <= self._config.max_age_s:
            return False
        self._leave_out(logits.frame.stream, "too old")
        return True

    def _leave_out(self, stream: str, why: str) -> None:
        self._stats.of(stream).unrefined[why] += 1

    def _running_child(self) -> ChannelChild:
        if self._child is None:
            child = self._child = ChannelChild(self._command)
            self._wakes = child.channel.wake
            if self._closing:  # close() may have come before it could wake this one
                raise Closed
            child.channel.ask(Hello(self._config.priority), START_TIMEOUT_S)
        return self._child

    def _child_failed(self, error: Exception) -> None:
        why = ""
        if isinstance(error, TimeoutError):
            why = f"gave no answer in {self._config.timeout_s:g} s"
            if self._config.priority == "idle":
                why += ", or got no CPU (refinement.priority is idle)"
        elif isinstance(error, OSError) and self._child is None:
            why = f"cannot be started: {error.strerror or error}"
        code = self._end_child(gone=isinstance(error, ChildLost))
        self._stats.crf_restarts += 1
        pause_s = self._backoff.pause_s()
        self._again_at = time.monotonic() + pause_s
        how = ", ".join(filter(None, (why, code))) or "died"
        log.warning("refine: the CRF's process ended (%s); restarting in %.1f s", how, pause_s)

    def _end_child(self, gone: bool = False) -> str:
        child, self._child = self._child, None
        self._wakes = lambda: None
        return "" if child is None else child.end(END_WITHIN_S if gone else 0.0)
