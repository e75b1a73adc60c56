"""streamseg keygen"""

from __future__ import annotations

from pathlib import Path

import click

from streamseg.net.curve_keys import make_keys
from streamseg.runtime.terminal import echo


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="NAME of the two files.")
def command(out: Path) -> None:
    """Make a pair of keys: NAME.key is secret, NAME.pub is for the other side.

    A daemon's NAME.key is named by publish.curve_secret_key_file, its NAME.pub goes to the subscribers. A
    subscriber's NAME.pub goes into publish.allowed_clients.
    """
    secret, public = make_keys(out)
    echo(f"{secret}: secret; keep it on this machine")
    echo(f"{public}: public: {public.read_text().splitlines()[-1]}")
