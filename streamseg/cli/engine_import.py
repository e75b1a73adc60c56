"""streamseg engine import"""

from __future__ import annotations

import functools
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from streamseg.cli.settings import given, options_from
from streamseg.inference.spec import EngineSpec
from streamseg.models.weights.datasets import DATASETS
from streamseg.runtime.terminal import echo

if TYPE_CHECKING:
    from streamseg.inference.engine import Engine
    from streamseg.models.weights.onnx_import import Taken
    from streamseg.types import U8

DEMO_FRAME = 100  # of the demo clip: cars, people and a sign
WIDEST = 1280  # pixels of a picture in check.jpg
NUMBERS = (float, float, float)


@click.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--as", "name", required=True, help="The engine's name.")
@click.option(
    "--labels",
    type=click.Path(path_type=Path),
    help="The classes: a text file with NAME or NAME #RRGGBB a line, or id2label in JSON.",
)
@click.option("--dataset", type=click.Choice(DATASETS), help="The classes, and colours, of this data set.")
@click.option("--picture", help="Try it on this picture or video; unset: on the demo's.")
@click.option("--mean", type=NUMBERS, help="Of red, green and blue, of the levels times --scale.")
@click.option("--std", type=NUMBERS, help="The same.")
@click.option(
    "--scale",
    type=click.FloatRange(1e-6, 1e3),
    help="What levels 0..255 are multiplied by first; unset: 1/255 where --mean and --std are up to 1.",
)
@click.option("--in-graph", is_flag=True, help="The graph takes levels 0..255 as they are.")
@options_from(
    EngineSpec,
    "input_size",
    "size_multiple",
    "layout",
    "channels",
    "size",
    "fit",
    "batch",
    "output_name",
    "output",
    "output_layout",
    "sigmoid_in_graph",
    "network",
    "licence",
)
@click.option("--out", type=click.Path(path_type=Path), help="Make it in another folder than engines.")
@click.option("--replace", is_flag=True, help="Replace an engine of this name.")
def command(
    file: Path, name: str, picture: str | None, out: Path | None, replace: bool, **options: Any
) -> None:
    """Make an engine of an ONNX or .tflite FILE, or of a FOLDER of HuggingFace or mmdeploy.

    Says what it guesses, and from what; an option corrects a guess. The engine is tried on a picture, and
    check.jpg in its folder shows the result: look at it.
    """
    from streamseg.models.weights.onnx_import import import_graph, new_engine, new_folder

    wanted = given(**options)
    folders = [Path(p) for p in os.environ.get("STREAMSEG_ENGINES", "").split(os.pathsep) if p]
    folder = new_folder(name, out or next(iter(folders), Path("engines")), replace)
    tried = functools.cache(lambda: _picture(picture))
    with new_engine(folder, replace) as beside:
        if file.suffix.lower() == ".tflite":
            engine, said = _of_tflite(file, name, beside, wanted)
        else:
            taken, engine = import_graph(file, name, beside, wanted, tried)
            said = _said(taken)
        try:
            shares = _check(engine, tried(), beside / "check.jpg")
        finally:
            engine.close()
    for line in said:
        echo(line)
    echo(f"{folder}: written. {folder / 'check.jpg'}: {shares}")
    found = "" if out is None and folder.parent in (*folders, Path("engines")) else f"{folder.parent}/"
    named = shlex.quote(found + name)
    echo(f"Look at check.jpg, then: streamseg run --engine {named} --source SOURCE --watch --web")


def _said(taken: Taken) -> list[str]:
    """What was found out about a graph, and from what."""
    by = f", by {taken.producer[:40]}" if taken.producer else ""
    width = max(len(guess.what) for guess in taken.guesses)
    guesses = (f"  {guess.what:{width}}  {guess.value}  ({guess.source})" for guess in taken.guesses)
    return [f"{taken.graph}: opset {taken.opset}{by}", *guesses]


def _of_tflite(file: Path, name: str, beside: Path, wanted: dict[str, Any]) -> tuple[Engine, list[str]]:
    """Make the engine of a .tflite file; gives it, loaded, and what the file says."""
    from streamseg.config import EngineConfig
    from streamseg.inference.plans.load import load_engine
    from streamseg.inference.spec import read_spec
    from streamseg.models.tflite_engine import import_tflite

    spec = read_spec(import_tflite(file, name, beside, wanted))
    sides = f"{spec.input_size[0]}x{spec.input_size[1]}"
    free = f"{sides}, sides multiples of {spec.size_multiple}" if spec.size_multiple > 1 else sides
    names = ", ".join(entry.name for entry in spec.classes[:6])
    source = "given"
    if not {"labels", "dataset"} & set(wanted):
        known = spec.label_set.rpartition("-")[0] in DATASETS
        source = f"as many as {spec.label_set} has; others" if known else "their number; name them with"
        source += ": --dataset, --labels FILE" if known else " --labels FILE, or --dataset"
    levels = "given" if {"mean", "std", "scale"} & set(wanted) else "the file's, or usual for one in float32"
    said = [
        f"{file}: {'quantised, with an int8 of its own' if 'int8' in spec.weights else 'float32'}",
        f"  size     {free}; logits at 1/{spec.output_stride}",
        f"  levels   mean {spec.normalisation.mean[0]:g}, std {spec.normalisation.std[0]:g}  ({levels})",
        f"  classes  {len(spec.classes)}: {names}{', …' if len(spec.classes) > 6 else ''}  ({source})",
    ]
    return load_engine(EngineConfig(name=str(beside), backend="onnx", precision="fp32")), said


def _picture(picture: str | None) -> U8:
    from streamseg.evaluation.dataset import pictures_of
    from streamseg.sources.target import DEMO

    if picture is None:
        return pictures_of(DEMO, DEMO_FRAME // 5 + 1)[-1]
    return pictures_of(picture, 1)[0]


def _check(engine: Engine, rgb: U8, path: Path) -> str:
    """Write a picture beside itself under its classes → the classes and their shares, in words."""
    import cv2
    import numpy as np

    from streamseg.evaluation.engines import segment
    from streamseg.outputs.one_picture import blend, legend_of, shares_in_words
    from streamseg.runtime.files import write_file

    labels = segment(engine, rgb)
    info = engine.info.spec.labels
    both = np.concatenate([rgb, blend(rgb, labels, info)], 1 if rgb.shape[0] >= rgb.shape[1] else 0)
    if both.shape[1] > WIDEST:
        both = cv2.resize(
            both, (WIDEST, both.shape[0] * WIDEST // both.shape[1]), interpolation=cv2.INTER_AREA
        )
    both = np.concatenate([both, legend_of(labels, info, both.shape[1])])
    write_file(path, cv2.imencode(".jpg", cv2.cvtColor(both, cv2.COLOR_RGB2BGR))[1].tobytes())
    return shares_in_words(labels, info)
