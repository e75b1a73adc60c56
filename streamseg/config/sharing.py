"""Streams that take the decoded frames of another one: source = "stream:NAME"."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from streamseg.config.schema import StreamConfig
from streamseg.errors import did_you_mean

SHARED = "stream:"
OF_THE_SOURCE = (
    "detail_source",
    "password_file",
    "realtime",
    "loop",
    "skip_frames",
    "timeout_s",
    "rtsp_transport",
    "hwaccel",
    "retry_at_start",
)
"""Settings of how a source is read: they are those of the stream that reads it."""


def shared_with(config: StreamConfig) -> str:
    """The stream whose frames this one takes; empty for one that decodes a source of its own."""
    return config.source.removeprefix(SHARED) if config.source.startswith(SHARED) else ""


def sharing_problems(
    streams: Mapping[str, StreamConfig], present: Mapping[str, StreamConfig] | None = None
) -> Iterator[str]:
    """What keeps these streams from taking another one's frames; present: streams that there are, too."""
    known = {**(present or {}), **streams}
    for name, config in known.items():
        if not config.source.startswith(SHARED):
            continue
        of, key = shared_with(config), f"streams.{name}.source"
        if of == name:
            yield f"{key}: stream:{of} is this stream itself; name another one, or a source"
        elif of not in known:
            others = [one for one in known if one != name]
            hint = did_you_mean(of, others, kind="other streams", shown=f"{SHARED}{{}}".format)
            yield f"{key}: unknown stream {of!r}; {hint}"
        elif further := shared_with(known[of]):
            what = "the two name one another" if further == name else f"it takes the frames of {further}"
            way = "give one of them a source" if further == name else f"write stream:{further}"
            yield f"{key}: stream:{of} has no source of its own, {what}; {way}"
        else:
            plain = StreamConfig(source=config.source)
            for field in OF_THE_SOURCE:
                if getattr(config, field) != getattr(plain, field):
                    yield f"streams.{name}.{field}: is that of {of}, whose source is read; leave it out here"
