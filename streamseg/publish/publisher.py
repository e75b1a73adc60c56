"""The thread that owns the publishing sockets."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from types import TracebackType

import zmq

from streamseg.config import PublishConfig
from streamseg.errors import PublishError, StreamsegError, WireError
from streamseg.net.endpoints import bind_pair
from streamseg.net.guard import ConnectionGuard
from streamseg.net.options import notice_dead_peers
from streamseg.publish.demand import Demand
from streamseg.publish.last_value import LastValueCache, kinds_of
from streamseg.publish.numbering import Numbers
from streamseg.runtime.mailbox import Closed, Mailbox
from streamseg.types import LabelSet, Mask, Preview
from streamseg.wire import (
    StreamStatus,
    TopicKind,
    encode_payload,
    encode_picture,
    encode_status,
    parse_snapshot_request,
    snapshot_reply,
)

log = logging.getLogger(__name__)

LINGER_MS = 1000  # how long close() waits for the last masks to leave; a stalled subscriber costs that much
WAITING_MASKS = 4  # in the mailbox; more would only grow old there
REQUESTS_AT_ONCE = 64  # subscriptions and snapshot requests taken between two looks at the mailbox


@dataclass(slots=True)
class PublisherStats:
    """Counted by the publish thread; whoever reads sees each number whole."""

    published: int = 0  # masks of revision 0
    refined: int = 0  # masks of revision 1
    pictures: int = 0
    messages: int = 0  # sent, over all kinds
    statuses: int = 0
    snapshots: int = 0  # answered
    refused: int = 0  # requests that were not understood
    connections: int = 0  # open now, at both sockets
    subscribers: int = 0  # of those, at the mask socket
    denied: int = 0  # keys that are not on the list
    hung_up: int = 0  # connections ended by us


@dataclass(frozen=True, slots=True)
class _Forget:
    """Put behind the last mask of a stream that is removed."""

    stream: str


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
        # Where clients need keys: our public one, and a secret one made for this run that is always let in,
        # so that this process and its children can subscribe. None where no keys are needed.
        self.own_keys: tuple[bytes, bytes] | None = None
        self.stats = PublisherStats()
        self._config = config
        self._on_fail = on_fail
        self._mailbox: Mailbox[Mask | Preview | _Forget] = Mailbox(WAITING_MASKS)
        self._statuses: dict[str, StreamStatus] = {}  # waiting; each operation on it is whole
        self._demand = Demand()
        self._last = LastValueCache(config.encoding, tuple(label_sets))
        self._numbers = Numbers()
        self._unsendable: set[str] = set()  # streams whose failure has been logged
        self._error: Exception | None = None
        self._bound = threading.Event()
        self._thread: threading.Thread | None = None
        self._wake_lock = threading.Lock()  # guards _wake_fd, which another file may get once it is closed
        self._wake_fd = -1

    def __enter__(self) -> Publisher:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Bind and begin; raises PublishError. `endpoint` and `snapshot_endpoint` are known afterwards."""
        self._thread = threading.Thread(target=self._live, name="publish", daemon=True)
        self._thread.start()
        self._bound.wait()
        self.check()

    def put(self, mask: Mask | Preview, timeout_s: float | None = None) -> None:
        """Leave a mask to be published, waiting for room; its n and run are set on the way out.

        A picture comes after its mask, whose n it is given.

        Raises Closed when the publisher is closed or has failed, TimeoutError after timeout_s.
        """
        self._mailbox.put(mask, timeout_s)
        self._wake()

    def put_status(self, status: StreamStatus) -> None:
        """Leave a stream's status to be published, where somebody subscribes; never waits."""
        self._statuses[status.stream] = status
        self._wake()

    def forget(self, stream: str) -> None:
        """Take a removed stream out of the snapshots; n goes on if it comes again. Waits as put() does."""
        self._mailbox.put(_Forget(stream))
        self._wake()

    def last(self, stream: str, *, refined: bool = False) -> Mask | None:
        """A stream's last mask, from any thread."""
        return self._last.mask("refined" if refined else "mask", stream)

    def wants(self, kind: TopicKind, stream: str) -> bool:
        """Whether anybody subscribes to this kind of this stream now. Any thread; takes microseconds."""
        return self._demand.wants(kind, stream)

    def wait_wanted(self, kind: TopicKind, stream: str, timeout_s: float) -> bool:
        """Wait until wants() is true; False when it is not after timeout_s."""
        return self._demand.wait(kind, stream, timeout_s)

    def check(self) -> None:
        """Raise what the publish thread died of, if it did."""
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Publish what was put, give subscribers LINGER_MS to take it, and end. Closing twice is fine."""
        self._mailbox.close()
        self._wake()
        if self._thread is not None:
            self._thread.join()

    def _wake(self) -> None:
        with self._wake_lock, contextlib.suppress(BlockingIOError):  # a full pipe wakes, too
            if self._wake_fd >= 0:
                os.write(self._wake_fd, b"!")

    def _live(self) -> None:
        """The life of the publish thread."""
        try:
            with contextlib.ExitStack() as owned:
                self._open_and_serve(owned)
        except StreamsegError as error:
            self._error = error
        except Exception as error:  # noqa: BLE001 - handed on, to check() and to on_fail
            self._error = PublishError(f"{self._config.endpoint}: publishing failed: {error}")
            self._error.__cause__ = error
        started = self._bound.is_set()
        self._bound.set()
        if self._error is not None and started and self._on_fail is not None:
            self._on_fail(self._error)

    def _open_and_serve(self, owned: contextlib.ExitStack) -> None:
        context = zmq.Context()
        # Waits for the lingering masks, and closes what a failure left open: term() would wait for that, too.
        owned.callback(context.destroy, linger=0)
        masks = context.socket(zmq.XPUB)
        owned.callback(masks.close, linger=LINGER_MS)
        snapshots = context.socket(zmq.ROUTER)
        owned.callback(snapshots.close, linger=0)
        wake_fd, self._wake_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        owned.callback(os.close, wake_fd)
        owned.callback(self._stop_waking)
        owned.callback(self._mailbox.close, discard=True)
        doors = ConnectionGuard(self._config, context)
        owned.callback(doors.close)
        self.own_keys = doors.own_keys
        for sock in (masks, snapshots):
            configure(sock, self._config.queue)
            doors.guard(sock)
        masks.setsockopt(zmq.XPUB_VERBOSE, 1)  # each subscriber to labels/ is told, not only the first
        self.endpoint, self.snapshot_endpoint = bind_pair(
            masks, snapshots, self._config.endpoint, self._config.snapshot_endpoint
        )
        self._bound.set()
        self._serve(masks, snapshots, wake_fd, doors)

    def _stop_waking(self) -> None:
        with self._wake_lock:
            os.close(self._wake_fd)
            self._wake_fd = -1

    def _serve(
        self, masks: zmq.Socket[bytes], snapshots: zmq.Socket[bytes], wake_fd: int, doors: ConnectionGuard
    ) -> None:
        poller = zmq.Poller()
        doors.register(poller)
        poller.register(masks, zmq.POLLIN)
        poller.register(snapshots, zmq.POLLIN)
        poller.register(wake_fd, zmq.POLLIN)
        while True:
            closing = self._mailbox.closed  # read before looking, so that nothing put earlier is missed
            if not len(self._mailbox) and not closing:
                ready = dict(poller.poll(doors.poll_ms))
                if wake_fd in ready:
                    os.read(wake_fd, 4096)
            doors.serve()
            self.stats.connections, self.stats.subscribers = doors.connections, doors.connections_of(masks)
            self.stats.denied, self.stats.hung_up = doors.denied, doors.hung_up
            self._take_subscriptions(masks, doors)
            self._publish_statuses(masks)
            try:
                self._publish(masks, self._mailbox.get(timeout_s=0))
            except TimeoutError:
                pass
            except Closed:
                return
            self._answer(snapshots, doors)

    def _take_subscriptions(self, masks: zmq.Socket[bytes], doors: ConnectionGuard) -> None:
        asked: set[bytes] = set()
        for frames in received(masks):
            event = frames[0].bytes
            if len(frames) != 1 or not doors.may_ask(masks, frames[0], subscribing=event[:1] == b"\x01"):
                continue
            prefix = self._demand.note(event)
            if prefix is not None:
                asked.add(prefix)
        labels = {m[0]: m for prefix in asked for m in self._last.label_messages(prefix)}
        for message in labels.values():
            masks.send_multipart(message)

    def _publish_statuses(self, masks: zmq.Socket[bytes]) -> None:
        while self._statuses:
            _, status = self._statuses.popitem()
            if self._demand.wants("status", status.stream):
                masks.send_multipart(encode_status(status, self.run, time.time_ns()))
                self.stats.statuses += 1
                self.stats.messages += 1

    def _publish(self, masks: zmq.Socket[bytes], item: Mask | Preview | _Forget) -> None:
        if isinstance(item, _Forget):
            self._numbers.forget(item.stream)
            self._last.forget(item.stream)
            self._unsendable.discard(item.stream)
            return
        if isinstance(item, Preview):
            self._publish_picture(masks, item)
            return
        mask = self._numbered(item)
        wanted = [kind for kind in kinds_of(mask) if self._demand.wants(kind, mask.stream)]
        try:
            payload: list[bytes] = []
            if set(wanted) - {"rle"}:
                begun_ns = time.monotonic_ns()
                confidence = "mask+confidence" in wanted
                payload = encode_payload(mask, self._config.encoding, confidence=confidence)
                encode_us = (time.monotonic_ns() - begun_ns) // 1000
                mask = replace(mask, stage_us=mask.stage_us | {"encode": encode_us})
            mask = mask.stamped(published_unix_ns=time.time_ns())
            self._last.remember(mask)
            for kind in wanted:
                has = payload if kind == "mask+confidence" else payload[:1]
                masks.send_multipart(self._last.message(kind, mask.stream, has))
                self.stats.messages += 1
        except WireError as error:
            self._say_once(mask, error)

    def _publish_picture(self, masks: zmq.Socket[bytes], picture: Preview) -> None:
        n = self._numbers.of(picture.stream, picture.epoch, picture.seq)
        if n is not None and self._demand.wants("picture", picture.stream):
            now_ns = time.time_ns()
            masks.send_multipart(encode_picture(picture.stamped(run=self.run, n=n, published_unix_ns=now_ns)))
            self.stats.pictures += 1
            self.stats.messages += 1

    def _numbered(self, mask: Mask) -> Mask:
        """Give the mask its run and n: the next one, or for a refinement that of its keyframe.

        A keyframe that was never published, or too long ago, lends its refinement the latest n.
        """
        if mask.revision:
            self.stats.refined += 1
            n = self._numbers.of(mask.stream, mask.epoch, mask.seq)
            return mask.stamped(run=self.run, n=self._numbers.latest(mask.stream) if n is None else n)
        self.stats.published += 1
        return mask.stamped(run=self.run, n=self._numbers.give(mask.stream, mask.epoch, mask.seq))

    def _answer(self, snapshots: zmq.Socket[bytes], doors: ConnectionGuard) -> None:
        for frames in received(snapshots):
            if not doors.may_ask(snapshots, frames[-1], subscribing=False):
                continue
            parts = [frame.bytes for frame in frames]
            # A REQ socket puts an empty part before its request and expects it back.
            address = parts[:2] if parts[1:2] == [b""] else parts[:1]
            try:
                prefixes = parse_snapshot_request(parts[len(address) :])
            except WireError as error:
                self.stats.refused += 1
                log.debug("snapshot request refused: %s", error)
                continue
            reply = snapshot_reply(self.run, self._last.matching(prefixes))
            with contextlib.suppress(zmq.Again):  # the asker does not read; it may ask again
                snapshots.send_multipart([*address, *reply], zmq.DONTWAIT)
                self.stats.snapshots += 1

    def _say_once(self, mask: Mask, error: WireError) -> None:
        if mask.stream not in self._unsendable:
            self._unsendable.add(mask.stream)
            log.warning("%s: a mask of %dx%d cannot be published: %s", mask.stream, *mask.size, error)


def received(sock: zmq.Socket[bytes]) -> Iterable[list[zmq.Frame]]:
    """What has arrived, up to REQUESTS_AT_ONCE messages."""
    with contextlib.suppress(zmq.Again):
        for _ in range(REQUESTS_AT_ONCE):
            yield sock.recv_multipart(zmq.DONTWAIT, copy=False)


def configure(sock: zmq.Socket[bytes], queue: int) -> None:
    """Set up a socket that strangers connect to; before it is bound."""
    sock.setsockopt(zmq.SNDHWM, queue)
    sock.setsockopt(zmq.RCVHWM, 1000)  # subscriptions and requests, each of at most MAXMSGSIZE
    sock.setsockopt(zmq.MAXMSGSIZE, 4096)  # of what comes in: a topic prefix each
    sock.setsockopt(zmq.SNDBUF, 64 << 10)  # what the kernel holds back makes a slow reader's masks older
    sock.setsockopt(zmq.HANDSHAKE_IVL, 5_000)
    notice_dead_peers(sock)
