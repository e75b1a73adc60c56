"""The daemon's state folder: what must outlive the process, such as zones that were drawn and open events."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Iterable
from pathlib import Path

from streamseg.errors import OutputError
from streamseg.runtime.files import locked

LOCK = "lock"


class StateFolder:
    """systemd's $STATE_DIRECTORY; else below $XDG_STATE_HOME or ~/.local/state one of this configuration.

    Made, and held against a second daemon of the same configuration, when something is to be kept. Any thread
    may call.
    """

    def __init__(self, config: Path | None, sources: Iterable[str]) -> None:
        """sources: by them a daemon without a configuration finds its folder again."""
        self.path = _path(config, sources)  # None for a user without a home
        self._lock = threading.Lock()  # guards _held
        self._held: contextlib.ExitStack | None = None

    def hold(self) -> Path:
        """Make the folder and keep others out until close(); raises OutputError that says what to do."""
        if self.path is None:
            raise OutputError(
                "this user has no home folder; set XDG_STATE_HOME to a folder that can be written to"
            )
        with self._lock:
            if self._held is None:
                held = contextlib.ExitStack()
                try:
                    self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
                    held.enter_context(locked(self.path / LOCK, wait=False))
                except BlockingIOError:
                    raise OutputError(
                        f"{self.path}: is held by another daemon of the same configuration"
                    ) from None
                except OSError as error:
                    raise OutputError(
                        f"{self.path}: cannot be written ({error.strerror}); set XDG_STATE_HOME to a folder "
                        "that can"
                    ) from error
                self._held = held
        return self.path

    def close(self) -> None:
        """Let others have it; closing twice is fine."""
        with self._lock:
            if self._held is not None:
                self._held.close()
                self._held = None


def _path(config: Path | None, sources: Iterable[str]) -> Path | None:
    if given := os.environ.get("STATE_DIRECTORY", "").split(":")[0]:
        return Path(given)
    home = os.environ.get("XDG_STATE_HOME", "")
    try:
        base = Path(home) if os.path.isabs(home) else Path.home() / ".local" / "state"
    except RuntimeError:
        return None
    if config is not None:
        name, key = config.stem, str(config.resolve())
    else:
        name, key = "run", "\n".join(sources)
    short = hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()[:8]
    return base / "streamseg" / f"{name}-{short}"
