"""Sockets that are files: taken where nobody listens, made again when removed, removed only where ours."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import zmq

from streamseg.config import ControlConfig, PublishConfig
from streamseg.errors import PublishError
from streamseg.net import ipc_paths, options
from streamseg.net.guard import ConnectionGuard
from streamseg.net.io import Loop, Outgoing
from streamseg.net.ipc_paths import IpcPaths, listener_uid
from streamseg.net.server import Client, Server
from streamseg.net.socket_thread import SocketThread
from streamseg.publish import Publisher
from streamseg.types import LabelSet
from tests.waiting import LIMIT_S, until


@pytest.fixture(autouse=True)
def _looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ipc_paths, "LOOK_EVERY_S", 0.02)


@contextmanager
def answering(path: Path) -> Iterator[SocketThread]:
    """A thread that sends back what it is sent, at this path."""

    def work(thread: SocketThread) -> None:
        def answer(client: Client, message: list[bytes]) -> bool:
            server.send(client, Outgoing(message))
            return False

        guard = ConnectionGuard(thread.loop, ControlConfig())
        server = Server(thread, guard, b"ROUTER", (b"DEALER",), options.CONTROL_REQUEST, answer, answers=True)
        server.bind(f"ipc://{path}")
        thread.opened()
        while not thread.stopping:
            thread.loop.poll()

    thread = SocketThread("answering", work)
    thread.start()
    try:
        yield thread
    finally:
        thread.close()


def asked(path: Path) -> bytes:
    with zmq.Context() as context, context.socket(zmq.DEALER) as sock:
        sock.linger = 0
        sock.connect(f"ipc://{path}")
        sock.send(b"hello")
        assert sock.poll(LIMIT_S * 1000)
        return sock.recv()


def sweep_file(path: Path) -> None:
    path.unlink()


def sweep_folder(path: Path) -> None:
    shutil.rmtree(path.parent)


def sweep_all(path: Path) -> None:
    shutil.rmtree(path.parents[1])


def leave_another(path: Path) -> None:
    """A socket that nobody listens on is in its place."""
    path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))


@pytest.mark.parametrize("sweep", [sweep_file, sweep_folder, sweep_all, leave_another])
def test_what_was_swept_away_is_bound_again_and_old_connections_go_on(tmp_path: Path, sweep) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "run" / "daemon" / "socket"
    path.parent.mkdir(parents=True, mode=0o700)
    with answering(path), zmq.Context() as context, context.socket(zmq.DEALER) as before:
        before.linger = 0
        before.connect(f"ipc://{path}")
        for _ in range(2):
            before.send(b"one")
            assert before.poll(LIMIT_S * 1000)
            before.recv()
            was = path.stat().st_ino
            sweep(path)
            until(
                lambda was=was: path.exists() and path.stat().st_ino != was and listener_uid(path) is not None
            )
            assert asked(path) == b"hello"
        assert path.parent.stat().st_mode & 0o777 == 0o700
    assert not path.exists()


def test_another_process_that_took_the_path_keeps_it_also_when_we_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "socket"
    with answering(path), socket.socket(socket.AF_UNIX) as other:
        path.unlink()
        beside = tmp_path / "other"
        other.bind(str(beside))
        other.listen()
        os.rename(beside, path)
        until(lambda: any("is in use" in message for message in caplog.messages))
        inode = path.stat().st_ino
    assert path.stat().st_ino == inode
    assert sum("is in use" in message for message in caplog.messages) == 1


def test_a_busy_listener_is_one_and_a_socket_left_behind_is_none(tmp_path: Path) -> None:
    busy, left, file = tmp_path / "busy", tmp_path / "left", tmp_path / "file"
    file.write_text("")
    with socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX) as two:
        two.bind(str(left))
        one.bind(str(busy))
        one.listen(0)
        held = []
        for _ in range(3):  # more than its queue holds
            client = socket.socket(socket.AF_UNIX)
            client.setblocking(False)
            client.connect_ex(str(busy))
            held.append(client)
        assert listener_uid(busy) in (os.getuid(), -1)
        assert [listener_uid(path) for path in (left, file, tmp_path / "nothing")] == [None] * 3
        for client in held:
            client.close()


@pytest.mark.parametrize("what", ["listened on", "a file", "a folder"])
def test_a_path_of_somebody_else_is_refused_and_left_as_it_is(tmp_path: Path, what: str) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as other:
        if what == "listened on":
            other.bind(str(path))
            other.listen()
        elif what == "a file":
            path.write_text("precious")
        else:
            path.mkdir()
        before = path.stat()
        with pytest.raises(PublishError, match=r"is in use|is not a socket"):
            IpcPaths(Loop()).bind(f"ipc://{path}", lambda _: None)
        assert path.stat() == before


def test_masks_sockets_are_bound_again_too(tmp_path: Path) -> None:
    labels = LabelSet("x", ())
    with Publisher(PublishConfig(endpoint=f"ipc://{tmp_path}/masks"), [labels]) as publisher:
        paths = [
            Path(one.removeprefix("ipc://")) for one in (publisher.endpoint, publisher.snapshot_endpoint)
        ]
        for path in paths:
            path.unlink()
        for path in paths:
            until(lambda path=path: listener_uid(path) == os.getuid())
    assert list(tmp_path.iterdir()) == []
