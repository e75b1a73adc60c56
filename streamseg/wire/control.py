"""Requests to a running daemon and its replies: MessagePack maps, one for each message.

A request has `request` (its kind), `version`, `id` (any number, which the reply repeats) and its own fields;
a reply has `reply`, `version` and `id`. docs/protocol.md describes how they are sent.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec import Meta

from streamseg.errors import ControlError
from streamseg.types import Clock
from streamseg.wire import MAX_PART, MAX_SIDE
from streamseg.wire.fields import Count, UnixNs
from streamseg.wire.status import StreamStatus
from streamseg.wire.zones import ZoneMark, ZoneShares

CONTROL_VERSION = 1

MAX_REQUEST = 512 << 10  # 64 zones of 256 points are 300 KB
"""Bytes of a request; a client that sends more is disconnected."""

MAX_REPLY = MAX_PART + (1 << 20)
"""Bytes of a reply; only a snapshot or a detailed picture comes near it."""

MAX_JPEG = MAX_PART
"""Bytes of a detailed picture."""

StreamText = Annotated[str, Meta(min_length=1, max_length=64)]
LogLevel = Literal["debug", "info", "warning", "error"]
LOG_LEVELS: tuple[LogLevel, ...] = get_args(LogLevel)

ErrorCode = Literal[
    "malformed",  # not a request of this protocol
    "version",  # of another version of it
    "starting",  # the engine is still being loaded
    "unknown stream",
    "stream exists",
    "bad settings",  # every problem is named
    "bad state",  # pausing what is paused, resuming what plays
    "no file",  # reloading a daemon that was started without one
    "no mask",  # a snapshot before the first mask
    "stopping",
    "failed",  # an internal error; see the log
]


class Request(msgspec.Struct, frozen=True, kw_only=True, tag_field="request", forbid_unknown_fields=True):
    """Base of all requests."""

    version: int = CONTROL_VERSION
    id: Count = 0
    # True: asked for by somebody else than the daemon's own user, such as a page, also on the private socket.
    remote: bool | msgspec.UnsetType = msgspec.UNSET


class GetStatus(Request, frozen=True, kw_only=True, tag="status"):
    """The state of everything. Answered by Status at any time, also while the engine is being loaded."""


class AddStream(Request, frozen=True, kw_only=True, tag="add"):
    """Add a stream. It lasts until it is removed, the configuration is reloaded or the daemon ends."""

    stream: StreamText
    settings: dict[str, Any]  # as below [streams.NAME] in the configuration; source is required


class RemoveStream(Request, frozen=True, kw_only=True, tag="remove"):
    """Remove a stream, and its last mask."""

    stream: StreamText


class PauseStream(Request, frozen=True, kw_only=True, tag="pause"):
    """Close a camera or an address, hold a file at its place."""

    stream: StreamText


class ResumeStream(Request, frozen=True, kw_only=True, tag="resume"):
    """Open the camera or address again (a new epoch), play the file on."""

    stream: StreamText


class ForceKeyframe(Request, frozen=True, kw_only=True, tag="keyframe"):
    """Send the stream's next frame to the CRF, independent of the interval."""

    stream: StreamText


class SetEngine(Request, frozen=True, kw_only=True, tag="engine"):
    """Run a stream on another network, which is loaded and checked first; answered when it serves.

    It lasts until the configuration is reloaded or the daemon ends.
    """

    stream: StreamText
    engine: Annotated[str, Meta(min_length=1, max_length=4096)]  # as a stream's setting `engine` has it


class Reload(Request, frozen=True, kw_only=True, tag="reload"):
    """Read the configuration file again and apply it; answered by Reloaded."""


class SetLogLevel(Request, frozen=True, kw_only=True, tag="log_level"):
    """Log from this severity on, until the configuration is reloaded or the daemon ends."""

    level: LogLevel


class GetSnapshot(Request, frozen=True, kw_only=True, tag="snapshot"):
    """The last mask of a stream with its label set; answered by Snapshot."""

    stream: StreamText
    refined: bool = False  # the last refined one instead


class SetZones(Request, frozen=True, kw_only=True, tag="zones"):
    """Replace a stream's zones and events; with neither, just ask for them. Answered by Zones.

    They outlive the daemon, until somebody changes those of the configuration.
    """

    stream: StreamText
    # As below [streams.NAME.zones] and [streams.NAME.events]; absent: they stay.
    zones: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET
    events: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET


class SegmentPicture(Request, frozen=True, kw_only=True, tag="picture"):
    """A single picture through the network; answered by Snapshot. Only for the daemon's own user.

    A message has no room for its pixels: `file` is where the daemon reads them, RGB, row by row.
    """

    file: Annotated[str, Meta(pattern=r"^/proc/[0-9]{1,10}/fd/[0-9]{1,10}\Z")]
    size: tuple[Annotated[int, Meta(ge=1, le=MAX_SIDE)], Annotated[int, Meta(ge=1, le=MAX_SIDE)]]
    engine: Annotated[str, Meta(max_length=4096)] = ""  # that serves; empty: [engine], or the first


class GetDetail(Request, frozen=True, kw_only=True, tag="detail"):
    """A picture of the stream's detail_source, which is opened for it; answered by DetailPicture."""

    stream: StreamText


AnyRequest = (
    GetStatus
    | AddStream
    | RemoveStream
    | PauseStream
    | ResumeStream
    | ForceKeyframe
    | SetEngine
    | Reload
    | SetLogLevel
    | GetSnapshot
    | SetZones
    | SegmentPicture
    | GetDetail
)


class Reply(msgspec.Struct, frozen=True, kw_only=True, tag_field="reply"):
    """Base of all replies."""

    version: int = CONTROL_VERSION
    id: Count = 0


