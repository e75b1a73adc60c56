"""The loops that people write without streamseg, written here for comparison: OpenCV and ONNX Runtime.

plain: each capture in turn, a frame at a time. threads: as ultralytics' loader, a thread for each capture
with a buffer of frames, and batches of one frame of each in the main loop.
Both have the best of their ordinary settings: captures by FFmpeg with as many decoding threads as it chooses
(for files: frame threads on each core), OpenCV's and ONNX Runtime's own threads on all cores, scaling by
INTER_LINEAR before the colours are turned, logits enlarged as one array whose last axis are the classes.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from streamseg.errors import SourceError
from streamseg.types import U8, Size

BUFFER = 30  # frames of each source, as ultralytics has it


@dataclass(slots=True)
class Clock:
    """CPU seconds of the whole process by step, and the frames done."""

    cpu_s: dict[str, float] = field(default_factory=dict)
    frames: int = 0

    def timed(self, step: str, work: Callable[[], Any]) -> Any:
        """Do a step and count its time."""
        begun = time.process_time()
        done = work()
        self.cpu_s[step] = self.cpu_s.get(step, 0.0) + time.process_time() - begun
        return done


class Network:
    """A graph that takes uint8 RGB (N, h, w, 3) and gives logits (N, C, h', w'), by ONNX Runtime as it is."""

    def __init__(self, path: str, size: Size) -> None:
        self._session: Any = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name
        self.size = size

    def prepared(self, bgr: U8) -> U8:
        small = cv2.resize(bgr, self.size[::-1], interpolation=cv2.INTER_LINEAR)
        return np.asarray(cv2.cvtColor(small, cv2.COLOR_BGR2RGB))

    def logits(self, batch: U8) -> npt.NDArray[np.float32]:
        return np.asarray(self._session.run(None, {self._input: batch})[0])

    @staticmethod
    def labels(logits: npt.NDArray[np.float32], size: Size) -> U8:
        """(C, h, w) → class ids (H, W)."""
        wide = cv2.resize(np.ascontiguousarray(logits.transpose(1, 2, 0)), size[::-1])
        return np.asarray(wide.argmax(2), np.uint8)


def opened(source: str) -> cv2.VideoCapture:
    capture = cv2.VideoCapture(source, cv2.CAP_FFMPEG)
    if not capture.isOpened():
        raise SourceError(f"{source}: OpenCV cannot open it")
    return capture


def frames_of(capture: cv2.VideoCapture) -> Iterator[U8]:
    """The frames of a file, again and again."""
    while True:
        got, bgr = capture.read()
        if got:
            yield np.asarray(bgr)
        else:
            capture.set(cv2.CAP_PROP_POS_FRAMES, 0)


def plain(source: str, streams: int, network: Network, until: Callable[[Clock], bool]) -> None:
    """Each capture in turn; until: asked after each frame."""
    captures = [frames_of(opened(source)) for _ in range(streams)]
    clock = Clock()
    while True:
        for capture in captures:
            bgr = clock.timed("read", partial(next, capture))
            small = clock.timed("resize", partial(network.prepared, bgr))
            logits = clock.timed("network", partial(network.logits, small[None]))
            clock.timed("labels", partial(network.labels, logits[0], bgr.shape[:2]))
            clock.frames += 1
            if until(clock):
                return


class Reader:
    """A thread that reads one capture into a buffer and waits while that is full."""

    def __init__(self, source: str) -> None:
        self._frames = frames_of(opened(source))
        self.buffer: deque[U8] = deque()
        self.over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self.over.is_set():
            if len(self.buffer) < BUFFER:
                self.buffer.append(next(self._frames))
            else:
                time.sleep(0.01)

    def next(self) -> U8:
        while not self.buffer:
            time.sleep(0.001)
        return self.buffer.popleft()

    def stop(self) -> None:
        self.over.set()
        self._thread.join()


def threads(source: str, streams: int, network: Network, until: Callable[[Clock], bool]) -> None:
    """A reader for each source, and one frame of each as a batch."""
    readers = [Reader(source) for _ in range(streams)]
    clock = Clock()
    try:
        while not until(clock):
            pictures = [reader.next() for reader in readers]
            logits = network.logits(np.stack([network.prepared(bgr) for bgr in pictures]))
            for bgr, one in zip(pictures, logits, strict=True):
                network.labels(one, (bgr.shape[0], bgr.shape[1]))
            clock.frames += len(pictures)
    finally:
        for reader in readers:
            reader.stop()
