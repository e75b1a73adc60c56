"""The settings: each is one field with its type, default, unit and one sentence.

The reader of TOML files, the command line's help and configs/reference.toml all come from these classes.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from streamseg.errors import ConfigError

StreamName = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$",
        description="letters, digits, '.', '_' and '-', at most 64, the first a letter or digit",
    ),
]


T = TypeVar("T", bound="Settings")


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all groups of settings."""


class StreamConfig(Settings, frozen=True):
    """One stream of pictures."""

    source: Annotated[
        str,
        Meta(
            min_length=1,
            description="A file, /dev/videoN, rtsp(s)://, http(s):// (HLS too), udp:// or rtmp://; "
            "demo: is the clip that streamseg draws itself.",
        ),
    ]
    realtime: Annotated[
        bool, Meta(description="Play a file at its own pace, like a camera; the newest frame wins.")
    ] = False
    loop: Annotated[bool, Meta(description="Start a file again when it ends.")] = False
    max_fps: Annotated[
        Annotated[float, Meta(gt=0, le=1000)] | None,
        Meta(description="Skip frames above this rate (frames/s); unset takes every frame."),
    ] = None
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
    keep_trying: Annotated[
        bool,
        Meta(description="Keep trying a live source that cannot be had at the start; off ends the stream."),
    ] = True
    mask_size: Annotated[
        Literal["frame", "input"],
        Meta(description="Size of the masks: the frame's own, or the network input's."),
    ] = "frame"


class EngineConfig(Settings, frozen=True):
    """The network and how it is run."""

    name: Annotated[
        str, Meta(min_length=1, description="An engine's name (streamseg engine list) or its folder.")
    ] = "camvid-slim"
    precision: Annotated[
        Literal["fp32", "int8"], Meta(description="Arithmetic of the network; int8 is about twice as fast.")
    ] = "fp32"
    input_size: Annotated[
        tuple[Annotated[int, Meta(ge=32, le=8192)], Annotated[int, Meta(ge=32, le=8192)]] | None,
        Meta(description="[height, width] that frames are scaled to fit into; unset takes the engine's own."),
    ] = None
    threads: Annotated[
        int, Meta(ge=0, le=256, description="CPU threads of the network; 0 takes one for each core.")
    ] = 0
    max_batch: Annotated[
        int, Meta(ge=1, le=64, description="Frames of different streams run at once, at most.")
    ] = 4


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


class LogConfig(Settings, frozen=True):
    """What is logged."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="The least severity that is logged.")
    ] = "info"


class Config(Settings, frozen=True):
    """Everything that `streamseg run` needs to know."""

    streams: Annotated[dict[StreamName, StreamConfig], Meta(description="The streams, by name.")] = {}
    engine: EngineConfig = EngineConfig()
    publish: PublishConfig = PublishConfig()
    log: LogConfig = LogConfig()


def load_config(path: str | Path) -> Config:
    """Read a TOML file; raise ConfigError with every problem found, each line beginning with its full key."""
    path = Path(path)
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text") from error
    return parse_config(text, str(path))


def parse_config(text: str, where: str = "config") -> Config:
    """Turn TOML text into a checked Config; raises ConfigError."""
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where}: is not valid TOML: {error}") from error
    config = build_settings(Config, tree)
    if not config.streams:
        raise ConfigError('streams: there is none; add a table such as [streams.gate] with source = "…"')
    return config


def build_settings(kind: type[T], tree: dict[str, Any]) -> T:
    """Make settings of `kind` from plain values, with all problems at once; raises ConfigError."""
    problems = list(_problems(kind, tree, ""))
    if problems:
        raise ConfigError(*problems)
    return msgspec.convert(tree, kind)


def settings_fields(kind: type[Settings]) -> Iterator[tuple[str, Any, Any, str]]:
    """Each field's (name, annotation, default or msgspec.NODEFAULT, sentence), in order."""
    hints = get_type_hints(kind, include_extras=True)
    for info in msgspec.structs.fields(kind):
        annotation = hints[info.name]
        made = info.default_factory is not msgspec.NODEFAULT
        default = info.default_factory() if made else info.default
        yield info.name, annotation, default, _meta(annotation).description or ""


