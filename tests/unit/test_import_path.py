"""No module is imported from the folder that a process was started in, by us or by our children."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from streamseg.runtime.child import ChildProcess
from streamseg.runtime.import_path import import_path, module_command
from tests.integration.children import ROOT
from tests.waiting import LIMIT_S

TRAP = "from pathlib import Path\nPath(__file__).with_suffix('.imported').touch()\n"
TRAPS = ("calendar", "email", "msgspec", "aiohttp", "cv2", "click", "runpy", "encodings")


@pytest.fixture
def trapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: it has modules whose names our children import, too."""
    for name in TRAPS:
        (tmp_path / f"{name}.py").write_text(TRAP)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def imported(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.imported"))


def test_the_children_that_we_start_do_not_look_into_the_working_folder(trapped: Path) -> None:
    for module in ("streamseg.web", "streamseg.inference.plans.worker", "streamseg.refinement.crf_worker"):
        child = ChildProcess(module_command(module, "0"), pipes=True, stderr=subprocess.DEVNULL)
        child.close_input()
        for _ in child.lines():
            pass
        child.end(LIMIT_S)
    assert imported(trapped) == []


@pytest.mark.parametrize("named", ["", os.pathsep, "."])
def test_nor_does_a_python_that_a_child_starts_whatever_pythonpath_leaves_empty(
    trapped: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((named, str(ROOT))))
    monkeypatch.setattr(sys, "path", ["", str(trapped), *sys.path])  # as python -c and python -m have it
    start = f"import subprocess, sys; subprocess.run([sys.executable, '-c', 'import {', '.join(TRAPS)}'])"
    with ChildProcess([sys.executable, "-c", start], stderr=subprocess.DEVNULL) as child:
        child.end(LIMIT_S)
    assert imported(trapped) == []


def test_a_folder_that_pythonpath_names_in_full_stays(trapped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(trapped), *sys.path])
    assert str(trapped) not in import_path()
    monkeypatch.setenv("PYTHONPATH", str(trapped))
    assert import_path()[0] == str(trapped)


def test_a_checkout_that_is_worked_in_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])
    assert str(ROOT) in import_path()


def test_a_working_folder_that_was_removed_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert import_path() == [path for path in sys.path if path]


def test_the_command_itself_leaves_the_working_folder_as_soon_as_it_runs(tmp_path: Path) -> None:
    for name in ("click", "difflib", "msgspec"):
        (tmp_path / f"{name}.py").write_text(TRAP)
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "streamseg", "--version"], cwd=tmp_path, env=env, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    assert imported(tmp_path) == []
