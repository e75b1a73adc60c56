"""A frame passes few files on its way, so that a newcomer can follow it: tools/walk.py counts them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ATTEMPTS = 3  # a busy machine mixes two frames up; then more files are counted, never fewer


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize(("options", "most"), [([], 26), (["--crf"], 15)], ids=["live frame", "keyframe"])
def test_a_frame_passes_few_files(options: list[str], most: int) -> None:
    counts: list[int] = []
    for _ in range(ATTEMPTS):
        walk = subprocess.run(
            [sys.executable, "tools/walk.py", *options], cwd=ROOT, capture_output=True, text=True, check=False
        )
        found = re.search(r": (\d+) files$", walk.stdout.strip())
        if found:
            counts.append(int(found[1]))
        if counts and counts[-1] <= most:
            break
    assert counts
    assert min(counts) <= most
