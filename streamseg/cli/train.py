"""streamseg train"""

from __future__ import annotations

import logging
from pathlib import Path

import click

from streamseg.cli import need_torch
from streamseg.errors import UsageError
from streamseg.runtime.log import start_logging
from streamseg.runtime.terminal import echo


@click.command()
@click.option("--recipe", type=click.Path(path_type=Path), help="A recipe (TOML); unset: the default one.")
@click.option("--data", type=click.Path(path_type=Path), help="Training images/ and labels/.")
@click.option(
    "--val",
    type=click.Path(path_type=Path),
    help="Validation images/ and labels/, to choose the best checkpoint.",
)
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="The folder for checkpoints and logs."
)
@click.option(
    "--init",
    metavar="FILE|NAME",
    help="Weights to start from: lite0, lite1, lite2 (ImageNet), a file, or an engine of ours.",
)
@click.option(
    "--teacher",
    "teachers",
    metavar="ENGINE",
    multiple=True,
    help="Learn from this engine (name, folder or best.pt), too; may be given several times.",
)
@click.option(
    "--unlabelled",
    metavar="FOLDER|VIDEO",
    multiple=True,
    help="Pictures or a video that the teachers label; may be given several times.",
)
@click.option(
    "--clip",
    "clips",
    metavar="VIDEO",
    multiple=True,
    help="Steady the network on this video, by the recipe's temporal_weight; may be given several times.",
)
@click.option(
    "--leave-out",
    metavar="PREFIX",
    multiple=True,
    help="A run into OUT/PREFIX without the images whose names begin so, scored on them; several times.",
)
@click.option("--resume", is_flag=True, help="Continue from the last checkpoint in --out.")
def command(
    recipe: Path | None,
    data: Path | None,
    val: Path | None,
    out: Path,
    init: str | None,
    teachers: tuple[str, ...],
    unlabelled: tuple[str, ...],
    clips: tuple[str, ...],
    leave_out: tuple[str, ...],
    resume: bool,
) -> None:
    """Train a network; writes checkpoints, a log (JSONL) and its plot (PNG) into --out."""
    if unlabelled and not teachers:
        raise UsageError("--unlabelled: without --teacher nothing can be learnt from it")
    if data is None and (leave_out or not unlabelled):
        raise UsageError("--data: is missing; a run without labels needs --teacher and --unlabelled")
    need_torch("train")
    start_logging("info")
    from streamseg.training.folds import train_folds
    from streamseg.training.loop import Inputs, train
    from streamseg.training.recipe import TrainRecipe, load_recipe

    settings = load_recipe(recipe) if recipe else TrainRecipe()
    if bool(clips or settings.temporal_moved) != bool(settings.temporal_weight):
        raise UsageError(
            "--clip: goes with a temporal_weight above 0 in the recipe; one of them is missing "
            "(temporal_moved needs no clips)"
        )
    if clips and settings.temporal_moved:
        raise UsageError("--clip: does not go with temporal_moved in the recipe; leave one of them out")
    inputs = Inputs(data, val, init=init, teachers=teachers, unlabelled=unlabelled, clips=clips)
    if leave_out:
        echo(*train_folds(settings, inputs, leave_out, out, resume))
        return
    best = train(settings, inputs, out, resume)
    logging.getLogger(__name__).info("best checkpoint: %s", best)
