"""What the GPU's kit does without one: kernels in an interpreter and a compiler, training in a dry run."""

from __future__ import annotations

import importlib.util
import json
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


def check(module: str, tmp_path: Path, *arguments: str, **settings: str) -> str:
    pytest.importorskip("torch")
    environment = os.environ | {"TRITON_CACHE_DIR": str(tmp_path / "triton"), "PYTHONPATH": str(ROOT)}
    environment |= settings
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
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


@pytest.mark.parametrize("stage", ["train", "fulltrain"])
def test_a_dry_run_trains_without_carried_images(stage: str, tmp_path: Path) -> None:
    dry = {"DEVICE_DRY": "1", "PARTS": str(tmp_path), "OUT": str(tmp_path), "DATA": str(tmp_path / "none")}
    told = check("tools.device.probe", tmp_path, stage, **dry)
    figures = json.loads((tmp_path / f"{stage}.json").read_text())
    assert not {"left_out", "failed"} & set(figures), told
    if stage == "train":
        assert [row["form"] for row in figures["train"]] == ["batch 8, one loader thread", "batch 8"]
    else:
        assert "model.onnx" in figures["engine"]
