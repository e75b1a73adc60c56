"""Where modules are imported from: never from the folder that the process happens to be started in.

Who may write there would run code in us, and a calendar.py there would replace Python's own.
"""

from __future__ import annotations

import os
import sys


def import_path() -> list[str]:
    """The folders that this process imports from, without the working folder.

    That stays where the package itself lies in it, as in a checkout, and where PYTHONPATH names it in full.
    """
    try:
        working = os.path.realpath(os.getcwd())
    except FileNotFoundError:  # removed since
        working = ""
    package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
    if working == package:
        return [path for path in sys.path if path]
    named = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return [path for path in sys.path if path and (path in named or os.path.realpath(path) != working)]


def python_environment() -> dict[str, str]:
    """The environment of a new Python that imports from where we do, as do those that it starts."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(import_path()), "PYTHONSAFEPATH": "1"}


def module_command(name: str, *arguments: str) -> list[str]:
    """The command that runs a module of ours in a new interpreter; with python_environment()."""
    return [sys.executable, "-P", "-m", name, *arguments]
