"""What the daemon publishes, received for those streams that a page shows."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from streamseg.client.inbox import parse_any
from streamseg.client.kept import Arrival, KeptMasks
from streamseg.client.receiver import Receiver
from streamseg.errors import WireError
from streamseg.net.curve_keys import ClientKeys
from streamseg.types import LabelSet, Mask, Preview
from streamseg.web.frames import Shown
from streamseg.wire import Header, MaskMessage, SameHeader, StreamStatus, topic_of
from streamseg.wire.event import EventDocument, parse_event
from streamseg.wire.zones import ZonesDocument, parse_zones

log = logging.getLogger(__name__)

MASKS_WAITING = 32  # of a stream, for their pictures
MESSAGES_WAITING = 256  # for the event loop
PICTURES_KEPT = 90  # of a stream whose refinements are watched: they come later than the masks
SHARES_EVERY_S = 0.5  # of a stream; in between they are left out
EVENTS = b"event/"
ALONE_AFTER_S = 0.5  # a mask that has waited this long for its picture is shown without

_Frame = tuple[int, int, int]  # run, epoch, seq


@dataclass(slots=True)
class _Watched:
    """One stream that a page shows."""

    watchers: int = 0
    refined_watchers: int = 0
    shares_watchers: int = 0
    shares_s: float = 0.0  # when shares were shown last, monotonic
    newest: dict[int, MaskMessage] = field(default_factory=dict)  # by revision
    unchanged: SameHeader | None = None  # the newest
    masks: OrderedDict[_Frame, Arrival] = field(default_factory=OrderedDict)
    pictures: OrderedDict[_Frame, Preview] = field(default_factory=OrderedDict)
    last: Shown | None = None


class Feed:
    """Owns the console's receiver. Belongs to one event loop.

    `on_shown(stream, shown)` is called for each mask of a watched stream, when its picture has arrived, too;
    `on_labels` for each label set; `on_shares` for what is counted in zones, at most every SHARES_EVERY_S;
    `on_event(event, fresh)` for each message of an event; fresh: it came when it happened.
    """

    def __init__(
        self,
        on_shown: Callable[[str, Shown], None],
        on_labels: Callable[[LabelSet], None],
        on_shares: Callable[[ZonesDocument], None] = lambda _: None,
        on_event: Callable[[EventDocument, bool], None] = lambda *_: None,
    ) -> None:
        self.label_sets: dict[str, LabelSet] = {}
        self.bad = 0  # messages that break the protocol
        self._on_shown = on_shown
        self._on_labels = on_labels
        self._on_shares = on_shares
        self._on_event = on_event
        self._events = False  # whether they are received
        self._watched: dict[str, _Watched] = {}
        self._kept = KeptMasks()
        self._receiver: Receiver | None = None  # None until it is known where masks are

    def connect(self, masks: str, snapshots: str, keys: ClientKeys | None) -> None:
        """Begin to receive; what is watched already is subscribed to at once."""
        topics = [b"labels/"]
        for stream, watched in self._watched.items():
            topics += _topics(stream)
            topics += [topic_of("refined", stream)] if watched.refined_watchers else []
            topics += [topic_of("zones", stream)] if watched.shares_watchers else []
        topics += [EVENTS] if self._events else []
        arrivals = _Arrivals(asyncio.get_running_loop(), self._take)
        self._receiver = Receiver(masks, topics, snapshots, arrivals, keys)

    async def close(self) -> None:
        if self._receiver is not None:
            self._receiver.close()

    def watch(self, stream: str, refined: bool, shares: bool) -> None:
        """Count one more watcher of a stream; its last mask comes at once, where there is one."""
        watched = self._watched.setdefault(stream, _Watched())
        watched.watchers += 1
        if watched.watchers == 1:
            self._subscribe(*_topics(stream))
        elif watched.last is not None:
            self._on_shown(stream, watched.last)
        watched.refined_watchers += refined
        if refined and watched.refined_watchers == 1:
            self._subscribe(topic_of("refined", stream))
        watched.shares_watchers += shares
        if shares and watched.shares_watchers == 1:
            self._subscribe(topic_of("zones", stream))

    def unwatch(self, stream: str, refined: bool, shares: bool) -> None:
        """One watcher less; after the last one nothing of the stream is sent to us, nor made."""
        watched = self._watched[stream]
        watched.refined_watchers -= refined
        if refined and watched.refined_watchers == 0:
            self._unsubscribe(topic_of("refined", stream))
        watched.shares_watchers -= shares
        if shares and watched.shares_watchers == 0:
            self._unsubscribe(topic_of("zones", stream))
        watched.watchers -= 1
        if watched.watchers == 0:
            self._unsubscribe(*_topics(stream))
            del self._watched[stream]

    def watch_events(self, wanted: bool) -> None:
        """Receive the events of all streams, beginning with the last ones, or no more."""
        if wanted != self._events:
            self._events = wanted
            (self._subscribe if wanted else self._unsubscribe)(EVENTS)

    def _subscribe(self, *topics: bytes) -> None:
        if self._receiver is not None:
            self._receiver.subscribe(*topics)

    def _unsubscribe(self, *topics: bytes) -> None:
        if self._receiver is not None:
            self._receiver.unsubscribe(*topics)

    def _take(self, parts: Sequence[bytes], snapshot: bool) -> None:
        topic = parts[0] if parts else b""
        try:
            if topic.startswith(EVENTS):
                self._on_event(parse_event(parts), not snapshot)
            elif topic.startswith(b"zones/"):
                self._take_shares(parse_zones(parts))
            else:
                self._take_message(parse_any(parts), snapshot)
        except WireError as error:
            self.bad += 1
            log.debug("console: a message was left out: %s", error)

    def _take_message(
        self, message: MaskMessage | SameHeader | LabelSet | Preview | StreamStatus, snapshot: bool
    ) -> None:
        if isinstance(message, LabelSet):
            self._take_labels(message)
        elif not isinstance(message, StreamStatus) and (watched := self._watched.get(message.stream)):
            if isinstance(message, Preview):
                self._take_picture(watched, message)
            elif isinstance(message, SameHeader):
                self._take_unchanged(watched, message, snapshot)
            else:
                self._take_mask(watched, message, snapshot)

    def _take_shares(self, counted: ZonesDocument) -> None:
        watched, now_s = self._watched.get(counted.stream), time.monotonic()
        if watched is not None and watched.shares_watchers and now_s - watched.shares_s >= SHARES_EVERY_S:
            watched.shares_s = now_s
            self._on_shares(counted)

    def _take_labels(self, labels: LabelSet) -> None:
        if self.label_sets.get(labels.id) != labels:
            self.label_sets[labels.id] = labels
            self._on_labels(labels)

    def _take_mask(self, watched: _Watched, message: MaskMessage, snapshot: bool) -> None:
        header = message.header
        watched.newest[header.revision] = message
        if header.revision == 1:
            if not snapshot:  # that one would need its picture
                self._show(watched, Shown(message.decode(), watched.pictures.get(_frame(header))))
        elif not snapshot:
            self._wait_for_picture(watched, Arrival(message))
        elif watched.last is None and not watched.masks:  # the stream's last one, until the next one comes
            self._show(watched, Shown(message.decode(), None))

    def _take_unchanged(self, watched: _Watched, same: SameHeader, snapshot: bool) -> None:
        """Show the mask that holds, the refined one where it has come, for a later frame."""
        before = watched.unchanged
        if before is not None and before.run == same.run and same.place <= before.place:
            return
        holding = [one for _, one in sorted(watched.newest.items()) if same.holds(one.header)]
        if not holding or (snapshot and watched.masks):
            return
        watched.unchanged = same
        arrival = Arrival(holding[-1], same)
        if snapshot:
            self._show(watched, Shown(self._unpacked(watched, arrival), None))
        else:
            self._wait_for_picture(watched, arrival)

    def _wait_for_picture(self, watched: _Watched, arrival: Arrival) -> None:
        frame = _frame(arrival.same or arrival.message.header)
        watched.masks[frame] = arrival
        while len(watched.masks) > MASKS_WAITING:
            watched.masks.popitem(last=False)
        asyncio.get_running_loop().call_later(ALONE_AFTER_S, self._show_alone, watched, frame)

    def _unpacked(self, watched: _Watched, arrival: Arrival) -> Mask:
        """Of an unchanged frame it is of revision 0, with what the refinement showed carried on."""
        if watched.unchanged is None:
            return arrival.message.decode()
        mask = self._kept.mask_of(arrival)
        return replace(mask, revision=0) if mask.revision else mask

    def _show_alone(self, watched: _Watched, frame: _Frame) -> None:
        """Show a mask whose picture has not come, unless a later one's has."""
        if frame in watched.masks and watched.watchers:
            self._show(watched, Shown(self._unpacked(watched, _taken(watched, frame)), None))

    def _take_picture(self, watched: _Watched, picture: Preview) -> None:
        frame = (picture.run, picture.epoch, picture.seq)
        watched.pictures[frame] = picture
        while len(watched.pictures) > (PICTURES_KEPT if watched.refined_watchers else 1):
            watched.pictures.popitem(last=False)
        if frame in watched.masks:
            self._show(watched, Shown(self._unpacked(watched, _taken(watched, frame)), picture))

    def _show(self, watched: _Watched, shown: Shown) -> None:
        if shown.mask.revision == 0:
            watched.last = shown
        self._on_shown(shown.mask.stream, shown)


