"""streamseg ctl: what is asked of a running daemon."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import msgspec
import numpy as np
from rich.table import Table
from rich.text import Text

from streamseg.cli.ctl_zones import events, zones
from streamseg.cli.pictures import coloured_png, save_beside, save_new
from streamseg.cli.settings import given, label_options, labels_given, options_from
from streamseg.client.control import ControlClient
from streamseg.config import StreamConfig
from streamseg.errors import ControlError, UsageError
from streamseg.net.control_sockets import one_running, running
from streamseg.runtime.drawing import Console, safe_text
from streamseg.runtime.files import write_file
from streamseg.runtime.terminal import echo, echo_document
from streamseg.types import IGNORE, LabelSet, Mask
from streamseg.wire.control import LOG_LEVELS, EngineStatus, LogLevel, Status
from streamseg.wire.status import StreamStatus

WIDE = 120  # columns that the whole table needs

_STYLES = {"playing": "green", "paused": "yellow", "reconnecting": "red", "failed": "bold red"}


@dataclass(frozen=True, slots=True)
class _Connection:
    """How to reach the chosen daemon, which is looked for when it is asked: not for --help."""

    endpoint: str
    name: str
    config: Path | None
    server_key: str | None
    client_key: str | None
    timeout_s: float

    def __call__(self) -> ControlClient:
        where = _running_with(self.config) if self.config is not None else None
        return ControlClient(
            self.endpoint or where or one_running(self.name),
            server_key=self.server_key,
            client_key_file=self.client_key,
            timeout_s=self.timeout_s,
        )


@click.group()
@click.option("--name", help="The daemon with this name: NAME of streamseg@NAME, or its process id.")
@click.option("--config", type=click.Path(path_type=Path), help="The daemon that runs this file.")
@click.option("--endpoint", help="The daemon at this endpoint; for another machine, its control.endpoint.")
@click.option("--server-key", help="With --endpoint: the daemon's public key, or its file (NAME.pub).")
@click.option("--client-key", help="With --endpoint: the file of our own secret key (NAME.key).")
@click.option("--timeout", "timeout_s", type=float, default=5.0, help="Seconds to wait for an answer.")
@click.pass_context
def command(
    context: click.Context,
    name: str | None,
    config: Path | None,
    endpoint: str | None,
    server_key: str | None,
    client_key: str | None,
    timeout_s: float,
) -> None:
    """Control a running daemon: the only one of this user on this machine, or the chosen one."""
    if sum(option is not None for option in (name, config, endpoint)) > 1:
        raise UsageError("give one of --name, --config and --endpoint")
    if (server_key or client_key) and endpoint is None:
        raise UsageError(
            "--server-key and --client-key go with --endpoint; on this machine no keys are needed"
        )
    if context.resilient_parsing:
        return
    context.obj = _Connection(endpoint or "", name or "", config, server_key, client_key, timeout_s)


@command.command()
@click.option("--json", "as_json", is_flag=True, help="The whole status as one JSON document.")
@click.pass_obj
def status(connect: _Connection, as_json: bool) -> None:
    """Show the state of the daemon and its streams."""
    with connect() as daemon:
        found = daemon.status()
    if as_json:
        echo_document(msgspec.json.format(msgspec.json.encode(found)))
        return
    console = Console()
    if not console.draws:
        console = Console(width=WIDE)
    console.print(_about(found), soft_wrap=True)
    console.print(_table(found.streams, narrow=console.width < WIDE))
    for one in found.streams.values():
        if one.error:
            console.print(safe_text(f"{one.stream}: {one.error}", "red"), soft_wrap=True)


@command.command()
@click.argument("stream")
@click.option("--source", required=True, help="A file, /dev/videoN or an address.")
@options_from(
    StreamConfig, "detail_source", "password_file", "realtime", "loop", "max_fps", "max_age_ms", "timeout_s",
    "rtsp_transport", "retry_at_start", "mask_size", "gate", "engine",
)  # fmt: skip
@label_options
@click.pass_obj
def add(connect: _Connection, /, stream: str, source: str, **options: Any) -> None:
    """Add a stream, until the daemon reloads its configuration or ends; to keep it, add it to the file."""
    labels = labels_given(options)
    written = given(**options) | ({"labels": labels} if labels else {})
    with connect() as daemon:
        daemon.add(stream, source=source, **written)


def _stream_command(ask: Callable[[ControlClient, str], object], text: str) -> None:
    """Add the command of the same name, which asks this of a stream."""

    @command.command(ask.__name__, help=text)
    @click.argument("stream")
    @click.pass_obj
    def run(connect: _Connection, stream: str) -> None:
        with connect() as daemon:
            ask(daemon, stream)


_stream_command(
    ControlClient.remove, "Remove a stream, until the daemon reloads its configuration or is started again."
)
_stream_command(ControlClient.pause, "Close a camera or an address, hold a file at its place.")
_stream_command(ControlClient.resume, "Continue a paused stream; restart one that has ended or failed.")
_stream_command(ControlClient.keyframe, "Send the stream's next frame to the CRF.")


command.add_command(zones)
command.add_command(events)


@command.command()
@click.argument("stream")
@click.argument("name")
@click.pass_obj
def engine(connect: _Connection, stream: str, name: str) -> None:
    """Run a stream on another network, until the daemon reloads its configuration or ends.

    NAME: a section [engines.NAME], default for [engine], or an engine's name. It is loaded and run first, and
    the stream goes on meanwhile; where that fails, nothing changes.
    """
    with connect() as daemon:
        daemon.engine(stream, name)


@command.command()
@click.pass_obj
def reload(connect: _Connection) -> None:
    """Read the configuration file again. A file with an error changes nothing."""
    with connect() as daemon:
        done = daemon.reload()
    for what, names in (
        ("added", done.added),
        ("removed", done.removed),
        ("restarted", done.restarted),
        ("applied", done.applied),
        ("needs a restart", done.needs_restart),
    ):
        if names:
            echo(f"{what}: {', '.join(names)}")
    if done == type(done)(id=done.id):
        echo("nothing has changed")


@command.command("log-level")
@click.argument("level", type=click.Choice(LOG_LEVELS))
@click.pass_obj
def log_level(connect: _Connection, level: LogLevel) -> None:
    """Log from this severity up, until the daemon reloads its configuration or ends."""
    with connect() as daemon:
        daemon.log_level(level)


@command.command()
@click.argument("stream")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="The PNG to write, or replace; else a new one, STREAM-RUN-EPOCH-SEQ.png.",
)
@click.option("--refined", is_flag=True, help="The last refined mask instead.")
@click.pass_obj
def snapshot(connect: _Connection, stream: str, out: Path | None, refined: bool) -> None:
    """Save the last mask of a stream as a PNG in the colours of its classes, and print what it shows."""
    with connect() as daemon:
        mask, labels = daemon.snapshot(stream, refined=refined)
    picture = coloured_png(mask, labels)
    if out is None:
        path = save_new(Path(), mask, picture)
    else:
        write_file(path := out, picture)
    for line in _facts(mask, labels):
        echo(line)
    echo(f"saved as {path}")


@command.command()
@click.argument("stream")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="The JPEG to write, or replace; else a new one, STREAM-TIME.jpg.",
)
@click.pass_obj
def picture(connect: _Connection, stream: str, out: Path | None) -> None:
    """Save a picture of a stream's detail_source, which is opened for it, and print when it was taken."""
    with connect() as daemon:
        made = daemon.picture(stream)
    taken = datetime.fromtimestamp(made.captured_unix_ns / 1e9, UTC)
    if out is None:
        path = save_beside(Path(f"{stream}-{taken:%Y%m%dT%H%M%S.%f}Z.jpg"), made.jpeg)
    else:
        write_file(path := out, made.jpeg)
    clock = "by the camera's clock" if made.clock == "camera" else "as it arrived"
    height, width = made.size
    echo(f"{stream}: {width}x{height}, {taken:%Y-%m-%d %H:%M:%S.%f} UTC {clock}")
    echo(f"saved as {path}")


