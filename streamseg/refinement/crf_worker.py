"""The CRF's process: keyframes come in over a socket, posteriors go out. Started by crf_process.py.

A process of its own, so that a crash or a hang of native code costs refinements and never masks, and so that
it can have what the network leaves of the CPU.
"""

from __future__ import annotations

import signal
import socket
import sys
import time

import cv2

from streamseg.refinement.crf_step import (
    Answer,
    CrfSetup,
    Hello,
    Kept,
    Priority,
    Request,
    refine,
    workspace_of,
)
from streamseg.runtime.channel import Channel, ChildLost
from streamseg.runtime.child import Policy, lower_priority

MOST_WORKSPACES = 4
PRIORITIES: dict[Priority, tuple[int, Policy]] = {
    "normal": (0, "other"),
    "low": (10, "other"),
    "idle": (19, "idle"),
}


def main() -> None:
    """Serve until the other end closes."""
    for number in (signal.SIGINT, signal.SIGTERM):  # meant for the daemon, which then closes the socket
        signal.signal(number, signal.SIG_IGN)
    channel = Channel(socket.socket(fileno=int(sys.argv[1])))
    try:
        hello: Hello = channel.receive()
        cv2.setNumThreads(1)
        channel.send("ready")
        lower_priority(*PRIORITIES[hello.priority])
        workspaces = _Workspaces()
        while True:
            request: Request = channel.receive()
            channel.send(_answer(request, workspaces.of(request.setup)))
    except ChildLost:
        pass


class _Workspaces:
    """What is kept from keyframe to keyframe, for each of the engines whose keyframes came last."""

    def __init__(self) -> None:
        self._kept: list[tuple[CrfSetup, Kept]] = []

    def of(self, setup: CrfSetup) -> Kept:
        workspace = next((one for known, one in self._kept if known == setup), None)
        if workspace is None:
            workspace = workspace_of(setup)
        self._kept = [(setup, workspace), *((k, w) for k, w in self._kept if k != setup)][:MOST_WORKSPACES]
        return workspace


def _answer(request: Request, workspace: Kept) -> Answer:
    begun = time.perf_counter()
    posterior, problem = None, ""
    try:
        posterior = refine(request, workspace)
    except Exception as error:  # noqa: BLE001 - sent to the parent; the next keyframe may succeed
        problem = f"{type(error).__name__}: {error}"
    return Answer(posterior, problem, time.perf_counter() - begun)


if __name__ == "__main__":
    main()
