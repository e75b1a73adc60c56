"""What takes long to make is made once per run, and all workers read it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


def made_once(temporary: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """The file or folder that make(path) writes: the first worker that asks makes it, the others wait for it.

    Nobody may write into it; a test that must, copies it.
    """
    base = temporary.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    shared.mkdir(exist_ok=True)
    path, part = shared / name, shared / "parts" / name
    part.parent.mkdir(exist_ok=True)
    with one_at_a_time(shared / f"{name}.lock"):
        if not path.exists():
            shutil.rmtree(part, ignore_errors=True)
            make(part)
            part.rename(path)
    return path


@contextlib.contextmanager
def one_at_a_time(file: Path) -> Iterator[None]:
    """Hold the lock of this file; the kernel gives it back when its process ends, however it ends."""
    with file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
