"""The daemons of this machine are found by their sockets, and nobody else's is trusted or removed."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from streamseg.config import ControlConfig
from streamseg.daemon.control import ControlServer
from streamseg.net.control_sockets import PrivateSocket, one_running, running, user_bases
from streamseg.wire.control import AnyReply, AnyRequest, Done
from tests.integration.daemons import environment
from tests.waiting import LIMIT_S

NOBODY = 65534
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="needs root, to make another user's files")


@pytest.fixture
def shared(own_runtime: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The place that all users share, and the only one where daemons are looked for."""
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setattr("streamseg.runtime.folders.SHARED", ())
    place = own_runtime / "tmp"
    place.mkdir()
    place.chmod(0o1777)
    monkeypatch.setenv("TMPDIR", str(place))
    return place


@contextmanager
def listening(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    for folder in (path.parent, path.parents[1], path.parents[2]):
        folder.chmod(0o700)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()
        yield


def ours(shared: Path) -> Path:
    (base,) = user_bases()
    assert base == shared / f"streamseg-{os.getuid()}"
    return base


def test_a_daemon_is_found_and_leaves_nothing(shared: Path) -> None:
    with closing(PrivateSocket()) as private, listening(Path(private.endpoint.removeprefix("ipc://"))):
        assert running() == {private.name: private.endpoint}
        assert one_running() == private.endpoint
        Path(private.endpoint.removeprefix("ipc://")).unlink()
    assert list(ours(shared).iterdir()) == []


@needs_root
@pytest.mark.parametrize("whose", ["the base", "the daemon's folder", "its control folder", "all"])
def test_a_folder_of_another_user_is_passed_over(
    shared: Path, whose: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = ours(shared) / "4242" / "control" / "socket"
    with listening(path):
        assert list(running()) == ["4242"]
        for folder, name in ((path.parents[2], "the base"), (path.parents[1], "the daemon's folder"),
                             (path.parent, "its control folder")):  # fmt: skip
            if whose in (name, "all"):
                os.chown(folder, NOBODY, NOBODY)
        assert running() == {}
    if whose in ("the base", "all"):
        assert caplog.messages == [f"{ours(shared)} belongs to another user ({NOBODY}); passed over"]


@needs_root
def test_a_socket_on_which_another_users_process_listens_is_passed_over(shared: Path) -> None:
    path = ours(shared) / "4242" / "control" / "socket"
    path.parent.mkdir(parents=True, mode=0o700)
    serve = (
        "import os, socket, sys\ns = socket.socket(socket.AF_UNIX)\ns.bind(sys.argv[1])\n"
        f"os.setuid({NOBODY})\ns.listen()\nprint('ready', flush=True)\nsys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", serve, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        assert running() == {}
        other.communicate()


@pytest.mark.parametrize("spoil", ["a link to the base", "a link to the daemon's folder", "open to all"])
def test_what_others_could_have_made_or_changed_is_passed_over(shared: Path, spoil: str) -> None:
    path = ours(shared) / "4242" / "control" / "socket"
    with listening(path):
        if spoil == "open to all":
            path.parents[1].chmod(0o777)
        else:
            folder = path.parents[2] if "base" in spoil else path.parents[1]
            folder.rename(shared / "elsewhere")
            folder.symlink_to(shared / "elsewhere")
        assert running() == {}


def test_a_place_where_others_may_rename_folders_is_not_used(shared: Path) -> None:
    shared.chmod(0o777)
    with listening(ours(shared) / "4242" / "control" / "socket"):
        assert running() == {}
    with closing(PrivateSocket()) as private:
        assert private.endpoint.startswith("ipc://@")


def test_what_somebody_listens_on_is_left_alone_whatever_its_number(shared: Path) -> None:
    """As a daemon of another container: its number means nothing here."""
    number = 2**22 + 5  # above the largest process number
    with listening(ours(shared) / str(number) / "control" / "socket"):
        with closing(PrivateSocket()):
            assert str(number) in running()
        assert str(number) in running()
    with closing(PrivateSocket()):  # nobody listens any more
        assert not (ours(shared) / str(number)).exists()


def test_a_daemon_that_does_not_listen_yet_keeps_its_folder_by_its_lock(shared: Path) -> None:
    with closing(PrivateSocket()) as first, closing(PrivateSocket()) as second:
        assert first.name != second.name  # one process number in two containers
        homes = sorted(home.name for home in ours(shared).iterdir())
        assert homes == sorted([first.name, second.name])


@pytest.mark.skipif(not shutil.which("unshare") or os.getuid() != 0, reason="needs root and unshare")
def test_a_process_of_another_pid_namespace_leaves_our_folder_alone(shared: Path) -> None:
    make = "from streamseg.net.control_sockets import PrivateSocket; print(PrivateSocket().name)"
    with listening(ours(shared) / str(os.getpid()) / "control" / "socket"):
        done = subprocess.run(
            ["unshare", "-p", "-f", "--mount-proc", sys.executable, "-c", make],
            env=environment(), capture_output=True, text=True, timeout=LIMIT_S,
        )  # fmt: skip
        if done.returncode and "unshare" in done.stderr:
            pytest.skip(f"this kernel does not allow it: {done.stderr}")
        assert done.stdout == "1\n", done.stderr
        assert str(os.getpid()) in running()


def test_without_any_folder_it_has_no_file_and_is_found_by_its_own_user_only(
    shared: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shared.rmdir()
    shared.write_text("")
    seen: list[AnyRequest] = []

    def answer(request: AnyRequest, _: bool) -> AnyReply:
        seen.append(request)
        return Done()

    with closing(PrivateSocket()) as private, ControlServer(ControlConfig(), private.endpoint, answer):
        assert "the control socket has no file" in caplog.text
        assert running()[private.name] == private.endpoint
        for uid, let_in in ((os.getuid(), True), (NOBODY, False)):
            if uid != os.getuid() and os.getuid() != 0:
                continue
            send = (
                f"import os\nfrom streamseg.client.control import ControlClient\nos.setuid({uid})\n"
                f"ControlClient({private.endpoint!r}, timeout_s={LIMIT_S if let_in else 1}).log_level('info')"
            )
            done = subprocess.run(
                [sys.executable, "-c", send], capture_output=True, text=True, check=False, timeout=LIMIT_S
            )
            assert ("no answer" not in done.stderr) == let_in, done.stderr
    assert len(seen) == 1
