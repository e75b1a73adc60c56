"""streamseg check"""

from __future__ import annotations

from pathlib import Path

import click

from streamseg.config import load_config
from streamseg.inference.spec import find_engine, read_weights


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
def command(config: Path) -> None:
    """Check CONFIG.toml: every key and value, and that its engine is installed, complete and runs here."""
    from streamseg.inference.backends.select import choices

    loaded = load_config(config)
    folder, spec = find_engine(loaded.engine.name)
    read_weights(folder, spec, loaded.engine.precision)
    best = choices(loaded.engine)[0].engine_id
    click.echo(f"{config}: {len(loaded.streams)} streams, engine {best}: ok")
