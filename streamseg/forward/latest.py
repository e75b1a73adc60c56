"""What is newest of each stream: shares, picture, and whether it delivers. Older ones are not kept.

The receiving thread puts it in; each place takes what it has not seen, in its own time.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, field, replace

import msgspec

from streamseg.wire import Header, SameHeader
from streamseg.wire.status import StatusDocument

log = logging.getLogger(__name__)

MOST_STREAMS = 1024
MOST_BYTES = 64 << 20  # of shares and pictures, of all streams

SILENT_S = 10.0  # without a status a stream does not deliver
GONE_S = 30.0  # its daemon told of others, not of it: it was removed
FORGET_S = 24 * 3600.0  # the same where the daemon has ended or begun anew since


@dataclass(frozen=True, slots=True)
class Item:
    """The newest of one kind, with a number that grows with each."""

    number: int
    data: bytes
    mask: Header | None = None  # where it is one
    same: SameHeader | None = None  # a later frame that it holds for, too

    def document(self) -> bytes:
        """What is sent: of an unchanged frame the document with its times, and with same_as."""
        if self.same is None:
            return self.data
        fields = msgspec.json.decode(self.data, type=dict[str, msgspec.Raw])
        times = msgspec.structs.asdict(self.same)
        del times["kind"]
        return msgspec.json.encode(fields | times)


@dataclass(slots=True)
class _Stream:
    run: int  # of its daemon; 0 before its first status
    status_s: float  # monotonic, of the last status
    playing: bool = False
    items: dict[str, Item] = field(default_factory=dict)  # "zones", "masks", "pictures"


class Latest:
    """Any thread may call it."""

    def __init__(self) -> None:
        self.connected = False  # to the daemon; set by the owner
        self._lock = threading.Lock()  # guards everything below
        self._streams: dict[str, _Stream] = {}
        self._runs: dict[int, float] = {}  # of daemons: when one was heard of last
        self._number = 0
        self._bytes = 0
        self._full = False  # it was logged

    def put(self, stream: str, kind: str, data: bytes, mask: Header | None = None) -> None:
        """The newest "zones", "masks" or "pictures" of a stream; mask: what a mask's document says of it."""
        with self._lock:
            known = self._streams.get(stream) or self._meet(stream, 0)
            before = known.items.get(kind) if known is not None else None
            size = len(data) - (len(before.data) if before is not None else 0)
            if known is None or self._bytes + size > MOST_BYTES:
                self._tell_full()
                return
            self._number += 1
            self._bytes += size
            known.items[kind] = Item(self._number, data, mask)

    def put_unchanged(self, same: SameHeader) -> None:
        """A later frame of a stream, where the newest mask holds for it; else nothing."""
        with self._lock:
            known = self._streams.get(same.stream)
            item = known.items.get("masks") if known is not None else None
            if known is None or item is None or item.mask is None or not same.holds(item.mask):
                return
            if item.same is None or same.place > item.same.place:
                self._number += 1
                known.items["masks"] = replace(item, number=self._number, same=same)

    def put_status(self, status: StatusDocument) -> None:
        """A stream's state has come, as it does once a second."""
        now_s = time.monotonic()
        with self._lock:
            known = self._streams.get(status.stream) or self._meet(status.stream, status.run)
            if known is None:
                self._tell_full()
                return
            known.run, known.status_s, known.playing = status.run, now_s, status.state == "playing"
            self._runs.pop(status.run, None)
            self._runs[status.run] = now_s
            while len(self._runs) > MOST_STREAMS:
                del self._runs[next(iter(self._runs))]

    def newer(self, kind: str, seen: dict[str, int]) -> dict[str, Item]:
        """What is newer than what `seen` has for each stream."""
        with self._lock:
            return {
                name: item
                for name, stream in self._streams.items()
                if (item := stream.items.get(kind)) is not None and item.number > seen.get(name, 0)
            }

    def delivering(self) -> dict[str, bool]:
        """Each stream whose state has come, and whether it delivers now."""
        now_s = time.monotonic()
        with self._lock:
            return {
                name: self.connected and stream.playing and now_s - stream.status_s < SILENT_S
                for name, stream in self._streams.items()
                if stream.run
            }

    def forget_gone(self) -> None:
        """Forget the streams that their daemon has no more; delivering() names them no longer."""
        with self._lock:
            for name, stream in list(self._streams.items()):
                told_s = self._runs.get(stream.run, 0.0)  # when its daemon was heard of last
                newest_s = max(self._runs.values(), default=0.0)
                if told_s - stream.status_s > GONE_S or newest_s - stream.status_s > FORGET_S:
                    self._bytes -= sum(len(item.data) for item in stream.items.values())
                    del self._streams[name]

    def _meet(self, name: str, run: int) -> _Stream | None:
        if len(self._streams) >= MOST_STREAMS:
            return None
        return self._streams.setdefault(name, _Stream(run, time.monotonic()))

    def _tell_full(self) -> None:
        if not self._full:
            log.warning("more than %d streams, or %d MB of shares: the rest is left out", MOST_STREAMS,
                        MOST_BYTES >> 20)  # fmt: skip
        self._full = True