class _Arrivals:
    """Messages on their way from the receiver's thread to the event loop."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, take: Callable[[Sequence[bytes], bool], None]
    ) -> None:
        self._loop = loop
        self._take = take
        self._waiting: deque[tuple[Sequence[bytes], bool]] = deque(maxlen=MESSAGES_WAITING)
        self._called = False

    def put(self, parts: Sequence[bytes], *, snapshot: bool = False) -> None:
        self._waiting.append((parts, snapshot))  # the oldest goes where the event loop is behind
        if not self._called:  # once, however many come until the loop gets there
            self._called = True
            self._loop.call_soon_threadsafe(self._take_all)

    def put_snapshot(self, messages: Sequence[Sequence[bytes]]) -> None:
        for parts in messages:
            self.put(parts, snapshot=True)

    def put_bad(self) -> None:
        self.put([])

    def close(self) -> None:
        pass

    def _take_all(self) -> None:
        self._called = False  # first, so that what comes meanwhile is not forgotten
        while self._waiting:
            self._take(*self._waiting.popleft())


def _topics(stream: str) -> tuple[bytes, ...]:
    return topic_of("mask", stream), topic_of("same", stream), topic_of("picture", stream)


def _taken(watched: _Watched, frame: _Frame) -> Arrival:
    """Take a waiting mask out, and those before it, which are shown no more."""
    while True:
        waiting, arrival = watched.masks.popitem(last=False)
        if waiting == frame:
            return arrival


def _frame(header: Header | SameHeader) -> _Frame:
    return header.run, header.epoch, header.seq