def _running_with(config: Path) -> str:
    """The endpoint of the daemon on this machine that runs this file; raises UsageError."""
    wanted = config.resolve()  # by whatever path either of us was given
    for endpoint in running().values():
        try:
            with ControlClient(endpoint, timeout_s=2.0) as daemon:
                if (runs := daemon.status().config) and Path(runs).resolve() == wanted:
                    return endpoint
        except (ControlError, UsageError):
            continue
    raise UsageError(f"--config {config}: no daemon that this user may control runs it on this machine")


def _about(status: Status) -> Text:
    hours, minutes = divmod(int(status.uptime_s) // 60, 60)
    publisher = status.publisher
    lines = [
        f"{status.name}: {status.state} for {hours} h {minutes:02} min, process {status.pid}, "
        f"streamseg {status.streamseg}, {status.memory_bytes / 2**20:.0f} MiB"
        + (f", runs {status.config}" if status.config else ""),
        *(_engine_line(engine) for engine in status.engines.values() or (status.engine,)),
    ]
    if publisher is not None:
        lines.append(
            f"masks on {publisher.endpoint}: {publisher.subscribers} subscribers, {publisher.published} masks"
            + (f", {publisher.denied} keys refused" if publisher.denied else "")
        )
    if status.crf_restarts or status.web_restarts:
        lines.append(f"restarts: CRF {status.crf_restarts}, console {status.web_restarts}")
    return Text("\n").join(map(safe_text, lines))


def _engine_line(engine: EngineStatus) -> str:
    """What a network runs on; with its name, if it is not [engine]."""
    name = "" if engine.name == "default" else f" {engine.name}:"
    share = f", {engine.replicas} replicas" if engine.replicas > 1 else ""
    share += f", {engine.threads} threads" if engine.threads > 1 else ", 1 thread" if engine.threads else ""
    text = f", {engine.text}" if engine.text else ""
    return f"engine{name} {engine.id} on {engine.device or '?'}{share}: {engine.state}{text}"


def _table(streams: dict[str, StreamStatus], *, narrow: bool) -> Table:
    """A line for each stream; narrow leaves out the least important columns."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    columns: list[tuple[str, Callable[[StreamStatus], Text | str]]] = [
        ("stream", lambda s: s.stream),
        ("state", lambda s: Text(s.state, _STYLES.get(s.state, ""))),
        ("size", lambda s: f"{s.size[1]}x{s.size[0]}" if s.size else "-"),
        ("masks/s", lambda s: f"{s.fps:.1f}"),
        ("age", lambda s: "-" if s.age_ms is None else f"{s.age_ms:.0f} ms"),
        ("published", lambda s: str(s.published)),
        ("unchanged", lambda s: "-" if s.unchanged_share is msgspec.UNSET else f"{s.unchanged_share:.0%}"),
        ("drops", lambda s: ", ".join(f"{count} {cause}" for cause, count in sorted(s.drops.items())) or "-"),
        ("reconnects", lambda s: str(s.reconnects)),
        ("source", lambda s: s.source),
    ]
    if narrow:
        columns = [column for column in columns if column[0] not in ("size", "reconnects", "source")]
    if all(s.unchanged_share is msgspec.UNSET for s in streams.values()):
        columns = [column for column in columns if column[0] != "unchanged"]
    for heading, _ in columns:
        right = heading in ("masks/s", "age", "published", "unchanged", "reconnects")
        wraps = heading in ("drops", "source")
        table.add_column(heading, justify="right" if right else "left", no_wrap=not wraps, overflow="fold")
    for one in streams.values():
        table.add_row(*(cell(one) for _, cell in columns))
    return table


def _facts(mask: Mask, labels: LabelSet | None) -> list[str]:
    height, width = mask.size
    counts = np.bincount(mask.labels.ravel(), minlength=256) / mask.labels.size
    names = labels.names if labels is not None else ()
    shares = ", ".join(
        f"{names[i] if i < len(names) else 'unknown' if i == IGNORE else f'class {i}'} {counts[i]:.1%}"
        for i in map(int, np.argsort(-counts, kind="stable"))
        if counts[i]
    )
    age_s = (mask.published_unix_ns - mask.captured_unix_ns) / 1e9
    return [
        f"{mask.stream}: epoch {mask.epoch}, frame {mask.seq}, mask {mask.n}, revision {mask.revision}, "
        f"{width}x{height}",
        f"engine {mask.engine}, label set {mask.label_set}, {age_s * 1000:.0f} ms old when it was published",
        shares,
    ]
