"""`streamseg …` in this process: the same main() as the command's, without what it costs to start one."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import NamedTuple

import pytest

from streamseg.cli import main


class Ended(NamedTuple):
    code: int
    out: str
    err: str  # what a person would see there: its lines, and warnings of the log

    @property
    def last_line(self) -> str:
        """The one line of standard error; fails if there is another, or a traceback."""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("streamseg: ")
        return lines[0]


Command = Callable[..., Ended]


@pytest.fixture
def streamseg(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> Command:
    """streamseg("run", "--source", …): runs it to its end."""

    def run(*words: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["streamseg", *map(str, words)])
        capsys.readouterr()
        caplog.clear()
        with pytest.raises(SystemExit) as ended:
            main()
        assert isinstance(ended.value.code, int)
        said = capsys.readouterr()
        logged = [r.getMessage() for r in caplog.records if r.levelno > logging.INFO]
        return Ended(ended.value.code, said.out, "".join(f"WARN {line}\n" for line in logged) + said.err)

    return run
