"""Measurements for developers: python -m benchmarks.NAME --help in the repository; make bench runs them.

What users measure is in streamseg/bench. docs/benchmarks.md has the figures with their commands.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
import msgspec

from streamseg.errors import StreamsegError
from streamseg.runtime.log import start_logging

ROOT = Path(__file__).parents[1]


def run_command(command: click.Command) -> None:
    """Run a benchmark's command line; an expected failure is one line and an exit code."""
    start_logging("warning")
    try:
        command()
    except StreamsegError as error:
        click.echo(str(error), err=True)
        sys.exit(error.exit_code)


def print_json(result: Any) -> None:
    click.echo(msgspec.json.encode(result))


def or_dash(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
