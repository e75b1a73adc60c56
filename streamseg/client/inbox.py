"""The masks that a subscriber has received: merged, counted, and handed out newest first. No sockets.

The receiving thread puts messages in as they come and never waits; the reader takes them out and unpacks them
in its own time. A reader that is slower than the stream skips masks and stays fresh.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from streamseg.client.kept import Arrival, KeptMasks, Topic
from streamseg.client.unknown import UnknownStreams
from streamseg.errors import WireError
from streamseg.runtime.mailbox import Closed
from streamseg.types import LabelSet, Mask, Preview
from streamseg.wire import (
    KINDS,
    MaskMessage,
    SameHeader,
    StreamStatus,
    parse_message,
    parse_picture,
    parse_same,
    parse_status,
)

log = logging.getLogger(__name__)

MAX_TOPICS = 4096  # streams and kinds that a subscriber keeps; more can only be an attack
MAX_LABEL_SETS = 256
LOOK_EVERY_S = 1.0  # whether masks are missing, to ask for a snapshot
PICTURES_KEPT = 8  # of each stream: a reader that is this many masks behind gets none


@dataclass(slots=True)
class ClientStats:
    """Counted since the subscription began."""

    received: int = 0  # masks that arrived, read or not
    unchanged: int = 0  # of them, those that have the labels of an earlier one
    skipped: int = 0  # masks that a newer one replaced before they were read
    lost: int = 0  # masks published but never received, by the gaps in n
    repeated: int = 0  # masks known already, as a snapshot brings them
    restarts: int = 0  # times that a stream came from a new run of its publisher
    bad: int = 0  # messages that break the protocol


@dataclass(slots=True)
class _Track:
    """What is known about one topic."""

    newest: MaskMessage
    last: Arrival  # the same, or an unchanged frame since
    arrived: int  # counts all arrivals, so that topics can be put in order
    from_snapshot: bool
    ended_runs: deque[int] = field(default_factory=lambda: deque(maxlen=8))
    served: int = -1  # the turn at which a mask of this topic was last handed out


class Inbox:
    """Masks on their way to the reader; any thread may put and any may take.

    newest: keep one waiting mask for each topic, and serve the topic that has waited longest for its turn.
    Otherwise keep up to `queue` masks in order, and let the oldest go. on_arrival is called by the putting
    thread, without a lock, when there is something to take.
    """

    def __init__(
        self,
        streams: Collection[str] | None,
        *,
        newest: bool,
        queue: int,
        on_arrival: Callable[[], None] | None = None,
    ) -> None:
        self.unknown = UnknownStreams(streams or ())
        self.stats = ClientStats()
        self._streams = None if streams is None else frozenset(streams)
        self._newest = newest
        self._queue = queue
        self._on_arrival = on_arrival
        self._arrivals = 0
        self._turn = 0
        self._tracks: dict[Topic, _Track] = {}
        self._slots: dict[Topic, Arrival] = {}  # waiting masks, when newest
        self._line: deque[Arrival] = deque()  # waiting masks, when not
        self._unchanged: Counter[str] = Counter()  # by stream; their masks are kept unpacked
        self._kept = KeptMasks()
        self._missing = False  # a mask that an unchanged frame refers to
        self._label_sets: dict[str, LabelSet] = {}
        self._pictures: dict[str, deque[Preview]] = {}
        self._statuses: dict[str, StreamStatus] = {}
        self._closed = False
        self._logged_bad = False
        self._changed = threading.Condition()  # guards everything above

    def put(self, parts: Sequence[bytes], *, snapshot: bool = False) -> None:
        """Take in a message as it came from the network; one that breaks the protocol is counted."""
        try:
            message = parse_any(parts)
        except WireError as error:
            self.put_bad()
            self._log_once(error)
            return
        with self._changed:
            if isinstance(message, Preview):
                self._keep(message)
            elif isinstance(message, StreamStatus):
                self.unknown.note(message.stream)
                self._keep_status(message)
            elif isinstance(message, LabelSet):
                if len(self._label_sets) < MAX_LABEL_SETS or message.id in self._label_sets:
                    self._label_sets[message.id] = message
            elif isinstance(message, SameHeader):
                self._merge_unchanged(message)
            elif self._merge(message, snapshot):
                self._hold(Arrival(message))
            self._changed.notify_all()
        if self._on_arrival is not None:
            self._on_arrival()

    def put_snapshot(self, messages: Sequence[Sequence[bytes]]) -> None:
        """Take in the messages of a snapshot."""
        for parts in messages:
            self.put(parts, snapshot=True)

    def put_bad(self) -> None:
        """Count something that is not a message."""
        with self._changed:
            self.stats.bad += 1

    def take(self, timeout_s: float | None = None) -> Mask:
        """The next mask, unpacked in this call; raises Closed, or TimeoutError after timeout_s."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            arrival = self._next(deadline)
            try:
                return self._unpacked(arrival)
            except WireError:
                self.put_bad()

    def latest(self, stream: str) -> Mask | None:
        """The newest mask of a stream that has come, read or not; the refined one of the same frame first."""
        with self._changed:
            found = [track for (name, _), track in self._tracks.items() if name == stream]
            if not found:
                return None
            run = max(found, key=lambda t: t.arrived).newest.header.run
            same_run = [t.last for t in found if t.newest.header.run == run]
            newest = max(same_run, key=lambda a: (*a.place, a.message.header.revision))
        try:
            return self._unpacked(newest)
        except WireError:
            return None  # counted when it was to be read

    def unchanged(self, stream: str) -> int:
        """Unchanged frames of a stream that have come."""
        return self._unchanged[stream]

    def label_set(self, id: str, timeout_s: float) -> LabelSet:
        """A label set by its id, waiting for it; raises Closed, or TimeoutError after timeout_s."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while id not in self._label_sets:
                self._wait(deadline, f"no label set {id!r} came")
            return self._label_sets[id]

    def picture(self, mask: Mask, timeout_s: float) -> Preview | None:
        """A mask's picture, waiting for it; None when there is none, or it does not come in time."""
        deadline = time.monotonic() + timeout_s
        place = (mask.n, mask.epoch, mask.seq)
        with self._changed:
            while True:
                for picture in self._pictures.get(mask.stream, ()):
                    if picture.run == mask.run and (picture.n, picture.epoch, picture.seq) >= place:
                        return picture if (picture.epoch, picture.seq) == place[1:] else None
                try:
                    self._wait(deadline, "no picture came")
                except (TimeoutError, Closed):
                    return None

    def status(self, stream: str, timeout_s: float) -> StreamStatus:
        """A stream's last status, waiting for the first; raises Closed, or TimeoutError after timeout_s."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while stream not in self._statuses:
                self._wait(deadline, f"no status of {stream} came")
            return self._statuses[stream]

    def look(self, connected: bool, ask: Callable[[], None]) -> None:
        """Called every LOOK_EVERY_S by the receiving thread; ask() for the masks that are missing."""
        if connected and self._missing:
            self._missing = False
            ask()

    def close(self) -> None:
        """Wake waiting readers; what has arrived can still be taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._on_arrival is not None:
            self._on_arrival()

    def _keep(self, picture: Preview) -> None:
        if self._streams is not None and picture.stream not in self._streams:
            return
        if picture.stream not in self._pictures and len(self._pictures) >= MAX_TOPICS:
            self.stats.bad += 1
            return
        self._pictures.setdefault(picture.stream, deque(maxlen=PICTURES_KEPT)).append(picture)

    def _log_once(self, error: WireError) -> None:
        """Log the first message that could not be read; more are only counted."""
        if not self._logged_bad:
            log.warning("a message breaks the protocol: %s", error)
        self._logged_bad = True

    def _keep_status(self, status: StreamStatus) -> None:
        if self._streams is not None and status.stream not in self._streams:
            return
        if status.stream not in self._statuses and len(self._statuses) >= MAX_TOPICS:
            self.stats.bad += 1
            return
        self._statuses[status.stream] = status

    def _merge(self, message: MaskMessage, snapshot: bool) -> bool:
        """Whether this is news; counts what lies between it and the last of its topic."""
        header = message.header
        if self._streams is not None and header.stream not in self._streams:
            return False
        topic = (header.stream, header.kind)
        track = self._tracks.get(topic)
        self.stats.received += 1
        self._arrivals += 1
        if track is None:
            if len(self._tracks) >= MAX_TOPICS:
                self.stats.bad += 1
                return False
            self._tracks[topic] = _Track(message, Arrival(message), self._arrivals, snapshot)
            return True
        known = track.newest.header
        if header.run == known.run:
            if message.place <= track.newest.place:
                self.stats.repeated += 1
                return False
            if header.revision == 0 and not track.from_snapshot:
                self.stats.lost += header.n - known.n - 1
        elif snapshot and header.run in track.ended_runs:
            self.stats.repeated += 1  # the answer of a publisher that has since been replaced
            return False
        else:
            self.stats.restarts += 1
            track.ended_runs.append(known.run)
        track.newest, track.arrived, track.from_snapshot = message, self._arrivals, snapshot
        track.last = Arrival(message)
        return True

    def _merge_unchanged(self, same: SameHeader) -> None:
        """Give the mask that holds, the refined one where it has come, with the times of a later frame."""
        tracks = [t for kind in KINDS if (t := self._tracks.get((same.stream, kind))) is not None]
        run = [t for t in tracks if t.newest.header.run == same.run]
        if any(t.last.place >= same.place for t in run):
            self.stats.repeated += 1
            return
        holding = [t for t in run if same.holds(t.newest.header)]
        if not holding:
            self._missing = self._missing or self._streams is None or same.stream in self._streams
            return
        track = max(holding, key=lambda t: t.newest.header.revision)
        self._arrivals += 1
        self.stats.received += 1
        self.stats.unchanged += 1
        self._unchanged[same.stream] += 1
        track.last, track.arrived = Arrival(track.newest, same), self._arrivals
        for kind in KINDS:  # one of the unrefined mask is older, and says no more
            waiting = self._slots.get((same.stream, kind))
            if waiting is not None and waiting.same is not None and waiting.topic != track.last.topic:
                del self._slots[waiting.topic]
                self.stats.skipped += 1
        self._hold(track.last)

    def _hold(self, arrival: Arrival) -> None:
        """Put a mask where the reader finds it."""
        if self._newest:
            self.stats.skipped += arrival.topic in self._slots
            self._slots[arrival.topic] = arrival
            return
        if len(self._line) >= self._queue:
            self._line.popleft()
            self.stats.skipped += 1
        self._line.append(arrival)

    def _unpacked(self, arrival: Arrival) -> Mask:
        """Raises WireError."""
        if arrival.message.stream not in self._unchanged:
            return arrival.message.decode()
        return self._kept.mask_of(arrival)

    def _next(self, deadline: float | None) -> Arrival:
        with self._changed:
            while not self._slots and not self._line:
                self._wait(deadline, "no mask came")
            if not self._newest:
                return self._line.popleft()
            topic = min(self._slots, key=lambda t: self._tracks[t].served)
            self._turn += 1
            self._tracks[topic].served = self._turn
            return self._slots.pop(topic)

    def _wait(self, deadline: float | None, what: str) -> None:
        """Wait for a change; the lock is held on entry and on return."""
        if self._closed:
            raise Closed
        left_s = None if deadline is None else deadline - time.monotonic()
        if left_s is not None and left_s <= 0:
            raise TimeoutError(what)
        self._changed.wait(left_s)


def parse_any(parts: Sequence[bytes]) -> MaskMessage | SameHeader | LabelSet | Preview | StreamStatus:
    """Read a message of any kind, all but the payload of a mask; raises WireError, and nothing else."""
    topic = parts[0] if parts else b""
    if topic.startswith(b"same/"):
        return parse_same(parts)
    if topic.startswith(b"picture/"):
        return parse_picture(parts)
    if topic.startswith(b"status/"):
        return parse_status(parts)
    return parse_message(parts)
