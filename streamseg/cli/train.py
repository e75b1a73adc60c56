"""streamseg train"""

from __future__ import annotations

import logging
from pathlib import Path

import click

from streamseg.cli import need_torch
from streamseg.runtime.log import start_logging


@click.command()
@click.option("--recipe", type=click.Path(path_type=Path), help="A recipe (TOML); unset: the default one.")
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Training images/ and labels/.")
@click.option(
    "--val",
    type=click.Path(path_type=Path),
    help="Validation images/ and labels/, to choose the best checkpoint.",
)
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="The folder for checkpoints and logs."
)
@click.option(
    "--init", metavar="FILE|NAME", help="Weights to start from: lite0, lite1, lite2 (ImageNet), or a file."
)
@click.option("--resume", is_flag=True, help="Continue from the last checkpoint in --out.")
def command(
    recipe: Path | None, data: Path, val: Path | None, out: Path, init: str | None, resume: bool
) -> None:
    """Train a network; writes checkpoints, a log (JSONL) and its plot (PNG) into --out."""
    need_torch("train")
    start_logging("info")
    from streamseg.training.loop import train
    from streamseg.training.recipe import TrainRecipe, load_recipe

    best = train(load_recipe(recipe) if recipe else TrainRecipe(), data, val, out, resume, init)
    logging.getLogger(__name__).info("best checkpoint: %s", best)
