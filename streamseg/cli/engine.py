"""streamseg engine list | info | import | compare | build | prune | quantise | calibrate | export"""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import click
import msgspec

from streamseg.cli.engine_compare import command as compare
from streamseg.cli.engine_import import command as import_
from streamseg.cli.settings import as_json, given, options_from
from streamseg.config import EngineConfig, Precision, build_settings
from streamseg.inference.spec import find_engine, list_engines
from streamseg.inference.weights import read_weights
from streamseg.runtime.terminal import echo, echo_document


@click.group()
def command() -> None:
    """List, describe, import, build, quantise and export engines."""


command.add_command(import_)
command.add_command(compare)


@command.command("list")
def list_() -> None:
    """List the engines that can be found."""
    for folder, spec in list_engines(lambda error: echo(f"left out: {error}", err=True)):
        height, width = spec.input_size
        echo(
            f"{spec.name:20} {spec.network:12} {width}x{height}  {'/'.join(spec.weights):10} "
            f"{len(spec.classes)} classes  {folder}"
        )


@command.command()
@click.argument("name")
@as_json
def info(name: str, as_json: bool) -> None:
    """Describe the engine NAME, and check its weights, and that they are of a network as it says."""
    from streamseg.inference.backends.protocol import Choice, backend_of, build_spec
    from streamseg.inference.plans.load import load_choice

    folder, spec = find_engine(name)
    sizes = {p: len(read_weights(folder, spec, p)) for p in get_args(Precision) if p in spec.weights}
    for precision in sizes:
        choice = Choice(backend_of("onnx"), build_spec(EngineConfig(), folder, spec, precision))
        load_choice(choice).close()
    limits = choice.spec.limits
    if as_json:
        echo_document(msgspec.json.encode({"folder": str(folder), "bytes": sizes, "engine": spec}))
        return
    echo(f"name       {spec.name} ({folder})")
    kind = "class ids" if spec.gives == "labels" else spec.gives
    at = "" if spec.output_stride is None else f", {kind} at 1/{spec.output_stride}"
    echo(f"network    {spec.network}{at}")
    placed = "placed between bars" if spec.fit == "letterbox" else "stretched"
    sides = f"no other; pictures are {placed}" if limits.size else f"sides multiples of {spec.size_multiple}"
    echo(f"input      {spec.input_size[1]}x{spec.input_size[0]}, {sides}")
    echo("weights    " + ", ".join(f"{p} ({size / 1e6:.1f} MB)" for p, size in sizes.items()))
    echo(f"licence    {spec.licence}")
    echo(f"classes    {spec.label_set}: " + ", ".join(c.name for c in spec.classes))


@command.command()
@click.argument("name")
@options_from(EngineConfig, "backend", "precision", "input_size", "threads", "replicas", "max_batch")
@click.option(
    "--sm",
    default="",
    help="Build for a GPU of this compute capability, such as 89; unset: for this machine.",
)
@click.option("--beside", is_flag=True, help="Keep the plan in the engine's folder instead of the cache.")
@click.option("--again", is_flag=True, help="Build even if there is a plan.")
def build(name: str, sm: str, beside: bool, again: bool, **options: Any) -> None:
    """Build the plan that a backend needs for the engine NAME, so that a start does not have to.

    NAME is an engine's name (streamseg engine list) or its folder.
    """
    from streamseg.inference.backends.select import plan_to_build
    from streamseg.inference.plans.build import Build
    from streamseg.inference.plans.cache import PLANS
    from streamseg.inference.plans.load import ready_plan
    from streamseg.runtime.log import start_logging

    start_logging("info")
    config = build_settings(EngineConfig, {"name": name, **given(**options)})
    choice = plan_to_build(config, sm and f"sm_{sm.removeprefix('sm_')}")
    folder = Path(choice.spec.folder) / PLANS if beside else None
    building = Build(choice, folder, again=again, progress=echo)
    echo(f"{choice.engine_id}: building; log: {building.log_file}")
    building.run()
    plan = ready_plan(choice)
    if plan is not None:
        echo(f"{choice.engine_id}: {plan.path}")


