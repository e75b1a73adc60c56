"""streamseg engine list | info | export"""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import click
import msgspec

from streamseg.config import Precision
from streamseg.engine import find_engine, list_engines, read_weights


@click.group()
def command() -> None:
    """List, describe and export engines."""


@command.command("list")
def list_() -> None:
    """List the engines that can be found."""
    for folder, spec in list_engines():
        height, width = spec.input_size
        click.echo(
            f"{spec.name:20} {spec.network:12} {width}x{height}  {'/'.join(spec.weights):10} "
            f"{len(spec.classes)} classes  {folder}"
        )


@command.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def info(name: str, as_json: bool) -> None:
    """Describe the engine NAME, and check that its weights are whole."""
    folder, spec = find_engine(name)
    sizes = {p: len(read_weights(folder, spec, p)) for p in get_args(Precision) if p in spec.weights}
    if as_json:
        click.echo(msgspec.json.encode({"folder": str(folder), "bytes": sizes, "engine": spec}))
        return
    click.echo(f"name       {spec.name} ({folder})")
    click.echo(f"network    {spec.network}, logits at 1/{spec.output_stride}")
    click.echo(
        f"input      {spec.input_size[1]}x{spec.input_size[0]}, sides multiples of {spec.size_multiple}"
    )
    click.echo("weights    " + ", ".join(f"{p} ({size / 1e6:.1f} MB)" for p, size in sizes.items()))
    click.echo(f"licence    {spec.licence}")
    click.echo(f"classes    {spec.label_set}: " + ", ".join(c.name for c in spec.classes))


@command.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The engine's new folder.")
@click.option(
    "--data", type=click.Path(path_type=Path), help="Labelled images (training ones) that calibrate int8."
)
@click.option(
    "--val",
    type=click.Path(path_type=Path),
    help="Labelled images on which the model card's scores are taken.",
)
@click.option(
    "--stride8", is_flag=True, help="Logits at 1/8, without the quarter-resolution skip: to compare."
)
def export(checkpoint: Path, out: Path, data: Path | None, val: Path | None, stride8: bool) -> None:
    """Make an engine of a CHECKPOINT of streamseg train; int8 as well when --data is given."""
    from streamseg.cli import need_torch

    need_torch("export")
    from streamseg.training.export import export_engine

    export_engine(checkpoint, out, data, val, stride8)
    click.echo(f"{out}: written")
