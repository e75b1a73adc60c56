"""What is wrong with a source and what to do, in one line: checked before opening, then FFmpeg's errors.

No line holds a password.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import queue
import re
import socket
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import av

from streamseg.errors import SourceEnded, SourceError, StreamsegError
from streamseg.sources.target import Target

LOOKUP_S = 10.0

UNKNOWN = "is not a video that FFmpeg can read, or its beginning is damaged; try to play it with ffplay"

_OTHER_KINDS = {
    b"%PDF": "a PDF",
    b"PK\3\4": "a ZIP archive",
    b"Rar!": "a RAR archive",
    b"7z\xbc\xaf": "a 7z archive",
    b"\x1f\x8b": "a gzip archive",
    b"\x7fELF": "a program",
}

_FAILURES = (av.error.FFmpegError, OSError, ValueError)


@contextmanager
def opening_explained(target: Target, timeout_s: float, stop: threading.Event) -> Iterator[None]:
    """Check what can be checked without FFmpeg, then raise SourceError for what it raises inside.

    SourceEnded where `stop` was set. Blocks up to LOOKUP_S for the name of a host.
    """
    if problem := _problem(target, stop):
        raise SourceError(f"{target.shown}: {problem}")
    begun = time.monotonic()
    try:
        yield
    except _FAILURES as error:
        if isinstance(error, StreamsegError):
            raise
        if stop.is_set():
            raise SourceEnded(f"{target.shown}: stopped while opening") from None
        # A silent server makes FFmpeg say "invalid data"; the clock knows better.
        silent = target.kind == "network" and time.monotonic() - begun >= 0.95 * timeout_s
        # Not chained: FFmpeg's error text holds the address with its password.
        raise SourceError(explain(target, TimeoutError() if silent else error, timeout_s)) from None


@contextmanager
def reading_explained(target: Target, timeout_s: float) -> Iterator[None]:
    """Raise SourceEnded for what FFmpeg raises inside; a TimeoutError is a silence of `timeout_s`."""
    try:
        yield
    except _FAILURES as error:
        if isinstance(error, StreamsegError):
            raise
        raise SourceEnded(explain(target, error, timeout_s)) from None  # not chained: see above


def _problem(target: Target, stop: threading.Event) -> str | None:
    if target.kind == "file":
        return file_problem(target.path)
    return camera_problem(target.path) if target.kind == "camera" else host_problem(target, stop)


def explain(target: Target, error: BaseException, silent_s: float | None = None) -> str:
    """One line for an error of FFmpeg about `target`; silent_s: for how long no data had come."""
    if target.kind == "file":
        return f"{target.shown}: {_file_reason(target.path, error)}"
    if target.kind == "camera":
        return f"{target.shown}: {_camera_reason(error)}"
    return f"{target.shown}: {_network_reason(target, error, silent_s)}"


def file_problem(path: Path) -> str | None:
    """What is wrong with a file before FFmpeg sees it; None if nothing is."""
    try:
        status = path.stat()
    except OSError as error:
        return _file_reason(path, error)
    if stat.S_ISDIR(status.st_mode):
        return "is a directory; name one of the videos in it"
    if stat.S_ISREG(status.st_mode):
        if status.st_size == 0:
            return "is empty (0 bytes); copy or record it again"
        try:
            with path.open("rb"):
                pass
        except OSError as error:
            return _file_reason(path, error)
    return None


def camera_problem(path: Path) -> str | None:
    """What is wrong with a camera's device before FFmpeg opens it; None if nothing is."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        return _camera_reason(error)
    if not stat.S_ISCHR(mode):
        return f"is not a camera; {_cameras()}"
    if not os.access(path, os.R_OK | os.W_OK):
        return _camera_reason(PermissionError())
    return None


def host_problem(target: Target, stop: threading.Event) -> str | None:
    """What is wrong with the host of an address; None if it can be found. Takes 10 s at most.

    FFmpeg looks the name up again, uninterruptibly, but then the answer is cached; its own message for an
    unknown name is "Input/output error".
    """
    parts = urlsplit(target.name)
    host, port = parts.hostname, parts.port
    if not host:
        return None  # udp:// alone may have none
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
            answers.put(f"unknown host {host!r}; check the name and the network's DNS")
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


def _file_reason(path: Path, error: BaseException) -> str:
    match error:
        case FileNotFoundError():
            return "no such file; check the path"
        case NotADirectoryError():
            return "part of this path is a file, not a folder; check the path"
        case IsADirectoryError():
            return "is a directory; name one of the videos in it"
        case PermissionError():
            return "permission denied; make it readable for the user that runs streamseg"
        case av.error.DecoderNotFoundError():
            return "no decoder for its codec in this build of FFmpeg; convert it to H.264"
    if isinstance(error, av.error.InvalidDataError | av.error.EOFError):
        return content_problem(path)
    return f"cannot be read ({_text(error)}); check the disk and the file"