@command.command()
@click.option(
    "--most-gb",
    type=click.FloatRange(0),
    default=4.0,
    help="Keep at most this much; 0 removes all plans, and what was found of precisions.",
)
def prune(most_gb: float) -> None:
    """Remove plans from the cache, least recently used first, and what killed builds left."""
    from streamseg.inference.plans.cache import PLANS
    from streamseg.inference.plans.cache import prune as remove
    from streamseg.inference.plans.proof import forget_proofs
    from streamseg.runtime.folders import cache_folder

    folder = cache_folder(PLANS)
    gone = remove(folder, round(most_gb * 1e9))
    if most_gb == 0 and (proofs := forget_proofs()):
        gone.append(f"{proofs} comparisons with fp32")
    for what in gone:
        echo(f"removed {what}")
    echo(f"{folder}: {len(gone)} removed")


@command.command()
@click.argument("name")
@click.option(
    "--data", required=True, help="Calibrate on this folder of pictures or video; demo: is the demo clip."
)
@options_from(EngineConfig, "input_size")
@click.option("--pictures", type=click.IntRange(2), default=48, help="Use at most this many of them.")
@click.option(
    "--weight-bits",
    type=click.IntRange(7, 8),
    default=8,
    help="7 is less exact, and fast on x86 processors without VNNI, too.",
)
def quantise(
    name: str, data: str, input_size: tuple[int, int] | None, pictures: int, weight_bits: int
) -> None:
    """Add an int8 form to the engine NAME, calibrated on pictures like those it will run on."""
    from streamseg.cli import need_torch
    from streamseg.runtime.log import start_logging

    need_torch("quantise")
    from streamseg.evaluation.dataset import pictures_of
    from streamseg.models.quantise import quantise_engine

    start_logging("info")
    folder, quantised = quantise_engine(name, pictures_of(data, pictures), input_size, weight_bits)
    echo(
        f"{folder}: int8 written, calibrated by {quantised.calibration}; "
        f"{quantised.agreement[quantised.calibration]:.2f} % of labels as in fp32"
    )


@command.command()
@click.argument("name")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    required=True,
    help="Labelled images that the network was not trained on.",
)
@options_from(EngineConfig, "precision", "threads")
def calibrate(name: str, data: Path, **options: Any) -> None:
    """Fit the temperature of the engine NAME, so that confidence 0.8 is right in 80 % of the pixels.

    It is written into engine.toml. Labels do not change.
    """
    from streamseg.cli.eval import calibration_lines
    from streamseg.cli.progress import Bar
    from streamseg.evaluation.calibration import measure_calibration, write_temperature

    folder, _ = find_engine(name)
    config = build_settings(EngineConfig, {"name": name, "precision": "fp32", **given(**options)})
    with Bar("calibrate") as bar:
        report = measure_calibration(config, data, bar.at)
    echo(*calibration_lines(report))
    write_temperature(folder, report.best.temperature)
    echo(f"{folder}: temperature {report.best.temperature:g} written")


@command.command()
@click.argument(
    "checkpoints", metavar="CHECKPOINT...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The engine's new folder.")
@click.option("--data", type=click.Path(path_type=Path), help="Labelled training images, to calibrate int8.")
@click.option(
    "--val",
    type=click.Path(path_type=Path),
    help="Labelled images for the scores in the model card.",
)
@click.option("--stride8", is_flag=True, help="Logits at 1/8, without the skip at 1/4, to compare with.")
def export(
    checkpoints: tuple[Path, ...], out: Path, data: Path | None, val: Path | None, stride8: bool
) -> None:
    """Make an engine of a CHECKPOINT of streamseg train, with an int8 form when --data is given.

    Of several, from runs of one network, it gets the mean of the weights.
    """
    from streamseg.cli import need_torch

    need_torch("export")
    from streamseg.training.export import export_engine

    export_engine(checkpoints[0], out, data, val, stride8, checkpoints[1:])
    echo(f"{out}: written")
