"""The cable to a server: a TCP relay in the test that can be cut."""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import threading

RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends RST, as a router does that has forgotten


KEPT = 64 << 10  # bytes of a connection


class Cable:
    """Listens on a port of loopback and passes bytes on to another; a context manager."""

    def __init__(self, to_port: int) -> None:
        self.sent: list[bytearray] = []  # the first bytes of each connection, on their way to the server
        self._near: dict[socket.socket, bytearray] = {}
        self._to_port = to_port
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()  # guards _pairs
        self._pairs: dict[socket.socket, socket.socket] = {}
        self.held = threading.Event()  # set: nothing passes, and nothing is lost
        self._over = threading.Event()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._carry, daemon=True)

    def __enter__(self) -> Cable:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(10)
        self.cut()
        self._listener.close()
        self._selector.close()

    def cut(self) -> int:
        """Reset all connections at both ends; how many sockets that were."""
        with self._lock:
            ends = list(self._pairs)
            for end in ends:
                self._drop(end)
        return len(ends)

    def _carry(self) -> None:
        while not self._over.is_set():
            if self.held.is_set():
                self._over.wait(0.01)
                continue
            for key, _ in self._selector.select(0.1):
                end = key.fileobj
                assert isinstance(end, socket.socket)
                if end is self._listener:
                    self._accept()
                else:
                    self._pass(end)

    def _accept(self) -> None:
        near, _ = self._listener.accept()
        near.settimeout(5)
        try:
            far = socket.create_connection(("127.0.0.1", self._to_port), timeout=5)
        except OSError:
            near.close()
            return
        with self._lock:
            self._pairs |= {near: far, far: near}
            self._near[near] = bytearray()
            self.sent.append(self._near[near])
            for end in (near, far):
                self._selector.register(end, selectors.EVENT_READ)

    def _pass(self, end: socket.socket) -> None:
        with self._lock:
            other = self._pairs.get(end)
            if other is None:
                return
            try:
                data = end.recv(1 << 16)
                if data:
                    self._note(end, data)
                    other.sendall(data)
                    return
            except OSError:
                pass
            self._drop(end)

    def _note(self, end: socket.socket, data: bytes) -> None:
        if end in self._near and len(self._near[end]) < KEPT:
            self._near[end] += data

    def _drop(self, end: socket.socket) -> None:
        """Close both ends of a connection; the lock is held."""
        other = self._pairs.pop(end, None)
        if other is None:
            return
        self._pairs.pop(other, None)
        self._near.pop(end, None)
        self._near.pop(other, None)
        for one in (end, other):
            with contextlib.suppress(KeyError, OSError, ValueError):
                self._selector.unregister(one)
            with contextlib.suppress(OSError):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            one.close()
