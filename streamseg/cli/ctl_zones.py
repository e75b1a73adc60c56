"""streamseg ctl zones | events: what is counted in a running stream."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from streamseg.client.control import ControlClient
from streamseg.config.tables import AnswerTables, event_text, read_tables, toml_of, zone_text
from streamseg.errors import UsageError
from streamseg.runtime.terminal import echo, echo_document

Connect = Callable[[], ControlClient]


@click.command()
@click.argument("stream")
@click.option(
    "--set",
    "file",
    type=click.Path(path_type=Path),
    help="Replace its zones and events by those of this TOML file: [zones.NAME], [events.NAME], or as "
    "exported.",
)
@click.option("--clear", is_flag=True, help="Remove all of its zones and events.")
@click.option("--export", is_flag=True, help="Print them as TOML, to be written into the configuration.")
@click.pass_obj
def zones(connect: Connect, stream: str, file: Path | None, clear: bool, export: bool) -> None:
    """Show, export or replace a stream's zones and events while it runs.

    What is set is kept through restarts, until the configuration's are changed.
    """
    if file is not None and clear:
        raise UsageError("give one of --set and --clear")
    wanted = AnswerTables() if clear else read_tables(file, stream) if file is not None else None
    with connect() as daemon:
        found = daemon.zones(stream) if wanted is None else daemon.zones(stream, wanted.zones, wanted.events)
    tables = AnswerTables(found.zones, found.events)
    if export:
        echo_document(toml_of(stream, tables).rstrip("\n"))
        return
    for line in _lines_of(tables):
        echo(line)
    echo(
        "as set while it runs, not as in the configuration; for that: --export"
        if found.kept
        else "as in the configuration"
    )


@click.command()
@click.argument("stream", required=False)
@click.pass_obj
def events(connect: Connect, stream: str | None) -> None:
    """List the events that are set up, of one stream or of all."""
    with connect() as daemon:
        names = [stream] if stream is not None else list(daemon.status().streams)
        found = [daemon.zones(name) for name in names]
    lines = [
        f"{one.stream}: {name}: {event_text(event)}" for one in found for name, event in one.events.items()
    ]
    for line in lines or ["no events; set some with: streamseg ctl zones STREAM --set FILE"]:
        echo(line)


def _lines_of(tables: AnswerTables) -> list[str]:
    lines = [f"zone {name}: {zone_text(zone)}" for name, zone in tables.zones.items()]
    lines += [f"event {name}: {event_text(event)}" for name, event in tables.events.items()]
    return lines or ["no zones and no events"]
