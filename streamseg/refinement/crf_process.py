"""The refine stage: feeds keyframes to the CRF's process, and outlives it."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from streamseg.config import RefineConfig
from streamseg.inference.preprocess import scale_picture
from streamseg.refinement.crf_step import CrfSetup
from streamseg.refinement.messages import Answer, Hello, Request
from streamseg.runtime.channel import Channel, ChildLost
from streamseg.runtime.counters import Stats
from streamseg.runtime.mailbox import Closed
from streamseg.runtime.scheduler import FrameScheduler
from streamseg.types import Logits, Refined, Size

log = logging.getLogger(__name__)

START_TIMEOUT_S = 60.0  # for the child to be ready: it imports NumPy and OpenCV, perhaps on a busy machine
PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0


@dataclass(frozen=True, slots=True, eq=False)
class Keyframe:
    """What the stage works on: the network's scores, and what is wanted of the CRF."""

    scores: Logits
    labels_size: Size | None  # of the refined mask
    for_fusion: bool = True  # log-probabilities, too

    @property
    def stream(self) -> str:
        return self.scores.frame.stream


class CrfWorker:
    """Owns the CRF's process. run() is the work of one thread; submit() and close() come from any.

    Of each stream the newest keyframe waits; one that waits gives way. The process is started with the first
    keyframe. When it dies, or gives no answer in budget_s, it is replaced after a pause that grows from 0.5
    to 30 s (full jitter); keyframes that come meanwhile are left out and counted.
    """

    def __init__(
        self,
        setup: CrfSetup,
        config: RefineConfig,
        stats: Stats,
        deliver: Callable[[Refined], None],
        command: list[str] | None = None,
    ) -> None:
        """deliver gets each result, in the thread of run(). command: what to start instead, in tests."""
        self._setup = setup
        self._config = config
        self._stats = stats
        self._deliver = deliver
        self._command = command or [sys.executable, "-m", "streamseg.refinement.crf_worker"]
        self._slots: FrameScheduler[Keyframe] = FrameScheduler()
        self._child: _Child | None = None
        self._failures = 0  # in a row
        self._again_at = 0.0  # monotonic seconds
        self._closing = False
        self._wakes: Callable[[], None] = lambda: None  # of the child that runs, replaced whole

    def submit(self, keyframe: Keyframe) -> None:
        """Leave a keyframe; never waits. Nothing happens once closed."""
        with contextlib.suppress(Closed):
            if self._slots.replace(keyframe) is not None:
                self._leave_out(keyframe.stream, "replaced")

    @property
    def pid(self) -> int | None:
        """The number of the CRF's process, None while there is none. From any thread."""
        child = self._child
        return None if child is None else child.pid

    def apply(self, config: RefineConfig) -> None:
        """Take other settings; the priority is that of a process that runs already, and stays."""
        self._config = config

    def run(self) -> None:
        """Refine what is submitted until close(); raises Closed then. Kills the process on its way out."""
        try:
            while not self._closing:
                (keyframe,) = self._slots.take(1, alike=lambda _: 0)
                refined = self._refine(keyframe)
                if refined is not None:
                    self._stats.of(keyframe.stream).refined += 1
                    self._deliver(refined)
            raise Closed
        finally:
            self._end_child()

    def close(self) -> None:
        """End run() at once, whatever it waits for; closing twice is fine."""
        self._closing = True
        self._slots.close()
        self._wakes()

    def _refine(self, keyframe: Keyframe) -> Refined | None:
        scores = keyframe.scores
        if self._too_old(scores):
            return None
        if time.monotonic() < self._again_at:
            self._leave_out(keyframe.stream, "restarting")
            return None
        try:
            child = self._running_child()
            picture = scale_picture(scores.frame.rgb, scores.geometry.input_size)
            answer = child.ask(
                Request(scores.array, picture, keyframe.labels_size, keyframe.for_fusion),
                self._config.budget_s,
            )
        except (ChildLost, TimeoutError, OSError) as error:
            self._leave_out(keyframe.stream, "lost")
            self._child_failed(error)
            return None
        self._failures = 0
        if answer.posterior is None:
            self._leave_out(keyframe.stream, "failed")
            log.debug("%s: the CRF refused a keyframe: %s", keyframe.stream, answer.problem)
            self._stats.of(keyframe.stream).refine_error = answer.problem
            return None
        if self._too_old(scores):
            return None
        posterior = answer.posterior
        return Refined(scores, posterior.log_probabilities, answer.took_s, posterior.labels)

    def _too_old(self, scores: Logits) -> bool:
        age_s = (time.monotonic_ns() - scores.frame.decoded_ns) / 1e9
        if age_s <= self._config.max_age_s:
            return False
        self._leave_out(scores.frame.stream, "too old")
        return True

    def _leave_out(self, stream: str, why: str) -> None:
        self._stats.of(stream).unrefined[why] += 1

    def _running_child(self) -> _Child:
        if self._child is None:
            child = self._child = _Child(self._command)
            self._wakes = child.channel.wake
            if self._closing:  # close() may have come before it could wake this one
                raise Closed
            child.start(Hello(self._setup, self._config.priority))
        return self._child

    def _child_failed(self, error: Exception) -> None:
        why = "died"
        if isinstance(error, TimeoutError):
            why = f"gave no answer in {self._config.budget_s:g} s"
            if self._config.priority == "idle":
                why += ", or got no CPU (refine.priority is idle)"
        elif isinstance(error, OSError) and self._child is None:
            why = f"cannot be started: {error.strerror or error}"
        code = self._end_child(gone=isinstance(error, ChildLost))
        self._stats.crf_restarts += 1
        pause_s = random.uniform(0, min(LONGEST_PAUSE_S, PAUSE_S * 2**self._failures))
        self._failures = min(self._failures + 1, 16)
        self._again_at = time.monotonic() + pause_s
        how = f"{why} ({code})" if code else why
        log.warning("refine: the CRF's process %s; again in %.1f s", how, pause_s)

    def _end_child(self, gone: bool = False) -> str:
        child, self._child = self._child, None
        self._wakes = lambda: None
        return "" if child is None else child.end(gone)


class _Child:
    """The process and the channel to it."""

    def __init__(self, command: list[str]) -> None:
        ours, theirs = socket.socketpair()
        self.channel = Channel(ours)
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [*command, str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    process_group=0,  # Ctrl-C is not for it; in our session, where idle gives way at once
                    env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
                )
        except BaseException:
            self.channel.close()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def start(self, hello: Hello) -> None:
        self.channel.send(hello, START_TIMEOUT_S)
        self.channel.receive(START_TIMEOUT_S)

    def ask(self, request: Request, budget_s: float) -> Answer:
        begun = time.monotonic()
        self.channel.send(request, budget_s)
        answer: Answer = self.channel.receive(max(0.0, budget_s - (time.monotonic() - begun)))
        return answer

    def end(self, gone: bool) -> str:
        """Kill it; how it ended in words: by itself, with a code or a signal, or by us.

        gone: its end of the channel is closed, so it should have ended, or be about to.
        """
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0 if gone else 0.0)
        ended = self._process.returncode
        self._process.kill()
        self._process.wait()
        self.channel.close()
        if ended is None:
            return "killed"
        return f"signal {-ended}" if ended < 0 else f"exit code {ended}"
