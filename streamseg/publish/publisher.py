"""The thread that owns the publishing sockets."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import msgspec

from streamseg.config import PublishConfig
from streamseg.errors import PublishError, WireError
from streamseg.net.mask_sockets import Asker, MaskSockets
from streamseg.net.socket_thread import SocketThread
from streamseg.publish.topics import Demand, KeptEvents, LastValueCache, MaskNumbers
from streamseg.runtime.mailbox import Closed, Mailbox
from streamseg.types import LabelSet, Mask, Preview
from streamseg.wire import (
    KeptEvent,
    PolygonsDocument,
    StreamStatus,
    TopicKind,
    ZonesDocument,
    encode_labels,
    encode_picture,
    encode_polygons,
    encode_status,
    encode_zones,
)

log = logging.getLogger(__name__)

EVENTS_WAITING = 1024  # for one slow subscriber, beyond publish.queue
WAITING_MASKS = 4  # in the mailbox; more would only grow old there


Beside = Preview | ZonesDocument | PolygonsDocument
"""What comes after a mask of revision 0, and is numbered like it."""


@dataclass(slots=True)
class PublisherStats:
    """Counted by the publish thread; a reader in another thread sees each number whole."""

    published: int = 0  # masks of revision 0
    unchanged: int = 0  # frames that an earlier mask holds for
    refined: int = 0  # masks of revision 1
    pictures: int = 0
    documents: int = 0  # of zones and polygons
    messages: int = 0  # sent, over all kinds
    statuses: int = 0
    snapshots: int = 0  # answered
    refused: int = 0  # requests that were not understood
    connections: int = 0  # open now, at both sockets
    subscribers: int = 0  # of those, at the mask socket
    denied: int = 0  # keys that are not on the list
    disconnected: int = 0  # connections ended by us


@dataclass(frozen=True, slots=True)
class _Events:
    """New messages of a stream's events, and what snapshots bring of them from then on."""

    stream: str
    new: Sequence[list[bytes]]
    kept: Sequence[KeptEvent]


@dataclass(frozen=True, slots=True)
class _Forget:
    """Put behind the last mask of a stream that is removed."""

    stream: str


_Item = Mask | Beside | LabelSet | _Events | _Forget


