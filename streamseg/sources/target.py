"""What a `source` setting names, decided from its text alone: nothing is opened here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import unquote

from streamseg.config import StreamConfig
from streamseg.config.redact import redact
from streamseg.errors import SourceError

Kind = Literal["file", "camera", "network"]

NETWORK_SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "http", "https", "udp")
DEMO = "demo:"
DEMO_CLIP = Path(__file__).with_name("demo.clip")
"""A drive down a drawn street: 10 s of H.264 in MP4, 480x360, 30 fps. tools/demo draws it.

Not named .mp4, so that it is taken for a file of the package and not for a recording left in the tree.
"""

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")
_CAMERA = re.compile(r"^/dev/(video\d+|v4l/.+)$")


@dataclass(frozen=True, slots=True)
class Target:
    """A source by its kind; `name` goes to FFmpeg (it may hold a password), `shown` to people."""

    kind: Kind
    name: str
    shown: str
    scheme: str = ""

    @property
    def path(self) -> Path:
        """The file or device; only for kinds "file" and "camera"."""
        return Path(self.name)


def is_live(config: StreamConfig) -> bool:
    """Whether the newest frame wins: a camera, an address, or a file played in real time."""
    return config.realtime or resolve(config.source).kind != "file"


def resolve(source: str) -> Target:
    """Decide what `source` names; raise SourceError for an address that cannot work in this build."""
    if source == DEMO:
        return Target("file", str(DEMO_CLIP), DEMO, "demo")
    if match := _SCHEME.match(source):
        scheme = match[1].lower()
        if scheme == "file":
            path = unquote(source[len("file://") :])
            return Target("file", path, path)
        if scheme in NETWORK_SCHEMES:
            return Target("network", source, redact(source), scheme)
        if scheme == "srt":
            raise SourceError(
                f"{redact(source)}: SRT is not in this build of FFmpeg; "
                "send it as RTSP, or as MPEG-TS to a udp:// address"
            )
        known = ", ".join(f"{s}://" for s in NETWORK_SCHEMES)
        raise SourceError(f"{redact(source)}: {scheme}:// is not known; use a file, /dev/videoN, or {known}")
    if _CAMERA.match(source):
        return Target("camera", source, source, "v4l2")
    path = str(Path(source).expanduser())
    return Target("file", path, path)
