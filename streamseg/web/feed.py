"""What the daemon publishes, taken in for those streams that somebody looks at."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

import zmq
import zmq.asyncio

from streamseg.errors import WireError
from streamseg.net.client_keys import ClientKeys
from streamseg.net.options import notice_dead_peers
from streamseg.types import LabelSet, Preview
from streamseg.web.frames import Shown
from streamseg.wire import (
    MAX_PART,
    MaskMessage,
    TopicKind,
    parse_message,
    parse_picture,
    parse_snapshot_reply,
    snapshot_request,
    topic_of,
)

log = logging.getLogger(__name__)

MASKS_WAITING = 32  # of a stream, for their pictures
PICTURES_KEPT = 90  # of a stream whose refinements are watched: they come later than the masks
ALONE_AFTER_S = 0.5  # a mask that has waited so long for its picture is shown without

_Frame = tuple[int, int, int]  # run, epoch, seq


@dataclass(slots=True)
class _Watched:
    """One stream that somebody looks at."""

    watchers: int = 0
    refined_watchers: int = 0
    masks: OrderedDict[_Frame, MaskMessage] = field(default_factory=OrderedDict)
    pictures: OrderedDict[_Frame, Preview] = field(default_factory=OrderedDict)
    last: Shown | None = None


class Feed:
    """Owns the SUB socket and the snapshot DEALER. Belongs to one event loop.

    `on_shown(stream, shown)` is called for each mask of a watched stream, when its picture is here, too;
    `on_labels` for each label set.
    """

    def __init__(self, on_shown: Callable[[str, Shown], None], on_labels: Callable[[LabelSet], None]) -> None:
        self.label_sets: dict[str, LabelSet] = {}
        self.bad = 0  # messages that break the protocol
        self._on_shown = on_shown
        self._on_labels = on_labels
        self._watched: dict[str, _Watched] = {}
        self._context = zmq.asyncio.Context()
        self._masks = self._socket(zmq.SUB)
        self._snapshots = self._socket(zmq.DEALER)
        self._masks.subscribe(b"labels/")
        self._tasks: list[asyncio.Task[None]] = []

    def connect(self, masks: str, snapshots: str, keys: ClientKeys | None) -> None:
        """Begin to receive; what is watched already is subscribed to at once."""
        for sock, endpoint in ((self._masks, masks), (self._snapshots, snapshots)):
            if keys is not None:
                keys.use(sock)
            sock.setsockopt(zmq.IPV6, int(endpoint.startswith("tcp://[")))
            sock.connect(endpoint)
        self._tasks = [
            asyncio.create_task(self._receive_masks()),
            asyncio.create_task(self._receive_snapshots()),
        ]
        for stream in self._watched:
            self._ask_snapshot(stream)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._masks.close(linger=0)
        self._snapshots.close(linger=0)
        self._context.term()

    def watch(self, stream: str, *, refined: bool) -> None:
        """Take one more watcher of a stream in; the last mask comes at once, where there is one."""
        watched = self._watched.setdefault(stream, _Watched())
        watched.watchers += 1
        if watched.watchers == 1:
            self._subscribe("mask", stream)
            self._subscribe("picture", stream)
            self._ask_snapshot(stream)
        elif watched.last is not None:
            self._on_shown(stream, watched.last)
        watched.refined_watchers += refined
        if refined and watched.refined_watchers == 1:
            self._subscribe("refined", stream)

    def unwatch(self, stream: str, *, refined: bool) -> None:
        """One watcher less; after the last one nothing of the stream is sent to us, nor made."""
        watched = self._watched[stream]
        watched.refined_watchers -= refined
        if refined and watched.refined_watchers == 0:
            self._masks.unsubscribe(topic_of("refined", stream))
        watched.watchers -= 1
        if watched.watchers == 0:
            self._masks.unsubscribe(topic_of("mask", stream))
            self._masks.unsubscribe(topic_of("picture", stream))
            del self._watched[stream]

    def _ask_snapshot(self, stream: str) -> None:
        """Ask for the last mask, once we are connected; without an answer the next mask will do."""
        if self._tasks:
            request = snapshot_request([b"labels/", topic_of("mask", stream)])
            sent = asyncio.ensure_future(self._snapshots.send_multipart(request, zmq.DONTWAIT))
            sent.add_done_callback(lambda done: done.exception())  # full of requests: then there is none

    def _subscribe(self, kind: TopicKind, stream: str) -> None:
        self._masks.subscribe(topic_of(kind, stream))

    async def _receive_masks(self) -> None:
        while True:
            parts = await self._masks.recv_multipart()
            try:
                self._take(parts, snapshot=False)
            except WireError as error:
                self._count_bad(error)

    async def _receive_snapshots(self) -> None:
        while True:
            parts = await self._snapshots.recv_multipart()
            try:
                for message in parse_snapshot_reply(parts):
                    self._take(message, snapshot=True)
            except WireError as error:
                self._count_bad(error)

    def _count_bad(self, error: WireError) -> None:
        self.bad += 1
        log.debug("console: a message was left out: %s", error)

    def _take(self, parts: list[bytes], *, snapshot: bool) -> None:
        if parts and parts[0].startswith(b"picture/"):
            self._take_picture(parse_picture(parts))
            return
        message = parse_message(parts)
        if isinstance(message, LabelSet):
            if self.label_sets.get(message.id) != message:
                self.label_sets[message.id] = message
                self._on_labels(message)
            return
        watched = self._watched.get(message.stream)
        if watched is None:
            return
        if message.header.revision == 1:
            frame = _frame(message)
            self._show(watched, Shown(message.decode(), watched.pictures.get(frame)))
        elif snapshot:
            if watched.last is None and not watched.masks:
                self._show(watched, Shown(message.decode(), None))
        else:
            self._take_mask(watched, message)

    def _take_mask(self, watched: _Watched, message: MaskMessage) -> None:
        watched.masks[_frame(message)] = message
        while len(watched.masks) > MASKS_WAITING:
            watched.masks.popitem(last=False)
        asyncio.get_running_loop().call_later(ALONE_AFTER_S, self._show_alone, watched, _frame(message))

    def _show_alone(self, watched: _Watched, frame: _Frame) -> None:
        """Show a mask whose picture has not come, unless a later one's has."""
        if frame in watched.masks and watched.watchers:
            self._show(watched, Shown(_taken(watched, frame).decode(), None))

    def _take_picture(self, picture: Preview) -> None:
        watched = self._watched.get(picture.stream)
        if watched is None:
            return
        frame = (picture.run, picture.epoch, picture.seq)
        watched.pictures[frame] = picture
        while len(watched.pictures) > (PICTURES_KEPT if watched.refined_watchers else 1):
            watched.pictures.popitem(last=False)
        if frame in watched.masks:
            self._show(watched, Shown(_taken(watched, frame).decode(), picture))

    def _show(self, watched: _Watched, shown: Shown) -> None:
        if shown.mask.revision == 0:
            watched.last = shown
        self._on_shown(shown.mask.stream, shown)

    def _socket(self, kind: int) -> zmq.asyncio.Socket:
        sock = self._context.socket(kind)
        sock.setsockopt(zmq.RCVHWM, 64)
        sock.setsockopt(zmq.SNDHWM, 0)  # libzmq drops the subscriptions that find no room
        sock.setsockopt(zmq.MAXMSGSIZE, MAX_PART)
        sock.setsockopt(zmq.RECONNECT_IVL_MAX, 2_000)
        notice_dead_peers(sock)
        return sock


def _taken(watched: _Watched, frame: _Frame) -> MaskMessage:
    """Take a waiting mask out, and those before it, which are shown no more."""
    while True:
        waiting, message = watched.masks.popitem(last=False)
        if waiting == frame:
            return message


def _frame(message: MaskMessage) -> _Frame:
    header = message.header
    return header.run, header.epoch, header.seq
