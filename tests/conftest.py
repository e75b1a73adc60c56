"""What several tests share: where the real data lies, if it does."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines import tiny_engine

__all__ = ["shared_data", "tiny_engine"]

# Tests run on the same backend whatever is installed, child processes included; tests of others name theirs.
os.environ.setdefault("STREAMSEG_BACKENDS", "onnx")

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(autouse=True)
def _log_level() -> Iterator[None]:
    """A daemon that was told another log level told it to the whole process."""
    logger = logging.getLogger("streamseg")
    before = logger.level
    yield
    logger.setLevel(before)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real clips and CamVid images that lies beside the project, where there is one."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no real data at {SHARED_DATA}")
    return SHARED_DATA
