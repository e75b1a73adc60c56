"""The console's process: started, started again when it dies, ended with the daemon."""

from __future__ import annotations

import contextlib
import logging
import random
import subprocess
import sys
import threading
import time

import msgspec

from streamseg.web.setup import Listening, WebSetup

log = logging.getLogger(__name__)

PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
LONG_LIFE_S = 60.0  # a process that lived for so long did not fail at its start
END_WITHIN_S = 2.0


class WebProcess:
    """Owns the process, in a thread of its own. close() may come from any thread."""

    def __init__(self, setup: WebSetup) -> None:
        self.restarts = 0
        self.url = ""  # to open in a browser, once it listens
        self.listening = threading.Event()
        self._setup = setup
        self._lock = threading.Lock()  # guards _process and _closing
        self._process: subprocess.Popen[bytes] | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._live, name="web", daemon=True)

    @property
    def pid(self) -> int | None:
        """The process that runs now."""
        process = self._process
        return process.pid if process is not None else None

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """End the process, within END_WITHIN_S or by force. Closing twice is fine."""
        with self._lock:
            self._closing.set()
            process = self._process
            if process is not None and process.stdin is not None:
                with contextlib.suppress(OSError):
                    process.stdin.close()
        self._thread.join(END_WITHIN_S)
        if self._thread.is_alive() and process is not None:
            process.kill()
            self._thread.join()

    def _live(self) -> None:
        failures = 0
        while not self._closing.is_set():
            begun_s = time.monotonic()
            how = self._run()
            if self._closing.is_set():
                return
            failures = 1 if time.monotonic() - begun_s > LONG_LIFE_S else failures + 1
            pause_s = random.uniform(0, min(LONGEST_PAUSE_S, PAUSE_S * 2 ** min(failures, 10)))
            log.warning("web: the console has ended (%s); started again in %.1f s", how, pause_s)
            self._closing.wait(pause_s)
            self.restarts += 1

    def _run(self) -> str:
        """Run the process once; returns how it ended."""
        with self._lock:
            if self._closing.is_set():
                return ""
            try:
                process = self._process = subprocess.Popen(
                    [sys.executable, "-m", "streamseg.web"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    start_new_session=True,
                )
            except OSError as error:
                return f"cannot be started: {error.strerror}"
        assert process.stdin is not None
        assert process.stdout is not None
        with process.stdout, contextlib.suppress(OSError):
            process.stdin.write(msgspec.json.encode(self._setup) + b"\n")
            process.stdin.flush()
            for line in process.stdout:  # until it ends
                self._listens(line)
        with contextlib.suppress(OSError):
            process.stdin.close()
        code = process.wait()
        self._process = None
        return f"signal {-code}" if code < 0 else f"exit code {code}"

    def _listens(self, line: bytes) -> None:
        with contextlib.suppress(msgspec.MsgspecError):
            self.url = msgspec.json.decode(line, type=Listening).url
            self.listening.set()
            log.info("web: the console is at %s", self.url)
