"""streamseg model list | fetch | import"""

from __future__ import annotations

import os
from pathlib import Path

import click

from streamseg.cli.fetching import fetching
from streamseg.errors import OutputError, UsageError
from streamseg.models.weights import RELEASED, SOURCES, Source, fetch, find_source
from streamseg.models.zoo import NETWORKS, find_network
from streamseg.runtime.folders import FETCHED_WEIGHTS, cache_folder
from streamseg.runtime.terminal import echo


@click.group()
def command() -> None:
    """List the networks, fetch their published weights, make engines of them."""


@command.command("list")
def list_() -> None:
    """List the networks, and where their published weights come from."""
    for name, network in NETWORKS.items():
        _line(name, network.parameters, SOURCES[name])
    for name, released in RELEASED.items():
        _line(name, released.parameters, released.source, "engine")


def _line(name: str, parameters: int, source: Source, how: str = "fetch") -> None:
    how = "by hand" if source.by_hand else how
    cached = ", in the cache" if _is_cached(source) else ""
    echo(f"{name:44} {parameters / 1e6:6.2f} M  {how:8} {source.file}{cached}")


def _is_cached(source: Source) -> bool:
    """Whether its file is in the cache; a cache that cannot be looked at is empty."""
    try:
        return os.path.isfile(cache_folder(FETCHED_WEIGHTS) / source.file)
    except OutputError:  # a user without a home
        return False


@command.command("fetch")
@click.argument("name")
@click.option("--cache", type=click.Path(path_type=Path), help="Another folder for the cache.")
@click.option("--out", type=click.Path(path_type=Path), help="Another folder for a released engine.")
def fetch_(name: str, cache: Path | None, out: Path | None) -> None:
    """Download the published weights of the network NAME to the cache; resumes interrupted downloads.

    Of a released engine (streamseg model list) the engine is made, too, in the cache.
    """
    source = find_source(name)
    if name in RELEASED:
        from streamseg.models.released import fetch_engine

        with fetching(name, source) as bar:
            folder = fetch_engine(name, bar.at, weights=cache, out=out, again=True)
        found = name if out is None else folder
        echo(f"{folder}: written; licence: {source.licence}")
        echo(f"run it with: streamseg run --engine {found} --source SOURCE --watch --web")
        return
    if out is not None:
        raise UsageError(f"--out: {name} is no released engine; make one with: streamseg model import")
    with fetching(name, source) as bar:
        path = fetch(name, cache or cache_folder(FETCHED_WEIGHTS), bar.at)
    echo(f"{path}: downloaded; licence: {source.licence}")


@command.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--as", "name", required=True, help="The network (streamseg model list).")
@click.option(
    "--out", type=click.Path(path_type=Path), show_default="engines/NAME", help="The engine's new folder."
)
@click.option(
    "--labels",
    type=click.Path(path_type=Path),
    help="A text file with a class a line, in the order of their ids: NAME, or NAME #RRGGBB.",
)
def import_(file: Path, name: str, out: Path | None, labels: Path | None) -> None:
    """Make an engine of a FILE of weights: .caffemodel, .pth, .safetensors or .tflite.

    Of weights that were trained further on classes of your own, --labels has the names.
    """
    from streamseg.cli import need_torch
    from streamseg.crf.presets import preset

    need_torch("import")
    from streamseg.inference.labels import read_labels
    from streamseg.models.export import write_engine
    from streamseg.models.weights import import_weights

    network = find_network(name)
    crf = preset(network.crf_preset) if network.crf_preset else None
    classes = None if labels is None else read_labels(labels)
    folder = write_engine(
        import_weights(file, name), name, out or Path("engines") / name, crf=crf, classes=classes
    )
    echo(f"{folder}: written")