class Publisher:
    """Owns the XPUB socket and the snapshot ROUTER. Lives in the publish thread; others put() masks.

    A context manager: entering binds (PublishError when that fails) and starts the thread; leaving publishes
    what was put, waits up to LINGER_MS for subscribers to take it, and closes. When the thread fails, the
    mailbox closes, on_fail is called from that thread, and check() raises.
    """

    def __init__(
        self,
        config: PublishConfig,
        label_sets: Iterable[LabelSet] = (),
        on_fail: Callable[[Exception], None] | None = None,
    ) -> None:
        self.run = secrets.randbelow(2**53 - 1) + 1
        self.endpoint = ""  # where it really is, once started
        self.snapshot_endpoint = ""
        # Where clients need keys: our public one, and a secret one made for this run that is always accepted,
        # so that this process and its children can subscribe. None where no keys are needed.
        self.own_keys: tuple[bytes, bytes] | None = None
        self.stats = PublisherStats()
        self._config = config
        self._mailbox: Mailbox[_Item] = Mailbox(WAITING_MASKS)
        self._statuses: dict[str, StreamStatus] = {}  # waiting; each operation on it is whole
        self._demand = Demand()
        self._label_sets = {labels.id: labels for labels in label_sets}  # each operation on it is whole
        self._last = LastValueCache(config.encoding, tuple(self._label_sets.values()))
        self._numbers = MaskNumbers()
        self._events = KeptEvents({})
        self._unsendable: set[str] = set()  # streams whose failure has been logged
        self._thread = SocketThread("publish", self._serve, self._explain, on_fail)

    def __enter__(self) -> Publisher:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Bind and begin; raises PublishError. `endpoint` and `snapshot_endpoint` are known afterwards."""
        self._thread.start()

    def put(self, mask: Mask | Beside, timeout_s: float | None = None) -> None:
        """Leave a mask to be published, waiting for room; its n and run are set on the way out.

        A picture and a document come after their mask, whose n they are given. One with same_as goes out as
        its times alone, with the n of the mask that holds; whole, where that one was not the last published.

        Raises Closed when the publisher is closed or has failed, TimeoutError after timeout_s.
        """
        self._mailbox.put(mask, timeout_s)
        self._thread.wake()

    def put_status(self, status: StreamStatus) -> None:
        """Leave a stream's status to be published, where it has a subscriber; never waits."""
        self._statuses[status.stream] = status
        self._thread.wake()

    def put_events(self, stream: str, new: Sequence[list[bytes]], kept: Sequence[KeptEvent]) -> None:
        """Leave messages of a stream's events, and all that snapshots bring of them from then on.

        Before start() it takes effect at once, later it waits as put() does. Raises Closed.
        """
        if not self.endpoint:
            self._events.replace(stream, kept)
            return
        self._mailbox.put(_Events(stream, new, kept))
        self._thread.wake()

    def forget(self, stream: str) -> None:
        """Take a removed stream out of the snapshots; n goes on if it comes again. Waits as put() does."""
        self._mailbox.put(_Forget(stream))
        self._thread.wake()

    def add_label_set(self, labels: LabelSet) -> None:
        """Leave a set of classes in front of its first mask, so that subscribers have it first.

        Waits as put() does; a set that is known already costs nothing.
        """
        if self._label_sets.get(labels.id) != labels:
            self._mailbox.put(labels)
            self._label_sets[labels.id] = labels
            self._thread.wake()

    def label_set(self, id: str) -> LabelSet | None:
        """The classes of mask.label_set, from any thread."""
        return self._label_sets.get(id)

    def last(self, stream: str, *, refined: bool = False) -> Mask | None:
        """A stream's last mask, from any thread."""
        return self._last.mask("refined" if refined else "mask", stream)

    def wants(self, kind: TopicKind, stream: str) -> bool:
        """Whether this kind of this stream has a subscriber now. Any thread; takes microseconds."""
        return self._demand.wants(kind, stream)

    def wait_wanted(self, kind: TopicKind, stream: str, timeout_s: float) -> bool:
        """Wait until wants() is true; False when it is not after timeout_s."""
        return self._demand.wait(kind, stream, timeout_s)

    def check(self) -> None:
        """Raise the error that ended the publish thread, if one did."""
        self._thread.check()

    def close(self) -> None:
        """Publish what was put, give subscribers LINGER_MS to take it, and end. Closing twice is fine."""
        self._mailbox.close()
        self._thread.close()

    def _explain(self, error: Exception) -> PublishError:
        return PublishError(f"{self._config.endpoint}: publishing failed: {error}")

    def _serve(self, thread: SocketThread) -> None:
        """The publish thread: takes from the mailbox until that is closed and empty."""
        thread.on_close(self._mailbox.close, discard=True)
        asked: set[bytes] = set()  # prefixes with a new subscriber

        def on_subscription(subscribing: bool, prefix: bytes) -> None:
            self._demand.note(subscribing, prefix)
            if subscribing:
                asked.add(prefix)

        def on_request(asker: Asker, prefixes: list[bytes]) -> None:
            found = [*self._last.matching(prefixes), *self._events.matching(prefixes)]
            sockets.answer(asker, self.run, found)

        sockets = MaskSockets(thread, self._config, on_subscription, on_request)
        self.own_keys = sockets.guard.own_keys
        self.endpoint, self.snapshot_endpoint = sockets.endpoint, sockets.snapshot_endpoint
        sockets.guard.on_change = lambda: self._count(sockets)
        thread.opened()
        while True:
            closing = self._mailbox.closed  # read before looking, so that nothing put earlier is missed
            busy = closing or len(self._mailbox) > 0
            thread.loop.poll(0 if busy else None)
            if asked:
                self._publish_labels(sockets, asked)
            self._publish_statuses(sockets)
            try:
                self._publish(sockets, self._mailbox.get(timeout_s=0))
            except TimeoutError:
                pass
            except Closed:
                return

    def _publish_labels(self, sockets: MaskSockets, asked: set[bytes]) -> None:
        """The label sets, for those who have just subscribed to them."""
        labels = {m[0]: m for prefix in asked for m in self._last.label_messages(prefix)}
        asked.clear()
        for message in labels.values():
            sockets.subscribers.publish(message)

    def _publish_statuses(self, sockets: MaskSockets) -> None:
        while self._statuses:
            _, status = self._statuses.popitem()
            if self._demand.wants("status", status.stream):
                message = encode_status(status, self.run, time.time_ns())
                self.stats.statuses += 1
                self.stats.messages += 1
                sockets.subscribers.publish(message)

    def _publish(self, sockets: MaskSockets, item: _Item) -> None:
        if isinstance(item, _Forget):
            self._numbers.forget(item.stream)
            self._last.forget(item.stream)
            self._unsendable.discard(item.stream)
        elif isinstance(item, _Events):
            self._events.replace(item.stream, item.kept)
            for message in item.new:
                self.stats.messages += 1
                sockets.subscribers.publish(message, beyond=EVENTS_WAITING)
        elif isinstance(item, Preview):
            self._publish_picture(sockets, item)
        elif isinstance(item, ZonesDocument | PolygonsDocument):
            self._publish_document(sockets, item)
        elif isinstance(item, LabelSet):
            if self._last.add_label_set(item):
                sockets.subscribers.publish(encode_labels(item))
        else:
            try:
                for message in self._messages_of(item):
                    self.stats.messages += 1
                    sockets.subscribers.publish(message)
            except WireError as error:
                size = f"{item.size[0]}x{item.size[1]}"
                self._log_once(item.stream, f"a mask of {size} cannot be published: {error}")

    def _messages_of(self, mask: Mask) -> Iterable[list[bytes]]:
        """Remember a mask as the stream's last, and make what its subscribers get."""
        holding = self._last.holding(mask) if mask.same_as is not None else None
        if holding is None:
            return self._last.published(self._numbered(mask), self._demand)
        self.stats.unchanged += 1
        n = self._numbers.note(mask.stream, mask.epoch, mask.seq, holding.n)
        message = self._last.unchanged(replace(mask.stamped(run=self.run, n=n), same_as=holding.seq))
        return [message] if self._demand.wants("same", mask.stream) else []

    def _publish_picture(self, sockets: MaskSockets, picture: Preview) -> None:
        n = self._numbers.of(picture.stream, picture.epoch, picture.seq)
        if n is not None and self._demand.wants("picture", picture.stream):
            now_ns = time.time_ns()
            stamped = picture.stamped(run=self.run, n=n, published_unix_ns=now_ns)
            message = encode_picture(stamped)
            self.stats.pictures += 1
            self.stats.messages += 1
            sockets.subscribers.publish(message)

    def _publish_document(self, sockets: MaskSockets, document: ZonesDocument | PolygonsDocument) -> None:
        stream = document.stream
        n = self._numbers.of(stream, document.epoch, document.seq)
        if n is None or not self._demand.wants(document.kind, stream):
            return
        numbered = msgspec.structs.replace(document, run=self.run, n=n, published_unix_ns=time.time_ns())
        try:
            if isinstance(numbered, ZonesDocument):
                message = encode_zones(numbered)
            else:
                message = encode_polygons(numbered)
        except WireError as error:
            self._log_once(stream, f"{document.kind} cannot be published: {error}")
            return
        self._last.remember_document(document.kind, stream, message)
        self.stats.documents += 1
        self.stats.messages += 1
        sockets.subscribers.publish(message)

    def _numbered(self, mask: Mask) -> Mask:
        """Give the mask its run and n: the next one, or for a refinement that of its keyframe.

        The refinement of a keyframe that was never published, or too long ago, gets the stream's latest n.
        """
        if mask.revision:
            self.stats.refined += 1
            n = self._numbers.of(mask.stream, mask.epoch, mask.seq)
            return mask.stamped(run=self.run, n=self._numbers.latest(mask.stream) if n is None else n)
        self.stats.published += 1
        return mask.stamped(run=self.run, n=self._numbers.give(mask.stream, mask.epoch, mask.seq))

    def _count(self, sockets: MaskSockets) -> None:
        guard = sockets.guard
        self.stats.connections, self.stats.subscribers = (
            guard.connections,
            len(sockets.masks.clients),
        )
        self.stats.denied, self.stats.disconnected = guard.denied, guard.disconnected
        self.stats.snapshots, self.stats.refused = sockets.answered, sockets.refused

    def _log_once(self, stream: str, problem: str) -> None:
        if stream not in self._unsendable:
            self._unsendable.add(stream)
            log.warning("%s: %s", stream, problem)
