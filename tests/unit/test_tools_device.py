"""tools/device: it follows the package, says what failed, and stays small."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

from tools.device import common, probe, training

ROOT = Path(__file__).parents[2]
KIT = ROOT / "tools/device"
MODULES = sorted(KIT.rglob("*.py"))


def imports_of(code: str) -> list[tuple[str, str]]:
    """(module, name) for each name that is imported from this repository, or read of such a module."""
    found = []
    tree = ast.parse(code)
    aliases: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] in (
            "streamseg",
            "tests",
            "tools",
            "benchmarks",
        ):
            for alias in node.names:
                found.append((str(node.module), alias.name))
                if find_spec(f"{node.module}.{alias.name}"):
                    aliases[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in aliases:
            found.append((aliases[node.value.id], node.attr))
    return found


def find_spec(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def is_there(module: str, name: str) -> bool:
    """Whether a module has a name; of one that needs Triton by its text, where Triton is missing."""
    if find_spec(f"{module}.{name}"):
        return True
    if not find_spec(module):
        return False
    if module == "tools.device.checks.interpreter":
        return True  # it sets the environment when it is imported
    if module.endswith("triton_kernels") and importlib.util.find_spec("triton") is None:
        return (
            re.search(
                rf"^(def )?{name}\b", Path(ROOT, *module.split(".")).with_suffix(".py").read_text(), re.M
            )
            is not None
        )
    return hasattr(importlib.import_module(module), name)


@pytest.mark.parametrize("path", MODULES, ids=[str(path.relative_to(KIT)) for path in MODULES])
def test_what_the_kit_imports_is_there(path: Path) -> None:
    missing = [
        f"{module}.{name}" for module, name in imports_of(path.read_text()) if not is_there(module, name)
    ]
    assert not missing


@pytest.mark.parametrize("script", ["device.sh", "prepare.sh"])
def test_what_the_scripts_import_and_call_is_there(script: str) -> None:
    text = (KIT / script).read_text()
    snippets = re.findall(r'-c "([^"$]*streamseg[^"$]*)"', text)
    for snippet in snippets:
        assert all(is_there(module, name) for module, name in imports_of(snippet)), snippet
    stages = set(re.findall(r"tools\.device\.probe ([a-z-]+)", text)) | set(
        re.findall(r"\bprobe \d+ ([a-z]+)", text)
    )
    assert stages <= {*probe.STAGES, "collect", "prep", "aoti-build", "tiny-crf", "verdict"}
    for path in re.findall(r"tests/gpu/\w+\.py", text):
        assert (ROOT / path).is_file()
    if script == "device.sh":
        assert snippets
        assert stages > set(probe.STAGES)


def test_a_stage_that_is_not_there_is_named_at_once() -> None:
    done = subprocess.run(
        ["bash", "tools/device/device.sh", "enginges"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stdout.startswith("no such stage: enginges; must be one of: facts engines tests")


def test_what_failed_was_cut_off_or_has_no_figures_is_named_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(probe, "PARTS", tmp_path)
    monkeypatch.setattr(probe, "no_gpu", lambda: "")
    (tmp_path / "facts.json").write_text(json.dumps({"stage_s": 1.0, "device": "some GPU"}))
    assert probe.verdict(["facts", "sanitize"]) == 0
    assert capsys.readouterr().out == ""
    failed = {"what": "bf16", "error": "RuntimeError: no kernel", "where": "engines.py:88"}
    (tmp_path / "engines.json").write_text(json.dumps({"failed": [failed], "stage_s": 2.0}))
    (tmp_path / "tests.json").write_text(json.dumps({"failure": [{"test": "test_a", "text": "assert\n0"}]}))
    (tmp_path / "failed.txt").write_text(
        "exit code 124 after at most 75 s: python -m tools.device.probe crf\n"
    )
    assert probe.verdict(["facts", "engines", "tests", "crf"]) == 4
    assert capsys.readouterr().out.splitlines() == [
        "FAILED exit code 124 after at most 75 s: python -m tools.device.probe crf",
        "FAILED engines: bf16: RuntimeError: no kernel (engines.py:88)",
        "FAILED tests: test_a: assert 0",
        "FAILED crf: has no figures: see log.txt",
    ]
    monkeypatch.setattr(probe, "no_gpu", lambda: "no NVIDIA driver is installed")
    assert probe.verdict(["facts"]) == 2


def test_a_stage_that_was_left_out_is_named_with_what_it_wants_and_has_not_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module, name in ((common, "PARTS"), (probe, "PARTS"), (training, "CARRIED"), (training, "DATA")):
        monkeypatch.setattr(module, name, tmp_path)
    monkeypatch.setattr(probe, "no_gpu", lambda: "")
    monkeypatch.chdir(tmp_path)
    training.train(common.Part("train"))
    training.fulltrain(common.Part("fulltrain"))
    capsys.readouterr()
    assert probe.verdict(["train", "fulltrain"]) == 0
    prepare = "DATA=FOLDER bash tools/device/prepare.sh"
    assert capsys.readouterr().out.splitlines() == [
        f"LEFT OUT train: no training images; {prepare}, and copy .device/",
        f"LEFT OUT fulltrain: no original images; {prepare} --data full, and copy .device-data/",
    ]


def travels(root: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(KIT / "travels.py"), str(root)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_what_travels_is_small_and_a_kit_that_is_too_large_is_refused(tmp_path: Path) -> None:
    if (ROOT / ".git").exists():
        done = travels(ROOT)
        assert done.returncode == 0, done.stderr
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    (tmp_path / ".gitignore").write_text(".device/\n")
    (tmp_path / ".device/native").mkdir(parents=True)
    (tmp_path / "video.mp4").touch()
    os.truncate(tmp_path / "video.mp4", 40 << 20)
    assert travels(tmp_path).returncode == 0
    (tmp_path / ".device/native/_crf.so").touch()
    os.truncate(tmp_path / ".device/native/_crf.so", 30 << 20)
    done = travels(tmp_path)
    assert done.returncode == 1
    assert "  40.0 MiB  the tree (tracked and untracked, not ignored)" in done.stdout
    assert "  30.0 MiB  .device/native" in done.stdout
    assert done.stderr == "70.0 MiB travel: must be at most 64; carry less data (--data none)\n"
