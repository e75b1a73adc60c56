"""Options made from settings."""

from __future__ import annotations

from typing import Any

import click
import pytest
from click.testing import CliRunner

from streamseg.cli.settings import given, options_from
from streamseg.config import StreamConfig


@click.command()
@options_from(StreamConfig, "mask_size")
def command(**options: Any) -> None:
    click.echo(repr(given(**options)))


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ([], {}),
        (["--mask-size", "input"], {"mask_size": "input"}),
        (["--mask-size", "540,960"], {"mask_size": [540, 960]}),
        (["--mask-size", " 540, 960"], {"mask_size": [540, 960]}),
    ],
)
def test_a_word_or_numbers_with_a_comma_between_them(written: list[str], read: dict[str, Any]) -> None:
    result = CliRunner().invoke(command, written)
    assert (result.exit_code, result.output) == (0, f"{read}\n")


@pytest.mark.parametrize("written", ["1080p", "540x960", "540,960,3", "540,", "-1,2", "²,3", ""])
def test_anything_else_is_refused_in_one_line(written: str) -> None:
    result = CliRunner().invoke(command, ["--mask-size", written])
    assert result.exit_code == 2
    assert (
        f"must be frame, input or 2 whole numbers with a comma between them; is {written!r}" in result.output
    )
