"""streamseg verify"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from streamseg.runtime.terminal import echo


@click.command()
@click.argument("out")
@click.option(
    "--sources",
    type=click.Path(path_type=Path),
    help="The folder that the sources are in now, if not where they were processed.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each input.")
def command(out: str, sources: Path | None, as_json: bool) -> None:
    """Check the results in OUT again: every hash, every frame's time stamp, every label, and the sources.

    Exit code 0 when all is whole, 1 when anything is not.
    """
    from streamseg.recorded.verify import Verdict, verify_folder

    def show(verdict: Verdict) -> None:
        if as_json:
            echo(
                json.dumps(
                    {
                        "manifest": verdict.path,
                        "whole": not verdict.problems,
                        "masks": verdict.masks,
                        "source_checked": verdict.source_checked,
                        "problems": verdict.problems,
                    }
                )
            )
            return
        for problem in verdict.problems:
            echo(f"streamseg: {problem}", err=True)
        if not verdict.problems:
            aside = "" if verdict.source_checked else " (its source was not found, see --sources)"
            echo(f"{verdict.path}: whole, {verdict.masks} masks{aside}")

    if any(verdict.problems for verdict in verify_folder(out, sources, show)):
        sys.exit(1)
