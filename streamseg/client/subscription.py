"""The two forms of a subscription, for threads and for asyncio."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

from streamseg.client.inbox import LOOK_EVERY_S, ClientStats, Inbox
from streamseg.client.reading import AsyncReading, Reading, ThreadReading, arrivals
from streamseg.client.receiver import Receiver
from streamseg.net.curve_keys import ClientKeys, client_keys
from streamseg.types import LabelSet, Mask, Preview
from streamseg.wire import StreamStatus


def subscribe(
    endpoint: str,
    streams: Sequence[str] | None = None,
    *,
    refined: bool = False,
    confidence: bool = False,
    pictures: bool = False,
    statuses: bool = False,
    newest: bool = True,
    snapshot: bool | str = True,
    queue: int = 64,
    timeout_s: float | None = None,
    server_key: str | Path | None = None,
    client_key_file: str | Path | None = None,
    keys: ClientKeys | None = None,
) -> Subscription:
    """Receive the masks of these streams (all, when None) from a daemon.

    Raises UsageError for a bad endpoint. Waits for a daemon that does not run yet, stops or restarts.
    An unchanged frame gives the mask that holds with its own stamp and times, and same_as set; the arrays
    are those of that mask.
    refined adds revision 1 of keyframes; confidence fills Mask.confidence; pictures lets picture() have the
    frames that masks belong to, as JPEG; statuses lets status() give the state of streams. newest hands out
    only the newest mask of each stream; otherwise all come in order, and of more than `queue` waiting ones
    the oldest are dropped and counted. snapshot asks for the last masks on connecting; a text is the
    endpoint to ask at, when it is not the default one. Reading raises TimeoutError when no mask comes for
    timeout_s.

    Where the daemon requires keys: server_key is its public key, or the file that holds it; client_key_file
    holds our secret one; keys gives both without files. A refusal by the daemon is logged, and tried again.
    """
    keys = keys or client_keys(server_key, client_key_file)
    inbox = Inbox(streams, newest=newest, queue=queue)
    topics = _topics(streams, refined=refined, confidence=confidence, pictures=pictures, statuses=statuses)
    return Subscription(_receiver(endpoint, topics, snapshot, inbox, keys), inbox, timeout_s)


def subscribe_async(
    endpoint: str,
    streams: Sequence[str] | None = None,
    *,
    refined: bool = False,
    confidence: bool = False,
    pictures: bool = False,
    statuses: bool = False,
    newest: bool = True,
    snapshot: bool | str = True,
    queue: int = 64,
    timeout_s: float | None = None,
    server_key: str | Path | None = None,
    client_key_file: str | Path | None = None,
    keys: ClientKeys | None = None,
) -> AsyncSubscription:
    """subscribe() for asyncio: `async for mask in subscribe_async(…)`; the event loop must be running."""
    arrived, on_arrival = arrivals()
    keys = keys or client_keys(server_key, client_key_file)
    inbox = Inbox(streams, newest=newest, queue=queue, on_arrival=on_arrival)
    topics = _topics(streams, refined=refined, confidence=confidence, pictures=pictures, statuses=statuses)
    return AsyncSubscription(_receiver(endpoint, topics, snapshot, inbox, keys), inbox, timeout_s, arrived)


def _receiver(
    endpoint: str, topics: list[bytes], snapshot: bool | str, inbox: Inbox, keys: ClientKeys | None
) -> Receiver:
    """The thread behind a subscription; of streams that were named it also finds out whether they exist."""
    look = (LOOK_EVERY_S, inbox.look)
    return Receiver(endpoint, topics, snapshot, inbox, keys, unknown=inbox.unknown, look=look)


class _Subscription(Reading[Mask]):
    """What both forms have in common."""

    def __init__(self, receiver: Receiver, inbox: Inbox, timeout_s: float | None) -> None:
        super().__init__(receiver, timeout_s)
        self._inbox = inbox

    @property
    def stats(self) -> ClientStats:
        return self._inbox.stats

    def latest(self, stream: str) -> Mask | None:
        """The newest mask of a stream that has come, whether it was read or not; does not use it up."""
        return self._inbox.latest(stream)

    def unchanged(self, stream: str) -> int:
        """How many unchanged frames of a stream have come, read or not; they have no n of their own."""
        return self._inbox.unchanged(stream)

    @staticmethod
    def age_s(mask: Mask) -> float:
        """Seconds since the frame was captured, by this machine's clock against mask.clock."""
        return (time.time_ns() - mask.captured_unix_ns) / 1e9

    def _take(self, timeout_s: float | None) -> Mask:
        return self._inbox.take(timeout_s)

    def _none_came(self, timeout_s: float | None) -> str:
        why = self._inbox.unknown.text or f"no mask came for {timeout_s or 0:g} s"
        return f"{self._receiver.endpoint}: {why}"


class Subscription(_Subscription, ThreadReading[Mask]):
    """An iterator of masks, and a context manager. Reading waits; it ends when close() is called."""

    def label_set(self, id: str, timeout_s: float = 5.0) -> LabelSet:
        """The names and colours of mask.label_set, waiting for them; raises TimeoutError or Closed."""
        return self._inbox.label_set(id, timeout_s)

    def status(self, stream: str, timeout_s: float = 5.0) -> StreamStatus:
        """The last status of a stream, waiting for the first; needs statuses=True.

        It comes once a second. Raises TimeoutError, also for an unknown stream, or Closed.
        """
        return self._inbox.status(stream, timeout_s)

    def picture(self, mask: Mask, timeout_s: float = 1.0) -> Preview | None:
        """The frame of a mask, waiting for it; needs pictures=True.

        None when the daemon left it out, since newer frames came, or when it does not come in time.
        """
        return self._inbox.picture(mask, timeout_s)


class AsyncSubscription(_Subscription, AsyncReading[Mask]):
    """Masks for `async for`; `async with` closes it at a known moment. Belongs to one event loop."""

    def __init__(
        self, receiver: Receiver, inbox: Inbox, timeout_s: float | None, arrived: asyncio.Event
    ) -> None:
        super().__init__(receiver, inbox, timeout_s)
        self._arrived = arrived

    async def label_set(self, id: str, timeout_s: float = 5.0) -> LabelSet:
        """The names and colours of mask.label_set, waiting for them; raises TimeoutError or Closed."""
        return await asyncio.to_thread(self._inbox.label_set, id, timeout_s)

    async def status(self, stream: str, timeout_s: float = 5.0) -> StreamStatus:
        """The last status of a stream, waiting for the first; needs statuses=True."""
        return await asyncio.to_thread(self._inbox.status, stream, timeout_s)

    async def picture(self, mask: Mask, timeout_s: float = 1.0) -> Preview | None:
        """The frame of a mask, waiting for it; needs pictures=True. None where it has none."""
        return await asyncio.to_thread(self._inbox.picture, mask, timeout_s)


def _topics(
    streams: Sequence[str] | None, *, refined: bool, confidence: bool, pictures: bool, statuses: bool
) -> list[bytes]:
    """The topic prefixes to subscribe to and to ask a snapshot of; label sets always."""
    kinds = ["mask+confidence" if confidence else "mask"] + ["refined"] * refined
    kinds += ["same"]  # unchanged frames of either
    kinds += ["picture"] * pictures + ["status"] * statuses
    names = [""] if streams is None else [f"{stream}/" for stream in streams]
    return [b"labels/", *(f"{kind}/{name}".encode() for kind in kinds for name in names)]
