"""What the gate would be late for, and what is asked for that cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.gate import command
from benchmarks.usual import opened
from streamseg.errors import SourceError, UsageError
from tests.media import draw_clip


def test_an_unknown_class_is_named_before_anything_is_measured(tmp_path: Path) -> None:
    ask = ["seen", str(draw_clip(tmp_path / "street.mp4")), "--class", "sofa"]
    with pytest.raises(UsageError, match=r"--class: must be one of sky, .*, bicyclist; is 'sofa'"):
        CliRunner().invoke(command, ask, catch_exceptions=False)


def test_a_clip_that_the_usual_loop_cannot_open_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"none\.mp4: OpenCV cannot open it"):
        opened(str(tmp_path / "none.mp4"))