def describe(annotation: Any) -> str:
    """What a value of this type may be, in words: "a number above 0, at most 1000"."""
    meta = _meta(annotation)
    kind = bare_type(annotation)
    origin = get_origin(kind)
    if origin is Literal:
        return "one of " + ", ".join(str(a) for a in get_args(kind))
    if origin is tuple:
        items = [describe(a) for a in get_args(kind)]
        alike = len(set(items)) == 1
        return f"a list of {len(items)}, each {items[0]}" if alike else f"a list of {' and '.join(items)}"
    if kind is bool:
        return "true or false"
    if kind is str:
        return f"text ({meta.description.rstrip('.')})" if meta.pattern and meta.description else "text"
    if kind in (int, float):
        words = "a whole number" if kind is int else "a number"
        bounds = [f"{word} {b:g}" for word, b in (("above", meta.gt), ("at least", meta.ge)) if b is not None]
        bounds += [f"{word} {b:g}" for word, b in (("below", meta.lt), ("at most", meta.le)) if b is not None]
        return f"{words} {', '.join(bounds)}".rstrip()
    return getattr(kind, "__name__", str(kind))


def _problems(kind: type[Settings], tree: Any, prefix: str) -> Iterator[str]:
    if not isinstance(tree, dict):
        yield f"{prefix.rstrip('.')}: must be a table, is {tree!r}"
        return
    fields = {name: (annotation, default) for name, annotation, default, _ in settings_fields(kind)}
    for key in tree:
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1, cutoff=0.5)
            yield f"{prefix}{key}: there is no such setting" + (
                f"; did you mean {prefix}{near[0]}?" if near else f" (known here: {', '.join(fields)})"
            )
    for name, (annotation, default) in fields.items():
        if name in tree:
            yield from _value_problems(annotation, tree[name], f"{prefix}{name}")
        elif default is msgspec.NODEFAULT:
            yield f"{prefix}{name}: is missing; it must be {describe(annotation)}"


def _value_problems(annotation: Any, value: Any, key: str) -> Iterator[str]:
    bare = bare_type(annotation)
    if isinstance(bare, type) and issubclass(bare, Settings):
        yield from _problems(bare, value, f"{key}.")
    elif get_origin(bare) is dict and isinstance(value, dict):
        key_type, value_type = get_args(bare)
        for name, item in value.items():
            try:
                msgspec.convert(name, key_type)
            except msgspec.ValidationError:
                yield f"{key}.{name}: a name must be {_meta(key_type).description}"
            yield from _value_problems(value_type, item, f"{key}.{name}")
    else:
        try:
            msgspec.convert(value, annotation)
        except msgspec.ValidationError:
            near = ""
            if get_origin(bare) is Literal and isinstance(value, str):
                close = difflib.get_close_matches(value, get_args(bare), n=1)
                near = f"; did you mean {close[0]!r}?" if close else ""
            yield f"{key}: must be {describe(annotation)}, is {value!r}{near}"


def _meta(annotation: Any) -> Meta:
    """The constraints and the sentence of an annotation, merged over Optional's inside."""
    merged: dict[str, Any] = {}
    stack = [annotation]
    while stack:
        one = stack.pop()
        if get_origin(one) is Annotated:
            stack.append(one.__origin__)
            for meta in one.__metadata__:
                merged.update({k: getattr(meta, k) for k in _META_KEYS if getattr(meta, k) is not None})
        elif get_origin(one) in (Union, UnionType):
            stack.extend(a for a in get_args(one) if a is not NoneType)
    return Meta(**merged)


_META_KEYS = ("gt", "ge", "lt", "le", "pattern", "min_length", "description")


def bare_type(annotation: Any) -> Any:
    """The type without its Annotated wrapping and without None."""
    if get_origin(annotation) is Annotated:
        return bare_type(annotation.__origin__)
    if get_origin(annotation) in (Union, UnionType):
        inside = [a for a in get_args(annotation) if a is not NoneType]
        return bare_type(inside[0]) if len(inside) == 1 else annotation
    return annotation
