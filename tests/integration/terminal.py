"""A real pseudo-terminal with a program in it, whose screen can be read as a person sees it."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import pytest

from tests.integration.daemons import environment
from tests.waiting import LIMIT_S


class Terminal:
    """Runs a command in a terminal of this size; a context manager that ends it. Needs pyte."""

    def __init__(self, command: Sequence[object], *, columns: int = 80, rows: int = 24, **env: str) -> None:
        pyte: Any = pytest.importorskip("pyte")
        self.screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self.screen)
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.settings_before = termios.tcgetattr(theirs)
        self._theirs = theirs  # kept open, so that the settings can be read afterwards
        clean = {k: v for k, v in environment().items() if k not in ("COLUMNS", "LINES", "NO_COLOR")}
        self.process = subprocess.Popen(
            [str(word) for word in command],
            stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
            env=clean | {"TERM": "xterm-256color", "COLORTERM": "truecolor"} | env,
        )  # fmt: skip
        self.raw = b""

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(LIMIT_S)
        os.close(self._ours)
        os.close(self._theirs)

    @property
    def text(self) -> str:
        return "\n".join(self.screen.display)

    def wait(self, seen: Callable[[str], bool]) -> str:
        """Read until the screen's text is so; what it then is."""
        deadline = time.monotonic() + LIMIT_S
        while not seen(self.text):
            left_s = deadline - time.monotonic()
            assert left_s > 0, self.text
            if select.select([self._ours], [], [], min(left_s, 0.2))[0]:
                self._read()
            elif self.process.poll() is not None:
                assert seen(self.text), self.text
        return self.text

    def type(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def end(self, *, keys: str = "") -> int:
        """Wait for the program's end, reading on, typing keys once a second; its exit code."""
        begun = time.monotonic()
        typed = 0
        while self.process.poll() is None:
            waited_s = time.monotonic() - begun
            assert waited_s < LIMIT_S, self.text
            if keys and waited_s >= typed:
                self.type(keys)
                typed += 1
            if select.select([self._ours], [], [], 0.05)[0]:
                self._read()
        while select.select([self._ours], [], [], 0)[0]:
            self._read()
        return self.process.returncode

    def colours(self) -> set[str]:
        """The foreground colours of all half blocks on the screen, as pyte names them."""
        cells = (cell for line in self.screen.buffer.values() for cell in line.values())
        return {cell.fg for cell in cells if cell.data == "▀"}

    @property
    def settings(self) -> list[Any]:
        return termios.tcgetattr(self._theirs)

    def _read(self) -> None:
        data = os.read(self._ours, 65536)
        self.raw += data
        self._stream.feed(data)
