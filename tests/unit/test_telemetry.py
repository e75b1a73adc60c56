"""Libraries report nothing and leave nothing behind, in whatever process imports them."""

from __future__ import annotations

import ast
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

import streamseg
from tests.integration.children import ROOT

REPORTING = ("onnxruntime", "openvino")
QUIET_ROOMS = ("inference", "models")  # their __init__ turns telemetry off
PACKAGE = Path(streamseg.__file__).parent


@pytest.mark.parametrize("library", REPORTING)
def test_only_rooms_that_turn_telemetry_off_import_a_library_that_reports(library: str) -> None:
    importing = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if any(name.split(".")[0] == library for name in names):
                importing.add(path.relative_to(PACKAGE).parts[0])
    assert importing <= set(QUIET_ROOMS)


@pytest.mark.parametrize("room", QUIET_ROOMS)
@pytest.mark.parametrize("library", REPORTING)
def test_a_process_that_imports_one_writes_no_file_and_starts_no_reporting_thread(
    library: str, room: str, tmp_path: Path
) -> None:
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    look = (
        f"import streamseg.{room}, {library}, sys, threading\n"
        "assert sys.modules.get('openvino_telemetry') is None\n"
        "assert [t.name for t in threading.enumerate()] == ['MainThread'], threading.enumerate()\n"
    )
    env = {k: v for k, v in os.environ.items() if k not in ("CI", "TF_BUILD", "XDG_CACHE_HOME")}
    env |= {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", look], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_children_inherit_that_it_is_off() -> None:
    importlib.import_module("streamseg.inference")
    look = "import os; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True)
    assert done.stdout == "1\n"
