"""streamseg init"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click

from streamseg.cli.fetching import fetch_missing
from streamseg.cli.settings import engine_option
from streamseg.config import StreamConfig
from streamseg.config.draft import (
    DraftStream,
    checked_name,
    draft_stream,
    named_source,
    password_file_of,
    refuse_existing,
    storable,
    write_draft,
)
from streamseg.config.redact import login_of, redact, remember_value
from streamseg.errors import SourceError, StreamsegError, UsageError
from streamseg.runtime.terminal import echo


@click.command()
@click.option(
    "--source",
    "sources",
    multiple=True,
    metavar="NAME=ADDRESS",
    help="A stream: an address, /dev/videoN, a file or demo:; may be repeated. Without one, it is asked for.",
)
@engine_option
@click.option("--out", type=click.Path(path_type=Path), default=Path("site.toml"), help="The file to write.")
@click.option("--yes", is_flag=True, help="Ask nothing: write sources that do not answer now, too.")
def command(sources: tuple[str, ...], name: str, out: Path, yes: bool) -> None:
    """Write a first configuration: asks for sources and tries each of them.

    Overwrites no file. Passwords go into a file beside it that only its owner may read.
    """
    from streamseg.inference.engine_folders import is_missing
    from streamseg.inference.spec import find_engine

    refuse_existing(out)
    if not is_missing(name):
        find_engine(name)
    asks = sys.stdin.isatty() and not yes
    if not sources and not asks:
        raise UsageError("give --source NAME=ADDRESS for each stream; nothing can be asked here")
    streams = _given(sources, asks, yes) if sources else _asked()
    fetch_missing(name)
    written = write_draft(out, streams, name)
    for path in written:
        private = path.stat().st_mode & 0o077 == 0
        echo(f"wrote {path}" + (": only you may read it" if private else ""))
    if password_file_of(out) in written and out.absolute().is_relative_to("/etc/streamseg"):
        echo("a service reads passwords from /etc/credstore: see docs/operating.md")
    file = shlex.quote(str(out))
    echo(f"next: streamseg check {file}", f"      streamseg run {file} --watch")


def _given(sources: tuple[str, ...], asks: bool, yes: bool) -> list[DraftStream]:
    """The streams of the command line. Raises UsageError for one that does not answer, unless it is kept."""
    streams: list[DraftStream] = []
    for text in sources:
        stream = draft_stream(*named_source(text, _free_name(streams)))
        if any(other.name == stream.name for other in streams):
            raise UsageError(f"{stream.name}: two sources have this name")
        streams.append(stream)
    for stream in streams:
        if _answers(stream) or yes:
            continue
        if not asks or not click.confirm("Write it anyhow?", default=False):
            raise UsageError(
                f"{stream.name}: nothing is written; --yes writes sources that do not answer now"
            )
    return streams


def _asked() -> list[DraftStream]:
    """Ask for one stream after the other; at least one."""
    echo("A source is an address (rtsp://USER@HOST/PATH, http://…), /dev/video0, a file, or demo:.")
    streams: list[DraftStream] = []
    while True:
        more = f"Source of stream {len(streams) + 1}" + (" (empty: no more)" if streams else "")
        source = click.prompt(more, default="" if streams else "demo:", show_default=not streams)
        if not source.strip():
            return streams
        name = _ask_name(streams)
        try:
            stream = _ask_password(draft_stream(name, source))
            if _answers(stream) or click.confirm("Write it anyhow?", default=False):
                streams.append(stream)
        except (UsageError, SourceError) as error:
            echo(redact(str(error)))


def _ask_name(streams: list[DraftStream]) -> str:
    while True:
        name = click.prompt("Its name", default=_free_name(streams)).strip()
        try:
            checked_name(name)
        except UsageError as error:
            echo(str(error))
            continue
        if all(other.name != name for other in streams):
            return name
        echo(f"{name}: another stream has this name")


def _ask_password(stream: DraftStream) -> DraftStream:
    """Ask for the password of a user in the address that comes without one."""
    authority = stream.source.partition("://")[2].partition("/")[0]
    if stream.password or "@" not in authority or login_of(stream.source) is not None:
        return stream
    while True:
        password = click.prompt(
            "Password (not shown; empty: none)", default="", show_default=False, hide_input=True
        )
        if not password:
            return stream
        if storable(password):
            remember_value(password)
            return DraftStream(stream.name, stream.source, password)
        echo("a password must be one line, without spaces around it")


def _answers(stream: DraftStream) -> bool:
    """Open the source, and say what it sends or why nothing comes. Raises SourceError where it never can."""
    from streamseg.sources import open_source, resolve

    resolve(stream.whole_source)
    echo(f"{stream.name}: trying {redact(stream.source)} …")
    try:
        with open_source(StreamConfig(source=stream.whole_source), stream.name) as source:
            height, width = source.size
            rate = f" at {float(source.fps):.4g} fps" if source.fps else ""
            echo(f"{stream.name}: {width}x{height}{rate}, {source.codec}")
    except StreamsegError as error:
        echo(f"{stream.name}: {redact(str(error))}")
        return False
    return True


def _free_name(streams: list[DraftStream]) -> str:
    taken = {stream.name for stream in streams}
    return next(name for i in range(len(taken) + 1) if (name := f"video{i or ''}") not in taken)
