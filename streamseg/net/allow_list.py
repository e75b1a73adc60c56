"""Who may subscribe: the public keys in a file or a folder, read again when it changes."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import NamedTuple

from streamseg.config.reading import MOST_BYTES, READ_WITHIN_S, Call, Unanswered, open_regular
from streamseg.config.text_file import decode_text
from streamseg.errors import ConfigError
from streamseg.net.curve_keys import parse_keys
from streamseg.runtime.files import expand

log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.5
LOOK_AGAIN_S = 0.05  # when an unknown key is shown, it may have been listed a moment ago

LOOK_WITHIN_S = 0.02  # of the thread that serves
SLOW_LOOKS = 4

_Look = tuple[tuple[str, int, int, int], ...]  # path, inode, size and time of change of each file


class _Found(NamedTuple):
    seen: _Look
    names: dict[bytes, str]
    complaint: str
    exists: bool


class AllowedClients:
    """The allow-list of a setting such as `publish.allowed_clients`. Used by one thread.

    A file has a key on each line, with a name behind it; a folder has a NAME.pub for each client. A line that
    is not a key is logged and left out. When the list is removed, no client is allowed; when it cannot be
    read any more, the earlier keys stay, and that is logged.
    """

    def __init__(self, path: str, own_key: bytes = b"", setting: str = "publish.allowed_clients") -> None:
        """own_key is allowed in addition. Raises ConfigError when path does not exist or cannot be read."""
        self._path = Path(expand(path, setting))
        self._own_key = own_key
        self._names: dict[bytes, str] = {}
        self._looked_s = self._looked_again_s = 0.0
        self._seen: _Look | None = None
        self._complaint = ""
        self._slow_looks = 0
        self._looking: Call[_Found | None] | None = None
        try:
            found = Call(str(self._path), self._look).result(READ_WITHIN_S)
        except OSError as error:
            raise ConfigError(f"{setting}: {self._path} cannot be read ({error.strerror})") from error
        if found is None or not found.exists:
            raise ConfigError(
                f"{setting}: {self._path} does not exist; make it, with a client's public key a line"
            )
        self._take(found)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, key: bytes) -> bool:
        return key in self._names or (key != b"" and key == self._own_key)

    def changed(self, *, unknown_key: bool = False) -> bool:
        """Look for changes when it is time to; True when keys came or went."""
        now_s = time.monotonic()
        if (
            unknown_key
        ):  # with an interval of its own: the last regular look may have been just before the key was listed
            if now_s - self._looked_again_s < LOOK_AGAIN_S:
                return False
            self._looked_again_s = now_s
        elif now_s - self._looked_s < LOOK_EVERY_S:
            return False
        self._looked_s = now_s
        before = set(self._names)
        # In a thread of its own: the list may lie on a share that is away, and others wait for this one.
        looking = self._looking or Call(str(self._path), self._look)
        self._looking = None
        try:
            found = looking.result(0.0 if looking.ended else LOOK_WITHIN_S)
        except Unanswered:
            self._looking = looking
            self._slow_looks += 1
            if self._slow_looks == SLOW_LOOKS:
                self._complain(f"{self._path}: does not answer; the earlier list stays")
            return False
        except OSError as error:
            self._complain(f"{self._path}: cannot be read ({error.strerror}); the earlier list stays")
            return False
        self._slow_looks = 0
        if found is not None:
            self._take(found)
        after = set(self._names)
        if after != before:
            log.info(
                "%s: %d clients allowed, %d new, %d revoked",
                self._path, len(after), len(after - before), len(before - after),
            )  # fmt: skip
        return after != before

    def _look(self) -> _Found | None:
        """What the files say; None where they are as they were. Raises OSError."""
        files = self._files()
        seen = tuple(_look(file) for file in files)
        if seen == self._seen:
            return None
        names: dict[bytes, str] = {}
        wrong: list[str] = []
        other: list[str] = []  # files in another encoding
        for file in files:
            try:
                with open_regular(file) as opened:
                    data = opened.read(MOST_BYTES)
                keys, lines = parse_keys(decode_text(data, errors="replace"))
            except UnicodeError as error:
                other.append(f"{file}: {error}; left out")
                continue
            names |= {key: name or file.stem for key, name in keys.items()}
            wrong += [f"{file}:{line}" for line in lines]
        complaint = ""
        if other:
            complaint = "; ".join(other[:5])
        elif wrong:
            complaint = f"{', '.join(wrong[:5])}: not a key of 40 characters; left out"
        elif not names:
            complaint = f"{self._path}: holds no key, so no client is allowed"
        return _Found(seen, names, complaint, exists=bool(files) or self._path.exists())

    def _take(self, found: _Found) -> None:
        self._names, self._seen, self._complaint = found.names, found.seen, ""
        if found.complaint:
            self._complain(found.complaint)

    def _files(self) -> list[Path]:
        if self._path.is_dir():
            return sorted(self._path.glob("*.pub"))
        return [self._path] if self._path.exists() else []

    def _complain(self, text: str) -> None:
        if text != self._complaint:
            log.warning("%s", text)
        self._complaint = text


def _look(file: Path) -> tuple[str, int, int, int]:
    info = file.stat()
    return str(file), info.st_ino, info.st_size, info.st_mtime_ns
