"""The console's process: started, restarted when it ends, and ended with the daemon."""

from __future__ import annotations

import contextlib
import logging
import threading
import time

import msgspec

from streamseg.config import Config
from streamseg.publish import Publisher
from streamseg.runtime.backoff import Backoff
from streamseg.runtime.child import ChildProcess
from streamseg.runtime.import_path import module_command
from streamseg.web.setup import (
    Keys,
    Listening,
    MaskEndpoints,
    WebSetup,
    connectable,
    missing_extra,
    read_token,
)

log = logging.getLogger(__name__)

LONG_LIFE_S = 60.0  # a process that lived for this long did not fail at its start
END_WITHIN_S = 2.0


def console_of(config: Config, control: str) -> WebProcess | None:
    """The console that the settings ask for, not yet started; None where none is set or none can run.

    Raises ConfigError for a token that cannot be read.
    """
    if not config.web.listen:
        return None
    token = read_token(config.web)
    if missing := missing_extra():
        log.warning("web.listen: no console is started: %s", missing)
        return None
    if not control:
        log.warning("web.listen: no console is started, since it needs the control socket")
        return None
    return WebProcess(
        WebSetup(
            listen=config.web.listen,
            token=token,
            insecure=config.web.insecure,
            control=control,
            log_level=config.log.level,
        )
    )


def mask_endpoints(publisher: Publisher) -> MaskEndpoints:
    """Where the console receives masks, and the keys for that."""
    keys = publisher.own_keys
    return MaskEndpoints(
        masks=connectable(publisher.endpoint),
        snapshots=connectable(publisher.snapshot_endpoint),
        keys=Keys(*(key.decode() for key in keys)) if keys is not None else None,
    )


class WebProcess:
    """Owns the process, in a thread of its own. close() may come from any thread."""

    def __init__(self, setup: WebSetup) -> None:
        self.restarts = 0
        self.url = ""  # to open in a browser, once it listens
        self.listening = threading.Event()
        self._setup = setup
        self._endpoints: MaskEndpoints | None = None
        self._lock = threading.Lock()  # guards _endpoints, and what is written to the process
        self._process: ChildProcess | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._live, name="web", daemon=True)

    @property
    def pid(self) -> int | None:
        """The process that runs now."""
        process = self._process
        return process.pid if process is not None else None

    def start(self) -> None:
        self._thread.start()

    def connect(self, endpoints: MaskEndpoints) -> None:
        """Send the endpoints of masks; until then the console shows that the engine is being loaded."""
        with self._lock:
            self._endpoints = endpoints
            if self._process is not None:
                self._process.send(endpoints)

    def close(self) -> None:
        """End the process, within END_WITHIN_S or by force. Closing twice is fine."""
        with self._lock:
            self._closing.set()
            process = self._process
            if process is not None:
                process.close_input()
        self._thread.join(END_WITHIN_S)
        if self._thread.is_alive() and process is not None:
            process.kill()
            self._thread.join()

    def _live(self) -> None:
        backoff = Backoff()
        while not self._closing.is_set():
            begun_s = time.monotonic()
            how = self._run()
            if self._closing.is_set():
                return
            if time.monotonic() - begun_s > LONG_LIFE_S:
                backoff.reset()
            pause_s = backoff.pause_s()
            log.warning("web: the console has ended (%s); started again in %.1f s", how, pause_s)
            self._closing.wait(pause_s)
            self.restarts += 1

    def _run(self) -> str:
        """Run the process once; returns how it ended."""
        with self._lock:
            if self._closing.is_set():
                return ""
            try:
                process = ChildProcess(module_command("streamseg.web"), pipes=True, own_session=True)
            except OSError as error:
                return f"cannot be started: {error.strerror}"
            self._process = process
            for message in (self._setup, self._endpoints):
                if message is not None:
                    process.send(message)
        for line in process.lines():  # until it ends
            self._listens(line)
        with self._lock:
            self._process = None
        return process.end(END_WITHIN_S)

    def _listens(self, line: bytes) -> None:
        with contextlib.suppress(msgspec.MsgspecError):
            self.url = msgspec.json.decode(line, type=Listening).url
            self.listening.set()
            log.info("web: the console is at %s", self.url)
