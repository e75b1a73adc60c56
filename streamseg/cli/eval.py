"""streamseg eval"""

from __future__ import annotations

from pathlib import Path

import click

from streamseg.cli.settings import options_from
from streamseg.config import EngineConfig


@click.command()
@click.option("--engine", "name", default=EngineConfig().name, help="An engine's name or its folder.")
@click.option(
    "--data", type=click.Path(path_type=Path), required=True, help="A folder with images/ and labels/."
)
@options_from(EngineConfig, "precision", "threads")
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON.")
def command(name: str, data: Path, precision: str, threads: int, as_json: bool) -> None:
    """Score an engine on images with ground truth: mIoU, pixel accuracy, IoU of each class, in per cent."""
    from streamseg.cli.progress import Bar
    from streamseg.evaluation.engines import evaluate_engine

    config = EngineConfig(name=name, precision=precision, threads=threads)  # type: ignore[arg-type]
    with Bar("eval") as bar:
        scores = evaluate_engine(config, data, bar.at)
    if as_json:
        click.echo(scores.to_json())
        return
    for label, iou in scores.per_class.items():
        click.echo(f"{label:16} {'  –' if iou is None else f'{iou:6.2f}'}")
    click.echo(f"{'mIoU':16} {scores.miou:6.2f}\n{'pixel accuracy':16} {scores.pixel_accuracy:6.2f}")
