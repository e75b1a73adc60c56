"""What an input consists of: the SHA-256 of everything that is read, and whether it changed meanwhile."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urljoin, urlsplit

from streamseg.config.reading import sha256_of
from streamseg.config.redact import redact
from streamseg.errors import SourceError, UsageError
from streamseg.recorded.inputs import Input, find_inputs, is_address
from streamseg.sources.explain import explain, file_problem
from streamseg.sources.target import resolve
from streamseg.sources.web_file import ask, read

MOST_OF_A_LIST = 4 << 20
"""Bytes of a playlist or a concat list; there are about 60 to a segment."""

Part = Path | str
"""A file, or an http(s) address."""

States = dict[Part, tuple[object, ...] | None]
"""What tells that a part has changed; None: it cannot be read."""


@dataclass(frozen=True, slots=True)
class Content:
    """Everything that is read for an input: of a list (HLS, concat) also what it names."""

    sha256: str
    bytes: int
    states: States  # taken before the content was read
    missing: tuple[str, ...] = ()  # named by a list, but not there

    def changed(self, one: Input) -> bool:
        """Whether anything of it was written, replaced or removed since. Reads it again where in doubt."""
        try:
            if one.images and [again.images for again in find_inputs([one.source])] != [one.images]:
                return True  # a recorder goes on writing images
            now = states_of(one)
            return now != self.states and read_content(one).sha256 != self.sha256
        except (SourceError, UsageError):
            return True

    def grown(self) -> bool:
        """Whether a file of it has another size than it had; quick."""
        return any(
            isinstance(part, Path) and before is not None and (now := _state(part)) and now[0] != before[0]
            for part, before in self.states.items()
        )


def check_file(one: Input) -> None:
    """Raises SourceError for what can be read once, or has no end, and for an address that cannot be one."""
    if one.path is None:
        resolve(one.source)
        return
    if one.images or not one.path.exists() or one.path.is_dir() or one.path.is_file():
        return
    if one.path.is_char_device():
        raise SourceError(f"{one.shown}: is a device; use: streamseg run --source …")
    raise SourceError(f"{one.shown}: is a pipe or socket, and is read twice; write it to a file first")


def states_of(one: Input) -> States:
    """The state of each part. Raises SourceError where a list cannot be followed."""
    with _explained(one):
        return {part: _state(part) for part in _parts(one)}


def read_content(one: Input, states: States | None = None) -> Content:
    """Read an input's content; raises SourceError.

    The SHA-256 is the file's own; of several parts (images, a list and what it names) over the SHA-256 of
    each. An address is not read twice: its own text and what its server says about the file (length, ETag,
    date) stand for it. states: from before the input was first opened.
    """
    with _explained(one):
        if states is None:
            states = {part: _state(part) for part in _parts(one)}
        if one.path is not None and not one.images and len(states) == 1:
            return Content(sha256_of(one.path), one.path.stat().st_size, states)
        parts = list(states)
        missing = tuple(_shown(part) for part in parts[1:] if states[part] is None and not one.images)
        digests = [_digest(part) if states[part] is not None else b"" for part in parts]
        sizes = [state[0] for state in states.values() if state is not None]
        size = sum(size for size in sizes if isinstance(size, int))
        if len(digests) == 1 and isinstance(parts[0], str):
            return Content(digests[0].hex(), size, states)
        return Content(hashlib.sha256(b"".join(digests)).hexdigest(), size, states, missing)


def _parts(one: Input) -> list[Part]:
    check_file(one)
    if one.images:
        return list(one.images)
    first: Part = one.source if one.path is None else one.path
    parts: dict[Part, None] = {}
    waiting = [first]
    while waiting:  # a list may name lists
        part = waiting.pop(0)
        if part not in parts:
            parts[part] = None
            waiting += _named_in(part)
    return list(parts)


def _named_in(part: Part) -> list[Part]:
    """What a playlist (HLS) or a list for FFmpeg's concat names, in order; nothing for any other file."""
    text = _list_text(part)
    if text.startswith("ffconcat version"):
        names = list(_concat_names(text))
    elif text.startswith("#EXTM3U"):
        if (
            "#EXTINF" in text and "#EXT-X-ENDLIST" not in text
        ):  # FFmpeg would begin three parts before its end
            raise SourceError(
                f"{_shown(part)}: is a live stream without an end, or still being written (it has no "
                "#EXT-X-ENDLIST); process it when it is complete, or use: streamseg run --source …"
            )
        names = list(_playlist_names(text))
    elif "<MPD" in text[:4096]:
        raise SourceError(
            f"{_shown(part)}: is a DASH list of other files, whose content cannot be proved; "
            "name a video, or make one with ffmpeg -i LIST -c copy VIDEO.mkv"
        )
    else:
        return []
    return [_beside(part, name) for name in names]


