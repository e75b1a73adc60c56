"""What all tests share: an environment of their own, the tiny engine, where the real data lies."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import site
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import streamseg.config.redact as redact_module
from tests.engines import tiny_engine

__all__ = ["shared_data", "tiny_engine"]

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_configure(config: pytest.Config) -> None:
    """Give this process, and with it each of several workers, a home, a cache and a folder for sockets.

    So no daemon of another worker, of another run or of the user is found, and no file of the user's is
    written. The paths are short, because that of a socket holds 107 bytes.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # by a shell in the background; children inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    private = Path(tempfile.mkdtemp(prefix="seg-"))
    config.add_cleanup(lambda: shutil.rmtree(private, ignore_errors=True))
    os.environ.setdefault("PYTHONUSERBASE", site.getuserbase())  # packages that may lie in the old home
    os.environ.setdefault("npm_config_cache", str(Path("~/.npm").expanduser()))
    for name, folder in (("HOME", "home"), ("XDG_CACHE_HOME", "cache"), ("XDG_RUNTIME_DIR", "run")):
        (private / folder).mkdir(mode=0o700)
        os.environ[name] = str(private / folder)
    for name in (
        "CACHE_DIRECTORY",
        "RUNTIME_DIRECTORY",
        "STATE_DIRECTORY",
        "XDG_CONFIG_HOME",
        "XDG_STATE_HOME",
    ):
        os.environ.pop(name, None)
    # The same backend whatever is installed, child processes included; tests of other backends name theirs.
    os.environ.setdefault("STREAMSEG_BACKENDS", "onnx")
    if "PYTEST_XDIST_WORKER" in os.environ:  # the workers fill the cores already
        os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def _log_level() -> Iterator[None]:
    """A daemon that was told another log level told it to the whole process."""
    logger = logging.getLogger("streamseg")
    before = logger.level
    yield
    logger.setLevel(before)


@pytest.fixture
def own_runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder for control sockets: only the daemons of this test are found."""
    with tempfile.TemporaryDirectory(prefix="seg-") as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        monkeypatch.setattr("streamseg.net.control_sockets.SYSTEM_BASE", Path(folder) / "none")
        yield Path(folder)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real clips and CamVid images that lies beside the project, where there is one."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no real data at {SHARED_DATA}")
    return SHARED_DATA


@pytest.fixture(autouse=True)
def _forget_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one test's addresses made secret is an ordinary word in the next one."""
    monkeypatch.setattr(redact_module, "_known", redact_module._Known())
