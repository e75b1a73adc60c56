"""Web servers on this machine, in a thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Quiet(BaseHTTPRequestHandler):
    """Prints nothing about requests."""

    def log_message(self, *_: object) -> None:
        pass


class QuietFiles(Quiet, SimpleHTTPRequestHandler):
    """The files of a folder; it does not know ranges, like many."""


@contextmanager
def http_server(handler: Callable[..., BaseHTTPRequestHandler]) -> Iterator[str]:
    """HOST:PORT of a server that answers each request with a handler of its own."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def folder_server(folder: Path) -> AbstractContextManager[str]:
    """HOST:PORT of a server for the files of this folder."""
    return http_server(partial(QuietFiles, directory=str(folder)))
