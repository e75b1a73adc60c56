"""streamseg watch"""

from __future__ import annotations

import signal
import threading
from functools import partial

import click

from streamseg.cli.answers import Answers
from streamseg.cli.screen import watch_masks
from streamseg.client import subscribe
from streamseg.config import PublishConfig
from streamseg.runtime.log import start_logging


@click.command()
@click.argument("endpoint", default=PublishConfig().endpoint)
@click.option("--stream", "streams", multiple=True, help="Only this stream; may be repeated.")
@click.option("--thumbnails/--no-thumbnails", default=True, help="Draw each stream's mask below the table.")
@click.option("--server-key", help="The daemon's public key, or the file that holds it (NAME.pub).")
@click.option("--client-key", help="The file of our own secret key (NAME.key).")
def command(
    endpoint: str,
    streams: tuple[str, ...],
    thumbnails: bool,
    server_key: str | None,
    client_key: str | None,
) -> None:
    """Watch the masks of ENDPOINT in a terminal: a live table, zones and open events, and a thumbnail of each
    stream.

    Ends with q or Ctrl-C. Where the output is not a terminal that can be drawn on, prints a line a second for
    each stream.
    """
    start_logging("warning")
    over = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: over.set())
    which = (endpoint, list(streams) or None)
    connect = partial(subscribe, *which, server_key=server_key, client_key_file=client_key)
    answers = partial(Answers, *which, server_key=server_key, client_key_file=client_key)
    watch_masks(connect, over, thumbnails=thumbnails, answers=answers)
