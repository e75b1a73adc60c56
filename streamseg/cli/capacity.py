"""streamseg capacity"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from streamseg.cli.bench import show_table
from streamseg.cli.fetching import fetch_missing
from streamseg.cli.settings import as_json, engine_option, flags_of, given, options_from
from streamseg.config import Config, EngineConfig, StreamConfig, build_settings, load_config
from streamseg.errors import UsageError
from streamseg.runtime.log import start_logging
from streamseg.runtime.terminal import echo, echo_document

if TYPE_CHECKING:
    from streamseg.bench.capacity import CapacityResult, Group

NAMES_SHOWN = 4


@click.command()
@click.argument("config", type=click.Path(path_type=Path), required=False)
@click.option("--source", "sources", multiple=True, help="A stream, without a file; may be repeated.")
@click.option(
    "--size",
    type=click.IntRange(32, 8192),
    nargs=2,
    help="(height, width) of a camera that is not there yet, in place of --source; a clip is drawn.",
)
@click.option(
    "--codec", type=click.Choice(("h264", "hevc", "mjpeg")), default="h264", help="Its codec, with --size."
)
@click.option("--count", type=click.IntRange(1), default=1, help="How many streams of each --source.")
@click.option("--fps", "max_fps", type=click.FloatRange(0.1, 1000), help="Masks a second of each.")
@options_from(StreamConfig, "mask_size")
@engine_option
@options_from(EngineConfig, "backend", "precision", "input_size", "threads", "replicas")
@as_json
def command(
    config: Path | None,
    sources: tuple[str, ...],
    size: tuple[int, int] | None,
    codec: str,
    count: int,
    as_json: bool,
    **options: Any,
) -> None:
    """How many live streams this machine holds, what limits, and what would help.

    Measures for seconds on a short piece of each source. Give a CONFIG.toml, as `streamseg run` takes it, or
    --source or --size.
    """
    if (config is not None) + bool(sources) + (size is not None) != 1:
        raise UsageError("give one of CONFIG.toml, --source and --size")
    written = given(**options)
    if config is not None and (written or count != 1):
        raise UsageError(f"{flags_of(written) or '--count'}: write it in {config} instead")
    from streamseg.bench.capacity import measure_capacity
    from streamseg.bench.clips import drawn_clip

    start_logging("error")
    if config is not None:
        settings = load_config(config)
    else:
        settings = _from_options(sources or (str(drawn_clip((size or (0, 0)), codec)),), written)
        fetch_missing(settings.engine.name)
    result = measure_capacity(settings, dict.fromkeys(settings.streams, count))
    if as_json:
        echo_document(msgspec.json.encode(result))
    else:
        show_capacity(result)


def _from_options(sources: tuple[str, ...], options: dict[str, Any]) -> Config:
    def pick(kind: type) -> dict[str, Any]:
        return {k: v for k, v in options.items() if k in kind.__struct_fields__}  # type: ignore[attr-defined]

    names = ["video"] if len(sources) == 1 else [f"video{i}" for i in range(len(sources))]
    streams = {n: {"source": s, **pick(StreamConfig)} for n, s in zip(names, sources, strict=True)}
    return build_settings(Config, {"streams": streams, "engine": pick(EngineConfig)})


def show_capacity(result: CapacityResult) -> None:
    """Print the answer first, then what it is made of."""
    asked, most = result.streams, math.floor(result.held)
    if asked == 1:
        answer = f"this machine holds about {_streams(most)} like this"
    elif most >= asked:
        answer = f"{asked} streams fit: this machine holds about {most} such"
    else:
        answer = f"too many: {asked} streams, this machine holds about {most} such"
    echo(answer, f"limit: {result.limit} ({result.cores:g} cores)")
    for stream, why in result.unreachable.items():
        echo(f"left out: {stream}: {why}")
    if result.beside:
        echo(result.beside)
    for group in result.groups:
        echo("")
        _show_group(group, alone=len(result.groups) > 1)
    if result.helps:
        echo("")
        show_table(
            ("what would help", "streams"),
            (
                (help.setting + (f" ({help.note})" if help.note else ""), f"{help.streams:.1f}")
                for help in result.helps
            ),
        )


def _show_group(group: Group, alone: bool) -> None:
    height, width = group.size
    names = ", ".join(group.streams[:NAMES_SHOWN]) + (" …" if len(group.streams) > NAMES_SHOWN else "")
    echo(
        f"{_streams(group.count)}: {names}",
        f"{width}x{height} {group.codec} at {group.source_fps:.4g} fps, {group.engine}",
    )
    times, fps, wanted = group.times, group.masks_fps * group.network_share, group.mask_size
    rows = [
        *([("decoding", times.decode, group.source_fps)] if group.decodes else []),
        *([("gate", times.gate, group.masks_fps)] if group.gated else []),
        ("scaling", times.scale, fps),
        ("network", times.network, fps),
        (f"labels, {wanted if isinstance(wanted, str) else f'{wanted[1]}x{wanted[0]}'}", times.labels, fps),
        ("packing", times.pack, fps),
    ]
    whole = sum(ms * rate for _, ms, rate in rows)
    show_table(
        ("", "ms of CPU", "a second", "of its CPU"),
        ((name, f"{ms:.2f}", f"{rate:.4g}", f"{ms * rate / whole:.0%}") for name, ms, rate in rows),
    )
    if alone:
        echo(f"{group.alone:.1f} of this kind alone")


def _streams(count: int) -> str:
    return "1 stream" if count == 1 else f"{count} streams"
