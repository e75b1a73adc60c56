"""The client of a daemon's control socket."""

from __future__ import annotations

import itertools
import os
import time
import weakref
from collections import deque
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from streamseg.errors import ControlError, UsageError, WireError
from streamseg.net import options
from streamseg.net.connection import Connection
from streamseg.net.control_sockets import one_running
from streamseg.net.curve_keys import ClientKeys, client_keys
from streamseg.net.io import Loop
from streamseg.types import U8, LabelSet, Mask
from streamseg.wire import decode_message
from streamseg.wire.control import (
    AddStream,
    DetailPicture,
    Done,
    Failed,
    ForceKeyframe,
    GetDetail,
    GetSnapshot,
    GetStatus,
    LogLevel,
    PauseStream,
    Reload,
    Reloaded,
    RemoveStream,
    Reply,
    Request,
    ResumeStream,
    SegmentPicture,
    SetEngine,
    SetLogLevel,
    SetZones,
    Snapshot,
    Status,
    Zones,
    encode,
    parse_reply,
)

R = TypeVar("R", bound=Reply)


class ControlClient:
    """A connection to a daemon's control socket, and a context manager. Belongs to one thread.

    Each call waits for the answer; it raises ControlError with the daemon's reasons, or with code "no answer"
    after timeout_s.
    """

    def __init__(
        self,
        endpoint: str = "",
        *,
        server_key: str | Path | None = None,
        client_key_file: str | Path | None = None,
        keys: ClientKeys | None = None,
        timeout_s: float = 5.0,
        remote: bool = False,
    ) -> None:
        """endpoint: where the daemon's socket is; empty takes the only daemon of this machine.

        The keys are those of subscribe(). remote: what is asked for comes from somebody who may not do all
        that the daemon's own user may. Raises UsageError.
        """
        self.endpoint = endpoint or one_running()
        self._keys = keys or client_keys(server_key, client_key_file)
        self._timeout_s = timeout_s
        self._remote: bool | msgspec.UnsetType = remote or msgspec.UNSET
        self._ids = itertools.count(int.from_bytes(os.urandom(4)))
        self._loop = Loop().open()
        self._answers = _Answers()
        # For one that nobody refers to any more.
        self._end = weakref.finalize(self, _close, self._loop, self._answers)
        self._end.atexit = False
        try:
            self._answers.connection = self._connect()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> ControlClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; closing twice is fine."""
        self._end()

    def status(self) -> Status:
        """The state of the daemon and its streams."""
        return self._ask(GetStatus(), Status)

    def add(self, stream: str, **settings: Any) -> None:
        """Add a stream; the settings are those of [streams.NAME], and source is required."""
        self._ask(AddStream(stream=stream, settings=settings), Done, loads=True)

    def remove(self, stream: str) -> None:
        """End a stream and forget it."""
        self._ask(RemoveStream(stream=stream), Done)

    def pause(self, stream: str) -> None:
        """Close a camera or an address, hold a file at its place."""
        self._ask(PauseStream(stream=stream), Done)

    def resume(self, stream: str) -> None:
        """Open the camera or address again, play the file on."""
        self._ask(ResumeStream(stream=stream), Done)

    def keyframe(self, stream: str) -> None:
        """Send the stream's next frame to the CRF."""
        self._ask(ForceKeyframe(stream=stream), Done)

    def engine(self, stream: str, engine: str) -> None:
        """Run a stream on another network; returns when that serves. One that fails changes nothing."""
        self._ask(SetEngine(stream=stream, engine=engine), Done, loads=True)

    def reload(self) -> Reloaded:
        """Read the configuration again; what changed. A bad one raises, and changes nothing."""
        return self._ask(Reload(), Reloaded, loads=True)

    def log_level(self, level: LogLevel) -> None:
        """Log from this severity on."""
        self._ask(SetLogLevel(level=level), Done)

    def snapshot(self, stream: str, *, refined: bool = False) -> tuple[Mask, LabelSet | None]:
        """The last mask of a stream, and the classes in it."""
        return self._mask_of(self._ask(GetSnapshot(stream=stream, refined=refined), Snapshot))

    def picture(self, stream: str) -> DetailPicture:
        """A picture of a stream's detail_source, opened for it; waits while the daemon lives."""
        return self._ask(GetDetail(stream=stream), DetailPicture, loads=True)

    def segment(self, rgb: U8, engine: str = "") -> tuple[Mask, LabelSet | None]:
        """Labels and confidence of one picture, RGB (H, W, 3), from a network that serves streams.

        engine: the one that some stream runs on by this name; empty: that of [engine].

        The daemon must run on this machine, as this user. It takes the picture as it takes a stream's frame,
        in turn; give a timeout_s that lasts.
        """
        height, width = rgb.shape[:2]
        with open(os.memfd_create("streamseg-picture"), "wb") as file:  # nothing is left of it in any case
            file.write(rgb.tobytes())
            file.flush()
            path = f"/proc/{os.getpid()}/fd/{file.fileno()}"
            return self._mask_of(
                self._ask(SegmentPicture(file=path, size=(height, width), engine=engine), Snapshot)
            )

    def _mask_of(self, snapshot: Snapshot) -> tuple[Mask, LabelSet | None]:
        mask: Mask | None = None
        labels: LabelSet | None = None
        for parts in snapshot.messages:
            try:
                message = decode_message(parts)
            except WireError as error:
                raise ControlError("malformed", f"{self.endpoint}: {error}") from error
            if isinstance(message, Mask):
                mask = message
            elif isinstance(message, LabelSet):
                labels = message
        if mask is None:
            raise ControlError("malformed", f"{self.endpoint}: the snapshot holds no mask")
        return mask, labels

    def zones(
        self, stream: str, zones: dict[str, Any] | None = None, events: dict[str, Any] | None = None
    ) -> Zones:
        """A stream's zones and events, replaced by the given ones first; each as in the configuration."""
        request = SetZones(
            stream=stream,
            zones=msgspec.UNSET if zones is None else zones,
            events=msgspec.UNSET if events is None else events,
        )
        return self._ask(request, Zones)

    def _ask(self, request: Request, expected: type[R], *, loads: bool = False) -> R:
        """loads: the answer may come after a network was loaded, or a camera was opened; wait for as long as
        the daemon lives."""
        request = msgspec.structs.replace(request, id=next(self._ids), remote=self._remote)
        deadline_s = time.monotonic() + self._timeout_s
        self._loop.poll(0)  # it may have been lost meanwhile
        self._answers.waiting.clear()
        connection = self._answers.connection
        if connection is None or not connection.send([encode(request)]):
            raise self._silence()
        lives = False  # whether anything came since it was last asked for
        if loads:
            connection.send([encode(GetStatus())])
        while True:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                if not (loads and lives and connection.send([encode(GetStatus())])):
                    raise self._silence()
                lives, deadline_s = False, time.monotonic() + self._timeout_s
                continue
            if not self._answers.waiting:
                self._loop.poll(left_s * 1000 + 1)
                continue
            reply = parse_reply(self._answers.waiting.popleft())
            lives = True
            if reply.id != request.id:  # to a request that was given up
                continue
            if isinstance(reply, Failed):
                raise ControlError(reply.code, *reply.problems)
            if not isinstance(reply, expected):
                raise ControlError("malformed", f"{self.endpoint}: answered with {type(reply).__name__}")
            return reply

    def _silence(self) -> ControlError:
        """The error for no answer, with the reason where the connection shows one."""
        why = self._answers.refused or f"no answer in {self._timeout_s:g} s"
        return ControlError("no answer", f"{self.endpoint}: {why}")

    def _connect(self) -> Connection:
        path = Path(self.endpoint.removeprefix("ipc://"))
        if self.endpoint.startswith("ipc:///") and not path.exists():
            raise UsageError(f"{self.endpoint}: no daemon has this socket")
        return Connection(
            self._loop, b"DEALER", self.endpoint, options.CONTROL_REPLY,
            self._answers.take, self._keys, self._answers.follow,
        )  # fmt: skip


class _Answers:
    """What has come from the daemon; refers to no client, so that one that is dropped ends."""

    def __init__(self) -> None:
        self.connection: Connection | None = None
        self.waiting: deque[bytes] = deque(maxlen=16)
        self.refused = ""  # why the daemon does not let us in

    def take(self, message: list[bytes]) -> None:
        self.waiting.append(message[-1])

    def follow(self, _: bool, refused: str) -> None:
        self.refused = refused or self.refused


def _close(loop: Loop, answers: _Answers) -> None:
    if answers.connection is not None:
        answers.connection.close()
    loop.close()
