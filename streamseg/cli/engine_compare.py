"""streamseg engine compare: two engines on the same pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from streamseg.cli.settings import as_json, given, options_from
from streamseg.config import EngineConfig, build_settings
from streamseg.errors import UsageError
from streamseg.models.weights.datasets import DATASETS
from streamseg.runtime.terminal import echo, echo_document

if TYPE_CHECKING:
    from streamseg.bench.compare import Comparison


@click.command("compare")
@click.argument("a")
@click.argument("b")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="A folder of pictures, or one with images/ and labels/, which are then scored.",
)
@click.option("--video", help="A video, of which every fifth frame is taken; demo: is the demo clip.")
@click.option("--dataset", type=click.Choice(DATASETS), help="The classes of labels/ are this data set's.")
@click.option(
    "--labels",
    type=click.Path(path_type=Path),
    help="The classes of labels/: a text file with a NAME a line.",
)
@click.option(
    "--same",
    multiple=True,
    metavar="NAME=OTHER",
    help="The class OTHER, wherever it is, is called NAME too; may be repeated.",
)
@click.option(
    "--pictures",
    type=click.IntRange(1),
    default=200,
    help="Use at most this many of the folder, and of the video.",
)
@options_from(EngineConfig, "backend", "precision", "threads")
@as_json
def command(
    a: str,
    b: str,
    data: Path | None,
    video: str | None,
    dataset: str | None,
    labels: Path | None,
    same: tuple[str, ...],
    pictures: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Compare the engines A and B: agreement, mIoU where there are labels, speed and memory.

    Each is a name of streamseg engine list, or a folder. Both run by turns on each picture. Classes are
    compared by their names: of engines that differ, those that both have.
    """
    from streamseg.bench.compare import compare_engines
    from streamseg.cli.progress import Bar

    written = given(**options)
    first, second = (build_settings(EngineConfig, {"name": name, **written}) for name in (a, b))
    names, alike = _names(dataset, labels), _alike(same)
    with Bar("compare") as bar:
        found = compare_engines(
            first, second, data, video, names=names, same=alike, most=pictures, progress=bar.at
        )
    if as_json:
        echo_document(found.to_json())
    else:
        echo(*_table(found))


def _names(dataset: str | None, labels: Path | None) -> tuple[str, ...]:
    from streamseg.inference.labels import read_labels
    from streamseg.models.weights.datasets import classes_of

    if dataset and labels:
        raise UsageError("--dataset and --labels say the same twice; leave one out")
    if dataset:
        return tuple(entry.name for entry in classes_of(dataset))
    return tuple(entry.name for entry in read_labels(labels)) if labels else ()


def _alike(same: tuple[str, ...]) -> dict[str, str]:
    """Pairs NAME=OTHER → NAME by OTHER; raises UsageError."""
    found = {}
    for pair in same:
        name, equals, other = pair.partition("=")
        if not (name.strip() and equals and other.strip()):
            raise UsageError(f"--same: must be NAME=OTHER, as in person=pedestrian; is {pair}")
        found[other.strip()] = name.strip()
    return found


def _table(found: Comparison) -> list[str]:
    """The comparison for people."""
    from streamseg.evaluation.metrics import shown

    lines = []
    for letter, side, only in (("A", found.a, found.only_a), ("B", found.b, found.only_b)):
        more = f"; only here: {', '.join(only[:8])}{', …' if len(only) > 8 else ''}" if only else ""
        lines.append(f"{letter}  {side.engine}, {len(side.classes)} classes ({side.label_set}){more}")
    if found.only_a or found.only_b:
        lines.append(f"compared by name: {len(found.per_class)} classes that both have")
    scored = f", {found.labelled} with labels" if found.labelled else ", no labels"
    lines.append(f"{found.pictures} pictures{scored}; {shown(found.compared)} % of the pixels are compared")
    if found.note:
        lines.append(f"note: {found.note}")
    heads = f"{'':18}{'agreement':>10}{'share A':>9}{'share B':>9}"
    lines += ["", f"{'in %':18}{heads[18:]}" + (f"{'IoU A':>8}{'IoU B':>8}" if found.labelled else "")]
    for row in found.per_class:
        scores = f"{shown(row.iou_a, 8)}{shown(row.iou_b, 8)}" if found.labelled else ""
        numbers = f"{shown(row.agreement, 10)}{row.share_a:9.2f}{row.share_b:9.2f}"
        lines.append(f"{row.name[:17]:18}{numbers}{scores}")
    totals = f"{'all, mean IoU':18}{shown(found.agreement, 10)}{'':18}"
    means = f"{shown(found.a.miou, 8)}{shown(found.b.miou, 8)}" if found.labelled else ""
    lines.append(totals + means)
    if found.confused:
        lines += ["", "most often apart:"]
        lines += [f"  A {one.a}, B {one.b}: {one.pixels:.2f} %" for one in found.confused]
    faster = found.b.time.p50_ms / found.a.time.p50_ms
    lines += ["", f"{'':18}{'A':>10}{'B':>10}{'B / A':>8}"]
    lines.append(f"{'ms a picture':18}{found.a.time.p50_ms:10.1f}{found.b.time.p50_ms:10.1f}{faster:8.2f}")
    lines.append(f"{'95 % below':18}{found.a.time.p95_ms:10.1f}{found.b.time.p95_ms:10.1f}")
    sizes = [f"{s.input_size[1]}x{s.input_size[0]}" for s in (found.a, found.b)]
    lines.append(f"{'input':18}{sizes[0]:>10}{sizes[1]:>10}")
    if found.a.memory_mb and found.b.memory_mb:
        ratio = found.b.memory_mb / found.a.memory_mb
        lines.append(f"{'memory, MB':18}{found.a.memory_mb:10.0f}{found.b.memory_mb:10.0f}{ratio:8.2f}")
    return lines
