"""streamseg process"""

from __future__ import annotations

import signal
import sys
import threading
from typing import Any

import click

from streamseg.cli.fetching import fetch_missing
from streamseg.cli.settings import engine_option, label_options, labels_given, options_from
from streamseg.config import (
    CrfConfig,
    EngineConfig,
    FusionConfig,
    RefinementConfig,
    build_settings,
    settings_fields,
)
from streamseg.recorded.settings import ProcessConfig
from streamseg.runtime.terminal import echo

HELP = {name: sentence for name, _, _, sentence in settings_fields(ProcessConfig)}
ASIDE = ("engine", "refinement", "zones", "start_s", "end_s")  # options of their own


@click.command()
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option(
    "--out",
    required=True,
    help="Folder for the results; created if missing. Or an address, such as s3://BUCKET/PATH.",
)
@engine_option
@options_from(EngineConfig, "precision", "input_size", "threads")
@label_options
@options_from(ProcessConfig, *(name for name in HELP if name not in ASIDE))
@click.option(
    "--refinement",
    "refinement_level",
    type=click.Choice(["off", "live", "best"]),
    default=RefinementConfig().level,
    help="off: the network's masks; live: the CRF on keyframes, and fusion over time; best: smoothed with "
    "the frames that follow, too. The options below change single choices.",
)
@options_from(RefinementConfig, "every", "lookahead", prefix="refinement-")
@options_from(CrfConfig, prefix="refinement-crf-")
@options_from(FusionConfig, "enabled", prefix="refinement-fusion-")
@click.option("--zones", metavar="FILE", help=HELP["zones"])
@click.option("--start", "start_s", type=float, default=0.0, help=HELP["start_s"])
@click.option("--end", "end_s", type=float, help=HELP["end_s"])
@click.option(
    "--on", metavar="ray[://HOST:PORT]", help="Spread the work over a Ray cluster; the results are the same."
)
@click.option("--overwrite", is_flag=True, help="Start again, even if there are results.")
def command(
    inputs: tuple[str, ...], out: str, name: str, on: str | None, overwrite: bool, **options: Any
) -> None:
    """Segment recorded files: exactly one mask for each frame, with a manifest as proof.

    INPUT is a video, a folder of videos, a pattern such as 'day*/*.mp4', an http(s) or s3:// address, or -
    for a list of these on standard input, one a line. Run again, the same command continues where it was
    interrupted, and leaves alone what is finished.
    """
    from streamseg.cli.report import Report
    from streamseg.recorded import process_files
    from streamseg.recorded.zone_file import read_zones

    labels = labels_given(options)
    given = {key: value for key, value in {"name": name, **options}.items() if value is not None}
    groups: dict[str, Any] = {
        "engine": {**_taken(given, "name", "precision", "input_size", "threads"), "labels": labels},
        "refinement": {
            "crf": _prefixed(given, "refinement_crf_"),
            "fusion": _prefixed(given, "refinement_fusion_"),
            **_prefixed(given, "refinement_"),
        },
    }
    if "zones" in given:
        groups["zones"] = read_zones(given.pop("zones"))
    config = build_settings(ProcessConfig, {**given, **groups})
    fetch_missing(name)
    stop = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: stop.set())
    try:
        with Report() as report:
            result = process_files(
                inputs, out, config, on_event=report.event, overwrite=overwrite, stop=stop, on=on
            )
    except KeyboardInterrupt:
        stop.set()
    finally:
        signal.signal(signal.SIGTERM, before)
    if stop.is_set():
        echo("streamseg: stopped; run the same command again to continue", err=True)
        raise click.Abort
    if not result.whole:
        sys.exit(1)


def _taken(options: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: options.pop(name) for name in names if name in options}


def _prefixed(options: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Take out the options whose names begin so, without that beginning."""
    names = [name for name in options if name.startswith(prefix)]
    return {name.removeprefix(prefix): options.pop(name) for name in names}
