"""What the GPU's kit does without one: kernels in an interpreter and a compiler, training in a dry run."""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
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
    assert told.count("'RED': 12") == 2, "from sm_90 on four floats are added at once"
    assert max(int(count) for count in re.findall(r"(\d+) registers", told)) <= 48


def test_another_number_of_points_compiles_nothing_anew() -> None:
    from streamseg.crf.triton_kernels import _blur

    (points,) = (one for one in _blur.params if one.name == "points")
    assert points.do_not_specialize


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


@pytest.mark.timeout(1800)
@pytest.mark.soak  # it fetches wheels, and compiles and packs for a minute
@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="prepare.sh asks git what travels")
def test_what_is_prepared_has_packages_kernels_and_the_version_and_is_small(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    subprocess.run(["git", "clone", "--quiet", ROOT, tree], check=True)
    done = subprocess.run(
        ["bash", "tools/device/prepare.sh"],
        cwd=tree,
        env={**os.environ, "WHEELS": str(tmp_path / "wheels"), "DATA": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (whole,) = re.findall(r"([\d.]+) MiB  in all, without", done.stdout)
    assert float(whole) < 64
    site = tmp_path / "site"
    with tarfile.open(tree / ".device/site.tar.xz") as archive:
        archive.extractall(site, filter="fully_trusted")
    assert {"av", "msgspec", "zmq", "zstandard"} < {one.name for one in site.iterdir()}
    (ours,) = importlib.metadata.distributions(name="streamseg", path=[str(tree / ".device/meta")])
    assert ours.version == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for library in (tree / ".device/native").iterdir():
        ctypes.CDLL(str(library))
