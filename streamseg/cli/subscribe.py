"""streamseg subscribe"""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click
import msgspec

from streamseg.cli.pictures import name_of, save_new
from streamseg.cli.screen import watch_masks
from streamseg.cli.table import class_shares, label_set_of
from streamseg.client import Subscription, subscribe, subscribe_events, subscribe_zones
from streamseg.config import PublishConfig
from streamseg.errors import UsageError
from streamseg.outputs.png import png
from streamseg.runtime.log import start_logging
from streamseg.runtime.terminal import echo
from streamseg.types import Mask


@click.command()
@click.argument("endpoint", default=PublishConfig().endpoint)
@click.option("--stream", "streams", multiple=True, help="Only this stream; may be repeated.")
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each mask.")
@click.option(
    "--zones",
    is_flag=True,
    help="Print the shares of zones instead: a line of JSON for each mask that is counted.",
)
@click.option(
    "--events", is_flag=True, help="Print events instead: a line of JSON for each begin, update and end."
)
@click.option("--count", type=click.IntRange(1), help="End after N masks or lines.")
@click.option(
    "--save",
    type=click.Path(path_type=Path),
    help="Save label maps as PNG into this folder, as STREAM-RUN-EPOCH-SEQ.png; replaces none. "
    "Unchanged frames have no file of their own.",
)
@click.option("--server-key", help="The daemon's public key, or the file that holds it (NAME.pub).")
@click.option("--client-key", help="The file of our own secret key (NAME.key).")
def command(
    endpoint: str,
    streams: tuple[str, ...],
    as_json: bool,
    zones: bool,
    events: bool,
    count: int | None,
    save: Path | None,
    server_key: str | None,
    client_key: str | None,
) -> None:
    """Receive masks from ENDPOINT: show a live table, print JSON, or save them. Always the newest mask.

    Shares of zones and events are printed as they are on the wire (docs/protocol.md).
    """
    if (zones and events) or ((zones or events) and save is not None):
        raise UsageError("give one of --zones, --events and --save")
    start_logging("warning")
    which = (endpoint, list(streams) or None)
    connect = partial(subscribe, *which, server_key=server_key, client_key_file=client_key)
    try:
        if zones or events:
            documents = subscribe_zones if zones else subscribe_events
            with documents(*which, server_key=server_key, client_key_file=client_key) as found:
                for document in itertools.islice(found, count):
                    echo(msgspec.json.encode(document).decode())
        elif as_json or save is not None:
            _each(connect, as_json, count, save)
        else:
            watch_masks(connect, threading.Event(), count=count, thumbnails=False)
    except KeyboardInterrupt:
        pass


def _each(connect: Callable[[], Subscription], as_json: bool, count: int | None, save: Path | None) -> None:
    if save is not None:
        try:
            save.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"--save {save}: cannot be made ({error.strerror})") from error
    saved: dict[str, str] = {}  # of each stream, the last name
    with connect() as masks:
        for mask in itertools.islice(masks, count):
            if as_json:
                echo(_json(mask, masks))
            if save is not None and saved.get(mask.stream) != name_of(mask):
                saved[mask.stream] = name_of(mask)
                save_new(save, mask, png(mask.labels))


def _json(mask: Mask, masks: Subscription) -> str:
    shares = class_shares(mask, label_set_of(mask, masks))
    return json.dumps(
        {
            "stream": mask.stream,
            "run": mask.run,
            "epoch": mask.epoch,
            "seq": mask.seq,
            "n": mask.n,
            "revision": mask.revision,
            "same_as": mask.same_as,
            "pts": mask.pts,
            "pts_ns": mask.pts_ns,
            "captured_unix_ns": mask.captured_unix_ns,
            "clock": mask.clock,
            "age_ms": round(masks.age_s(mask) * 1000, 2),
            "size": list(mask.size),
            "label_set": mask.label_set,
            "engine": mask.engine,
            "shares": {name: round(share, 4) for name, share, *_ in shares},
            "stage_us": mask.stage_us,
        }
    )
