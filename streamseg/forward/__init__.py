"""Answers to where people want them: MQTT and Home Assistant, webhooks, Kafka, files, messages.

A process of its own, and a subscriber like any other: whatever is slow, full or away here costs the daemon
nothing.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from streamseg.client.receiver import Receiver
from streamseg.errors import OutputError, UsageError
from streamseg.forward.intake import LOOK_EVERY_S, Intake
from streamseg.forward.latest import Latest
from streamseg.forward.lines import Lines
from streamseg.forward.places import make_sink
from streamseg.forward.settings import ForwardConfig
from streamseg.forward.store import Store
from streamseg.forward.worker import Worker
from streamseg.net.curve_keys import client_keys
from streamseg.runtime.files import expand, locked, make_folder
from streamseg.runtime.stage import Stage

__all__ = ["Forwarder"]

log = logging.getLogger(__name__)

TICK_S = 0.5
REPORT_EVERY_S = 10.0
FLUSH_S = 3.0  # after stop(), for what waits


class Forwarder:
    """Forwards in the thread that calls run(), and one for each place. stop() may come from any thread."""

    def __init__(
        self,
        config: ForwardConfig,
        notify: Callable[..., None] = lambda *_: None,
        watchdog_s: float | None = None,
    ) -> None:
        """notify passes assignments to systemd; it is called at least once in watchdog_s.

        Raises ConfigError for what is wrong in a place's settings or files.
        """
        self.ready = threading.Event()
        self._config = config
        self._notify = notify
        self._tick_s = TICK_S if watchdog_s is None else min(TICK_S, watchdog_s / 4)
        self._keys = client_keys(config.server_key or None, config.client_key_file or None)
        self._sinks = {name: make_sink(name, sink) for name, sink in config.sinks()}
        self._stopping = threading.Event()
        self._intake: Intake | None = None
        self._failed: BaseException | None = None

    def stop(self) -> None:
        """Ask run() to end; what waits is sent first, as far as FLUSH_S allows. Returns at once."""
        self._stopping.set()
        if self._intake is not None:
            self._intake.wake()

    def reopen(self) -> None:
        """Write to the files that have the names now, as after a rotation. From any thread."""
        for sink in self._sinks.values():
            if isinstance(sink, Lines):
                sink.reopen()

    def run(self) -> None:
        """Forward until stop(). Raises UsageError, OutputError, and what ended a thread of ours."""
        folder = self._folder()
        if folder is None:
            log.info("without a state folder: what waits is in memory, and ends with this process")
            self._run(None)
            return
        try:
            with locked(folder / "lock", wait=False):
                self._run(folder / "queue.sqlite")
        except BlockingIOError as error:
            raise UsageError(f"state: {folder} is used by another forwarder") from error

    def _run(self, path: Path | None) -> None:
        config = self._config
        store = Store(path, self._sinks, most_bytes=config.queue_mb * 1_000_000)
        latest = Latest()
        self._intake = intake = Intake(store, latest, past=config.past)
        workers = [Worker(n, self._sinks[n], sink, store, latest) for n, sink in config.sinks()]
        stages = [Stage(f"{worker.name}", worker.run, self._note_end) for worker in workers]
        receiver = Receiver(
            config.endpoint, self._topics(), True, intake, self._keys, look=(LOOK_EVERY_S, intake.look)
        )
        try:
            for stage in stages:
                stage.start()
            self._notify("READY=1", "STATUS=waiting for the daemon")
            self.ready.set()
            self._serve(receiver, latest, workers)
        finally:
            self._notify("STOPPING=1", "STATUS=stopping")
            receiver.close()
            while intake.take(0.0):
                pass
            self._flush(workers, stages)
            store.close()
        if self._failed is not None:
            raise self._failed

    def _serve(self, receiver: Receiver, latest: Latest, workers: list[Worker]) -> None:
        assert self._intake is not None
        connected = False
        report_at_s = time.monotonic() + REPORT_EVERY_S
        while not self._stopping.is_set() and self._failed is None:
            if self._intake.take(self._tick_s):
                for worker in workers:
                    worker.wake()
            receiver.check()
            latest.connected = receiver.connected
            if receiver.connected and not connected:
                log.info("connected to %s", self._config.endpoint)
            connected = receiver.connected
            latest.forget_gone()
            now_s = time.monotonic()
            self._notify("WATCHDOG=1")
            if now_s >= report_at_s:
                report_at_s = now_s + REPORT_EVERY_S
                self._notify(f"STATUS={self._summary(latest, workers)}")

    def _flush(self, workers: list[Worker], stages: list[Stage]) -> None:
        """Let the places take what waits, for FLUSH_S in all."""
        for worker in workers:
            worker.stop()
        deadline_s = time.monotonic() + FLUSH_S
        for stage in stages:
            if stage.ident is not None:
                stage.join(max(0.0, deadline_s - time.monotonic()))

    def _note_end(self, stage: Stage) -> None:
        if stage.error is not None:
            self._failed = stage.error
            if self._intake is not None:
                self._intake.wake()

    def _summary(self, latest: Latest, workers: list[Worker]) -> str:
        delivering = latest.delivering()
        words = [f"{sum(delivering.values())} of {len(delivering)} streams deliver"]
        if not latest.connected:
            words = [f"{self._config.endpoint} is not connected"]
        words += [worker.summary() for worker in workers]
        return "; ".join(words)

    def _topics(self) -> list[bytes]:
        sinks = [(sink, self._sinks[name]) for name, sink in self._config.sinks()]
        topics = [b"event/", b"status/"]
        topics += [b"zones/"] if any(config.shares_every_s for config, _ in sinks) else []
        topics += [b"rle/", b"same/"] if any(sink.masks_every_s for _, sink in sinks) else []
        topics += [b"picture/"] if any(sink.pictures_every_s for _, sink in sinks) else []
        return topics

    def _folder(self) -> Path | None:
        given = self._config.state
        folder = expand(given, "state") if given else os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
        if not folder:
            return None
        try:
            return make_folder(Path(folder))
        except OutputError as error:
            raise UsageError(f"state: {error}") from error
