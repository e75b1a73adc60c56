"""The settings: each is one field with its type, default, unit and one sentence.

reader.py, the command line's help and configs/reference.toml all come from these classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from streamseg.config.analytics import EventConfig, ZoneConfig, answer_conflicts
from streamseg.config.engines import EngineConfig, section_conflicts
from streamseg.config.labels import LabelsConfig
from streamseg.config.redact import remember
from streamseg.config.refinement import RefinementConfig
from streamseg.config.security import access_problems, is_local
from streamseg.config.settings import Name, Settings
from streamseg.errors import ConfigError

StreamName = Name
MaskSide = Annotated[int, Meta(ge=1, le=8192)]  # so that none is too large for the wire


class StreamConfig(Settings, frozen=True):
    """One stream of pictures."""

    source: Annotated[
        str,
        Meta(
            min_length=1,
            description="A file, /dev/videoN, rtsp(s)://, http(s):// (HLS too), udp:// or rtmp://; "
            "demo: is a clip that comes with streamseg; stream:NAME takes another stream's decoded frames.",
        ),
    ]
    detail_source: Annotated[
        str,
        Meta(
            description="The camera's large stream, or the address of its snapshots, where source is its "
            "small one: opened only while somebody asks for a detailed picture."
        ),
    ] = ""
    password_file: Annotated[
        str,
        Meta(
            description="The file with the password of the user in source, and in detail_source, alone or on "
            "a line NAME PASSWORD for each stream; under systemd $CREDENTIALS_DIRECTORY/passwords."
        ),
    ] = ""
    realtime: Annotated[
        bool, Meta(description="Play a file at its own pace, like a camera; the newest frame wins.")
    ] = False
    loop: Annotated[bool, Meta(description="Start a file again when it ends.")] = False
    max_fps: Annotated[
        Annotated[float, Meta(gt=0, le=1000)] | None,
        Meta(description="Skip frames above this rate (frames/s); unset takes every frame."),
    ] = None
    skip_frames: Annotated[
        Literal["none", "auto", "nonref", "nokey"],
        Meta(
            description="What is not decoded: auto: what max_fps does not need; nonref: what no other "
            "picture refers to; nokey: all but intra frames."
        ),
    ] = "auto"
    timeout_s: Annotated[
        float, Meta(gt=0, le=300, description="A live source silent for this long (s) is reconnected.")
    ] = 5.0
    max_age_ms: Annotated[
        Annotated[float, Meta(gt=0)] | None,
        Meta(
            description="No mask older than this (ms since its frame was captured) is published; unset: any."
        ),
    ] = None
    rtsp_transport: Annotated[Literal["tcp", "udp"], Meta(description="How RTSP carries its media.")] = "tcp"
    hwaccel: Annotated[
        Literal["none", "auto", "cuda", "qsv", "drm"],
        Meta(
            description="Decode on this device if the machine has it, else on the CPU: cuda (pictures stay "
            "there for a network that runs there), qsv (Intel), drm (a board's, by V4L2); auto: the first "
            "there is. None has been run on hardware yet."
        ),
    ] = "none"
    retry_at_start: Annotated[
        bool,
        Meta(description="Keep trying a live source that cannot be opened at the start; else it ends."),
    ] = True
    mask_size: Annotated[
        Literal["frame", "input"] | tuple[MaskSide, MaskSide],
        Meta(
            description="Size of the masks: the frame's own, the network input's, which costs least, or "
            "[height, width]."
        ),
    ] = "frame"
    gate: Annotated[
        Literal["none", "motion"],
        Meta(
            description="motion: run the network only where a frame differs from the last one it has seen; "
            "the others say that its labels hold. For cameras that stand still."
        ),
    ] = "none"
    gate_min_s: Annotated[
        float,
        Meta(ge=0, le=60, description="While the picture changes, the network is run at most so often (s)."),
    ] = 0.0
    gate_max_s: Annotated[
        float, Meta(gt=0, le=3600, description="The network is run at least so often (s).")
    ] = 5.0
    engine: Annotated[
        str,
        Meta(
            max_length=4096,
            description="The network that its frames are run on: a section [engines.NAME], or an engine's "
            "name; unset: [engine].",
        ),
    ] = ""
    labels: LabelsConfig = LabelsConfig()
    zones: Annotated[dict[Name, ZoneConfig], Meta(description="Parts of the picture, by name.")] = (
        msgspec.field(default_factory=dict)
    )
    events: Annotated[dict[Name, EventConfig], Meta(description="What is reported, by name.")] = (
        msgspec.field(default_factory=dict)
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        remember(self.source)
        remember(self.detail_source)

    def conflicts(self) -> Iterator[str]:
        if self.detail_source.startswith("stream:"):
            yield "detail_source: must be the camera's large stream itself; stream:NAME is for source"
        elif self.detail_source == self.source:
            yield "detail_source: is source itself; give the camera's large stream, or leave it out"
        yield from answer_conflicts(self.zones, self.events)
        if self.gate_min_s > self.gate_max_s:
            yield f"gate_min_s: must be at most gate_max_s ({self.gate_max_s:g}); is {self.gate_min_s:g}"


class PublishConfig(Settings, frozen=True):
    """The mask stream that subscribers connect to."""

    endpoint: Annotated[
        str,
        Meta(
            pattern=r"^(tcp|ipc)://.+",
            description="Where masks are published: tcp://HOST:PORT or ipc://PATH.",
        ),
    ] = "tcp://127.0.0.1:5570"
    snapshot_endpoint: Annotated[
        str,
        Meta(
            pattern=r"^((tcp|ipc)://.+)?$",
            description="Where late joiners ask for the last masks; empty for the publishing port plus one "
            "(or the ipc path plus '.snapshot').",
        ),
    ] = ""
    encoding: Annotated[
        Literal["zstd", "png", "raw"], Meta(description="How labels are packed; every one is lossless.")
    ] = "zstd"
    queue: Annotated[
        int, Meta(ge=1, le=10000, description="Messages held for one slow subscriber before it loses some.")
    ] = 8
    curve_secret_key_file: Annotated[
        str, Meta(description="Our secret key (streamseg keygen); with it only listed clients may connect.")
    ] = ""
    allowed_clients: Annotated[
        str, Meta(description="Clients' public keys: a file with one a line, or a folder of .pub files.")
    ] = ""
    insecure: Annotated[bool, Meta(description="Allow every client on the network, without keys.")] = False
    max_connections: Annotated[
        int, Meta(ge=2, le=60000, description="Connections at most; a subscriber has two.")
    ] = 512

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_access("publish", self, endpoint=self.endpoint, snapshot_endpoint=self.snapshot_endpoint)


class ControlConfig(Settings, frozen=True):
    """Control of the running daemon (streamseg ctl); its own user on this machine always may."""

    endpoint: Annotated[
        str,
        Meta(
            pattern=r"^((tcp|ipc)://.+)?$",
            description="Where others may control it, too: tcp://HOST:PORT or ipc://PATH; empty: off.",
        ),
    ] = ""
    curve_secret_key_file: Annotated[
        str, Meta(description="Our secret key (streamseg keygen); may be that of [publish].")
    ] = ""
    allowed_clients: Annotated[
        str, Meta(description="Public keys of those who may control: a file with one a line, or a folder.")
    ] = ""
    insecure: Annotated[bool, Meta(description="Allow every client on the network, without keys.")] = False
    max_connections: Annotated[int, Meta(ge=1, le=1000, description="Connections at most.")] = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_access("control", self, endpoint=self.endpoint)


def _check_access(section: str, settings: PublishConfig | ControlConfig, **endpoints: str) -> None:
    if problems := access_problems(
        section,
        endpoints,
        secret_key_file=settings.curve_secret_key_file,
        allowed_clients=settings.allowed_clients,
        insecure=settings.insecure,
    ):
        raise ConfigError(*problems)


class WebConfig(Settings, frozen=True):
    """The web console, health and metrics (extra `web`); who reaches it controls the streams."""

    listen: Annotated[
        str,
        Meta(
            pattern=r"^(([A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.%a-z]+\]):[0-9]{1,5})?$",
            description="HOST:PORT of the console, such as 127.0.0.1:5580; empty: off.",
        ),
    ] = ""
    token_file: Annotated[
        str,
        Meta(description="A file with the console's token; required when other machines can reach it."),
    ] = ""
    insecure: Annotated[bool, Meta(description="Allow every client on the network, without a token.")] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.listen or self.token_file or self.insecure or is_local(f"tcp://{self.listen}"):
            return
        raise ConfigError(
            f"web.listen: {self.listen} is reachable from other machines without "
            "authentication; set web.token_file, listen on 127.0.0.1, or write web.insecure = true"
        )


class LogConfig(Settings, frozen=True):
    """What is logged."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="The least severity that is logged.")
    ] = "info"


class Config(Settings, frozen=True):
    """Everything that `streamseg run` needs to know."""

    streams: Annotated[dict[StreamName, StreamConfig], Meta(description="The streams, by name.")] = (
        msgspec.field(default_factory=dict)
    )
    engine: EngineConfig = EngineConfig()
    engines: Annotated[
        dict[Name, EngineConfig], Meta(description="More networks, by the name that a stream's `engine` has.")
    ] = msgspec.field(default_factory=dict)
    publish: PublishConfig = PublishConfig()
    control: ControlConfig = ControlConfig()
    refinement: RefinementConfig = RefinementConfig()
    web: WebConfig = WebConfig()
    log: LogConfig = LogConfig()

    def conflicts(self) -> Iterator[str]:
        yield from section_conflicts(self.engines)
