"""streamseg bench"""

from __future__ import annotations

import click

from streamseg.cli.bench import parts, whole


@click.group()
def command() -> None:
    """Measure the pipeline, engines and transport. Close other programs first: they share the cores."""


for _one in (
    whole.pipeline,
    whole.streams,
    whole.console,
    whole.refine,
    whole.recorded,
    parts.engine,
    parts.crf,
    parts.fusion,
    parts.transport,
):
    command.add_command(_one)
