"""Looking up a host's name in a way that can be told to stop, and says so when the name is wrong."""

from __future__ import annotations

import ipaddress
import queue
import socket
import threading
import time
from urllib.parse import urlsplit

from streamseg.sources.target import Target

LOOKUP_S = 10.0


def host_problem(target: Target, stop: threading.Event) -> str | None:
    """What is wrong with the host of an address; None if it can be found. Takes 10 s at most.

    FFmpeg looks the name up again, uninterruptibly, but then the answer is at hand; its own message for an
    unknown name is "Input/output error".
    """
    try:
        host = urlsplit(target.name).hostname
        port = urlsplit(target.name).port
    except ValueError:
        return "is not a valid address; write special letters of the password as %XX"
    if not host:
        return None if target.scheme == "udp" else f"has no host; write {target.scheme}://HOST/PATH"
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return _lookup_problem(host, port, stop)
    return None


def _lookup_problem(host: str, port: int | None, stop: threading.Event) -> str | None:
    answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def look_up() -> None:
        try:
            socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            answers.put(f"there is no host {host!r}; check the name and the network's DNS")
        else:
            answers.put(None)

    # getaddrinfo cannot be interrupted. The thread owns nothing and ends with the lookup.
    threading.Thread(target=look_up, name=f"lookup-{host}", daemon=True).start()
    deadline = time.monotonic() + LOOKUP_S
    while time.monotonic() < deadline and not stop.is_set():
        try:
            return answers.get(timeout=0.05)
        except queue.Empty:
            continue
    return (
        None if stop.is_set() else f"no DNS server answered for {host!r} in {LOOKUP_S:g} s; check the network"
    )