EngineState = Literal["building", "loading", "fallback", "running"]


class EngineStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A network that runs, or is being loaded."""

    id: str  # name/precision/backend; the settings' name until it is loaded
    name: str = "default"  # as a stream's setting `engine` has it
    device: str = ""
    threads: Count = 0  # on the CPU, of each replica
    replicas: Count = 1
    state: EngineState = "loading"
    text: str = ""  # in words, where there is more to report


class PublisherStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The mask sockets. Counters begin at 0 with the run."""

    run: Count
    endpoint: str
    snapshot_endpoint: str
    subscribers: Count  # connections to the mask socket now
    connections: Count  # to both sockets
    published: Count  # masks of revision 0
    refined: Count
    messages: Count  # sent, over all kinds
    snapshots: Count
    refused: Count  # requests that were not understood
    denied: Count  # keys that are not listed
    hung_up: Count  # connections ended by the daemon


class ControlStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The control socket."""

    endpoint: str
    connections: Count = 0
    requests: Count = 0  # understood
    refused: Count = 0  # answered with an error
    dropped: Count = 0  # not answered: not formed as a request, or the client had gone
    denied: Count = 0
    hung_up: Count = 0


class Status(Reply, frozen=True, kw_only=True, tag="status"):
    """The daemon and all its streams, by name."""

    streamseg: str  # its version
    libraries: dict[str, str] = {}  # versions of the main libraries
    pid: Count
    name: str  # under which `streamseg ctl --name` finds it
    config: str = ""  # path of the file, empty without one
    state: Literal["starting", "running", "stopping"]
    started_unix_ns: UnixNs
    uptime_s: float
    log_level: LogLevel
    memory_bytes: Count  # resident
    cpu_s: float
    threads: Count
    open_files: Count
    children: dict[str, Count] = {}  # process ids by name: crf, web
    crf_restarts: Count = 0
    web_restarts: Count = 0
    engine: EngineStatus  # [engine], or the first of `engines` where no stream uses that
    engines: dict[str, EngineStatus] = {}  # all that are loaded, by name
    engine_names: list[str] = []  # default, and the sections [engines.NAME]
    publisher: PublisherStatus | None = None  # None until the sockets are bound
    control: ControlStatus
    streams: dict[str, StreamStatus] = {}
    zones: dict[str, ZoneMark] = {}  # by stream; absent where it has none
    shares: dict[str, ZoneShares] = {}  # by stream; absent before its first counted mask
    details: list[str] = []  # streams of which a detailed picture is available


class Done(Reply, frozen=True, kw_only=True, tag="done"):
    """It was done."""


class Reloaded(Reply, frozen=True, kw_only=True, tag="reloaded"):
    """What a reload changed. Streams that are in none of the lists were not touched."""

    added: list[str] = []
    removed: list[str] = []
    restarted: list[str] = []
    applied: list[str] = []  # other settings, by their keys
    needs_restart: list[str] = []  # settings that take effect when the daemon is started again


class Snapshot(Reply, frozen=True, kw_only=True, tag="snapshot"):
    """Messages as the mask socket sends them (docs/protocol.md): the label set, then the mask."""

    messages: list[list[bytes]]


class DetailPicture(Reply, frozen=True, kw_only=True, tag="detail"):
    """A picture of the camera's large stream. It is no mask's frame, and has a time of its own."""

    jpeg: bytes
    size: tuple[Count, Count]  # (height, width)
    captured_unix_ns: UnixNs
    clock: Clock


class Zones(Reply, frozen=True, kw_only=True, tag="zones"):
    """A stream's zones and events now, as tables of the configuration without what is as by default."""

    stream: str
    revision: str = ""  # as in ZoneMark
    kept: bool = False
    zones: dict[str, dict[str, Any]] = {}
    events: dict[str, dict[str, Any]] = {}


class Failed(Reply, frozen=True, kw_only=True, tag="failed"):
    """It was not done, and nothing has changed."""

    code: ErrorCode
    problems: list[str]  # one line each


AnyReply = Status | Done | Reloaded | Snapshot | DetailPicture | Zones | Failed


class _Version(msgspec.Struct):
    version: int = CONTROL_VERSION
    id: Count = 0


_requests: msgspec.msgpack.Decoder[AnyRequest] = msgspec.msgpack.Decoder(AnyRequest)
_replies: msgspec.msgpack.Decoder[AnyReply] = msgspec.msgpack.Decoder(AnyReply)
_versions = msgspec.msgpack.Decoder(_Version)


def encode(message: Request | Reply) -> bytes:
    return msgspec.msgpack.encode(message)


def parse_request(data: bytes) -> AnyRequest:
    """Read a request; raises ControlError, and nothing else, on what is not one."""
    if len(data) > MAX_REQUEST:
        raise ControlError("malformed", f"a request has at most {MAX_REQUEST} bytes, this one {len(data)}")
    try:
        _check_version(data)
        return _requests.decode(data)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise ControlError("malformed", f"request: {str(error)[:500]}") from error


def id_of(data: bytes) -> int:
    """The id of a message that may be no request otherwise; 0 where it has none."""
    try:
        return _versions.decode(data).id
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return 0


def parse_reply(data: bytes) -> AnyReply:
    """Read a reply; raises ControlError on what is not one."""
    try:
        _check_version(data)
        return _replies.decode(data)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise ControlError("malformed", f"reply: {error}") from error


def _check_version(data: bytes) -> None:
    version = _versions.decode(data).version
    if version != CONTROL_VERSION:
        raise ControlError("version", f"control: this end speaks {CONTROL_VERSION}, the other {version}")