def _list_text(part: Part) -> str:
    """The text of what may be a list; empty for what is none."""
    if isinstance(part, str):
        if not urlsplit(part).path.lower().endswith((".m3u8", ".m3u", ".mpd", ".ffconcat")):
            return ""
        data = read(part, MOST_OF_A_LIST)
    else:
        try:
            with part.open("rb") as file:
                data = file.read(1024)
                head = data.removeprefix(b"\xef\xbb\xbf").lstrip()
                if not head.startswith((b"#EXTM3U", b"ffconcat version", b"<?xml", b"<MPD")):
                    return ""
                data += file.read(MOST_OF_A_LIST)
        except OSError:
            return ""
    return data.removeprefix(b"\xef\xbb\xbf").lstrip().decode("utf-8", "surrogateescape")


def _concat_names(text: str) -> Iterator[str]:
    for line in text.splitlines():
        try:
            words = shlex.split(line)
        except ValueError:
            continue
        if len(words) > 1 and words[0] == "file":
            yield words[1]


def _playlist_names(text: str) -> Iterator[str]:
    for line in map(str.strip, text.splitlines()):
        if line.startswith("#EXT"):
            _, there, rest = line.partition('URI="')
            if there:
                yield rest.partition('"')[0]
        elif line and not line.startswith("#"):
            yield line


def _beside(part: Part, name: str) -> Part:
    """What `name` stands for in the list `part`."""
    if is_address(name):
        return name
    if isinstance(part, str):
        return urljoin(part, name)
    return part.parent / name.removeprefix("file:")


def _state(part: Part) -> tuple[object, ...] | None:
    if isinstance(part, str):
        headers = _headers(part)
        return (int(headers[0] or 0), *headers[1:])
    try:
        status = part.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ino, status.st_dev


def _digest(part: Part) -> bytes:
    if isinstance(part, str):
        # Without what is secret in it: a signature is another one each time.
        return hashlib.sha256("\n".join([redact(part), *_headers(part)]).encode()).digest()
    return bytes.fromhex(sha256_of(part))


def _headers(address: str) -> list[str]:
    """Length, ETag and date, as the server of an address gives them."""
    file = ask(address)
    return ["" if file.length is None else str(file.length), file.etag, file.modified]


def _shown(part: Part) -> str:
    return redact(part) if isinstance(part, str) else str(part)


@contextmanager
def _explained(one: Input) -> Iterator[None]:
    """Raise what the system says about an input as a SourceError of one line."""
    try:
        yield
    except SourceError:
        raise
    except (OSError, ValueError) as error:
        raise SourceError(_reason(one, error)) from error


def _reason(one: Input, error: OSError | ValueError) -> str:
    if one.path is not None:
        reason = file_problem(one.path) or getattr(error, "strerror", None) or str(error)
        return f"{one.shown}: {reason}"
    if isinstance(error, HTTPError):
        return f"{one.shown}: nothing found at this path ({error.code}); check the path in the address"
    cause = error.reason if isinstance(error, URLError) else error
    target = replace(resolve(one.source), shown=one.shown)
    return explain(target, cause if isinstance(cause, BaseException) else error)
