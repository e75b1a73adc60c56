"""streamseg check"""

from __future__ import annotations

from pathlib import Path

import click

from streamseg.config import load_config
from streamseg.errors import ConfigError
from streamseg.runtime.terminal import echo


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
def command(config: Path) -> None:
    """Check CONFIG.toml: keys and values, addresses, files, passwords, and that its engine runs here.

    Opens no source: an address that is well written passes, whether or not the camera answers.
    """
    from streamseg.daemon.checking import config_notes, config_problems
    from streamseg.inference.backends.select import choices, fallback
    from streamseg.inference.plans.load import load_choice

    loaded = load_config(config)
    if problems := list(config_problems(loaded)):
        raise ConfigError(*problems)
    for note in config_notes(loaded):
        echo(f"note: {note}")
    found = choices(loaded.engine)
    if (ready := fallback(loaded.engine, found)) is not None:
        load_choice(ready).close()  # which runs it once, without building a plan
    count = len(loaded.streams)
    echo(f"{config}: {count} {'stream' if count == 1 else 'streams'}, engine {found[0].engine_id}: ok")
