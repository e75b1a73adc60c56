"""Services that are reached by a name, which may have addresses of both families."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.children import ROOT
from tests.integration.names_child import WAYS

HOSTS = "127.0.0.1 localhost\n::1 six\n127.0.0.1 both\n::1 both\n"


def test_a_name_is_reached_by_whichever_of_its_addresses_answers(tmp_path: Path) -> None:
    """In a mount namespace of its own, where the names are."""
    (tmp_path / "hosts").write_text(HOSTS)
    script = f'mount --bind "{tmp_path}/hosts" /etc/hosts && echo mounted && exec "$@"'
    namespace = ["unshare", "--mount", *(["--map-root-user"] if os.getuid() else [])]
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare, of util-linux")
    child = [sys.executable, "-m", "tests.integration.names_child"]
    done = subprocess.run(
        [*namespace, "bash", "-c", script, "bash", *child], capture_output=True, text=True, cwd=ROOT
    )
    if not done.stdout.startswith("mounted"):
        pytest.skip("this user may make no mount namespace here")
    said = done.stdout.splitlines()[1:]
    assert said == [*(f"ok {listen} {name}" for listen, name in WAYS), "ok relay", "ok control"], done.stderr
