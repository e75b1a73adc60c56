"""Zones and events that were set while the daemon ran: kept in its state folder, and taken up again."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

from streamseg.config import StreamConfig
from streamseg.config.tables import AnswerTables, checked_tables, tables_of
from streamseg.daemon.state import StateFolder
from streamseg.errors import ConfigError, ControlError, OutputError
from streamseg.runtime.files import atomic_write

log = logging.getLogger(__name__)

FILE = "zones.json"
MOST_BYTES = 64 << 20


class _Kept(msgspec.Struct, frozen=True):
    """What was set for one stream."""

    tables: AnswerTables
    instead_of: str  # revision of what the configuration had then
    unix_s: int = 0


class _File(msgspec.Struct, frozen=True):
    version: int = 1
    streams: dict[str, _Kept] = {}


class KeptZones:
    """The file, and what is in it. Its owner sees to it that calls do not mix.

    What was set replaces what the configuration has for that stream, until somebody changes the latter: the
    newer one counts.
    """

    def __init__(self, state: StateFolder) -> None:
        self._state = state
        self._configured: dict[str, str] = {}  # revisions of the configuration's, by stream
        self._streams = self._read()

    def over(self, streams: Mapping[str, StreamConfig]) -> dict[str, StreamConfig]:
        """The streams of a configuration, with the zones and events that were set for them."""
        before = dict(self._streams)
        done = {name: self._over(name, config) for name, config in streams.items()}
        try:
            self._write(before)
        except ControlError as error:
            log.warning("%s", error)
        return done

    def kept(self, name: str) -> bool:
        """Whether a stream's zones and events are other ones than the configuration's."""
        return name in self._streams

    def keep(self, name: str, tables: AnswerTables) -> None:
        """Have what was set outlive the daemon; raises ControlError, and nothing is kept then."""
        before = dict(self._streams)
        own = self._configured.get(name, "")
        self._streams.pop(name, None)
        if tables.revision != own:
            self._streams[name] = _Kept(tables, own, int(time.time()))
        self._write(before)

    def forget(self, name: str) -> None:
        """A stream was removed by somebody, and what was set for it goes with it."""
        self._configured.pop(name, None)
        if name not in self._streams:
            return
        before = dict(self._streams)
        del self._streams[name]
        try:
            self._write(before)
        except ControlError as error:
            log.warning("%s: %s", name, error)

    def _over(self, name: str, config: StreamConfig) -> StreamConfig:
        own = tables_of(config).revision
        self._configured[name] = own
        kept = self._streams.get(name)
        if kept is None or kept.tables.revision == own:
            self._streams.pop(name, None)
            return config
        if kept.instead_of != own:
            del self._streams[name]
            log.warning(
                "%s: its zones or events in the configuration were changed after others had been set; the "
                "configuration's count", name,
            )  # fmt: skip
            return config
        try:
            zones, events = checked_tables(name, kept.tables.zones, kept.tables.events)
        except ConfigError as error:
            del self._streams[name]
            log.warning("%s: kept zones and events cannot be used: %s", name, error.problems[0])
            return config
        log.info(
            "%s: %d zones and %d events as they were set on %s, not as in the configuration; to write them "
            "there: streamseg ctl zones %s --export", name, len(zones), len(events),
            time.strftime("%Y-%m-%d %H:%M", time.localtime(kept.unix_s)), name,
        )  # fmt: skip
        return msgspec.structs.replace(config, zones=zones, events=events)

    def _write(self, before: dict[str, _Kept]) -> None:
        if self._streams == before:
            return
        try:
            data = msgspec.json.format(msgspec.json.encode(_File(streams=self._streams)))
            atomic_write(self._state.hold() / FILE, data)
        except OutputError as error:
            self._streams = before
            raise ControlError("failed", f"zones cannot be kept: {error}") from error
        except OSError as error:
            self._streams = before
            where = self._path
            raise ControlError("failed", f"zones cannot be kept: {where}: {error.strerror}") from error

    @property
    def _path(self) -> Path | None:
        return self._state.path / FILE if self._state.path is not None else None

    def _read(self) -> dict[str, _Kept]:
        path = self._path
        try:
            if path is None or not path.is_file():
                return {}
            if path.stat().st_size > MOST_BYTES:
                raise msgspec.DecodeError("is too large")
            found = msgspec.json.decode(path.read_bytes(), type=_File)
            if found.version != 1:
                raise msgspec.DecodeError(f"is of version {found.version}")
            return dict(found.streams)
        except OSError as error:
            why = error.strerror or str(error)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            why = str(error)[:200]
        log.warning(
            "zones that were set before cannot be read (%s: %s); the configuration's are used", path, why
        )
        return {}