def content_problem(path: Path) -> str:
    """Why FFmpeg finds no video in this file, as far as its bytes show."""
    try:
        with path.open("rb") as file:
            head = file.read(4096)
            boxes = _mp4_boxes(path) if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free") else ()
    except OSError:
        return "cannot be read; check the disk and the file"
    if boxes and "moov" not in boxes:
        return (
            "is cut off: an MP4 without its index (moov), because recording or copying did not end; "
            "copy it again, or record as .mkv or fragmented MP4"
        )
    return head_problem(head) or UNKNOWN


def head_problem(head: bytes) -> str | None:
    """What the first bytes of something that is no video show it to be."""
    if head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X" and head[20:21] and head[20] & 2:
        return "is an animated WebP, which FFmpeg cannot decode; convert it to GIF or MP4"
    for begins, what in _OTHER_KINDS.items():
        if head.startswith(begins):
            return f"is {what}, not a video; choose a video file"
    if head and b"\0" not in head and all(b >= 32 or b in b"\t\n\r\f\x1b" for b in head):
        page = re.match(rb"\s*(<!doctype html|<html)", head, re.IGNORECASE)
        return f"is {'a web page' if page else 'text'}, not a video; choose a video file"
    return None


def fragmented(path: Path) -> bool:
    """Whether this file is a fragmented MP4 that has its index and the head of a fragment."""
    with path.open("rb") as file:
        head = file.read(8)
    boxes = _mp4_boxes(path) if head[4:] in (b"ftyp", b"styp", b"moov") else ()
    return "moov" in boxes and "moof" in boxes


def _mp4_boxes(path: Path) -> tuple[str, ...]:
    """Names of the top-level boxes, up to 64 of them; a moov that is cut short does not count."""
    names: list[str] = []
    total = path.stat().st_size
    with path.open("rb") as file:
        at = 0
        while at + 8 <= total and len(names) < 64:
            file.seek(at)
            head = file.read(16)
            size = int.from_bytes(head[:4], "big")
            if size == 1:
                size = int.from_bytes(head[8:16], "big")
            elif size == 0:
                size = total - at
            name = head[4:8].decode("latin-1")
            if size < 8 or (name == "moov" and at + size > total):
                break
            names.append(name)
            at += size
    return tuple(names)


def _camera_reason(error: BaseException) -> str:
    match error:
        case FileNotFoundError():
            return f"no such camera; {_cameras()}"
        case PermissionError():
            return "permission denied; add the user that runs streamseg to the group 'video'"
    if getattr(error, "errno", None) == 16:  # EBUSY
        return "another program uses this camera; close it"
    if getattr(error, "errno", None) in (19, 6):  # ENODEV, ENXIO
        return "the camera is gone; plug it in again"
    return f"cannot be read ({_text(error)}); {_cameras()}"


def _cameras() -> str:
    found = sorted(str(p) for p in Path("/dev").glob("video*"))
    return (
        f"this machine has {', '.join(found)}"
        if found
        else "this machine has none (/dev/video*); connect one"
    )


def _network_reason(target: Target, error: BaseException, silent_s: float | None) -> str:
    has_login = "@" in target.name
    match error:
        case av.error.HTTPUnauthorizedError():
            return (
                "user name or password refused (401); correct them in the address"
                if has_login
                else "asks for a password (401); write it as "
                f"{target.scheme}://USER:PASSWORD@HOST/…, special letters as %XX"
            )
        case av.error.HTTPForbiddenError() | PermissionError():
            return "access forbidden (403); check the user's rights there"
        case av.error.HTTPNotFoundError():
            return "nothing found at this path (404); check the path in the address"
        case av.error.HTTPClientError() | av.error.HTTPServerError():
            return f"the server answered with an error ({_text(error)}); look at its log"
        case ConnectionRefusedError():
            return "connection refused; is the server running, and on this port?"
        case ConnectionError():
            return "connection lost; is the server still running?"
        case TimeoutError() | av.error.ExitError():
            silence = f"sent nothing for {silent_s:g} s" if silent_s else "did not answer in time"
            if target.udp:
                return f'{silence}; does the network let UDP through? If not, set rtsp_transport = "tcp"'
            return f"{silence}; is it on, and does the network let it through?"
        case av.error.ProtocolNotFoundError():
            return f"{target.scheme}:// is not in this build of FFmpeg"
    if getattr(error, "errno", None) == errno.EIO:
        return "the connection broke off; is the server still running?"
    if getattr(error, "errno", None) in (101, 113):  # ENETUNREACH, EHOSTUNREACH
        return "no route to this host; check the address and the network"
    if isinstance(error, av.error.InvalidDataError):
        return "answers with something that is not video; check the path"
    return f"cannot be read ({_text(error)})"


def _text(error: BaseException) -> str:
    """FFmpeg's or the system's text for an error, without the address that str() would add."""
    if getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE):
        return "no file descriptor is left; raise LimitNOFILE= of the service, or ulimit -n"
    text = getattr(error, "strerror", None) or type(error).__name__
    return str(text).rstrip(".")
