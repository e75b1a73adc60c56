"""Checks of the GPU's kernels that need no GPU: Triton's interpreter, and its compiler for GPUs not here."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.slow,  # it interprets and compiles for a minute
    pytest.mark.timeout(600),
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed"),
]


def check(module: str, tmp_path: Path) -> str:
    pytest.importorskip("torch")
    environment = os.environ | {"TRITON_CACHE_DIR": str(tmp_path / "triton"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", module],
        cwd=ROOT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_the_crfs_kernels_compute_what_the_cpu_computes(tmp_path: Path) -> None:
    assert check("tools.device.checks.interpreter", tmp_path).count("agreement 1.0000") == 12


def test_the_crfs_kernels_compile_without_fences_and_spills_for_four_generations(tmp_path: Path) -> None:
    told = check("tools.device.aot_triton", tmp_path)
    for sm in (80, 89, 90, 120):
        assert told.count(f"sm_{sm} ") == 4
    assert told.count("'MEMBAR': 0") == 16
