"""Receive masks: always the newest of each stream, with its age.

    with subscribe("tcp://127.0.0.1:5570") as masks:
        for mask in masks:
            print(mask.stream, mask.seq, masks.age_s(mask))

A thread of its own empties the socket all the time, since ZeroMQ's and the kernel's buffers would otherwise
hold seconds of old masks in front of the new ones. Masks are unpacked in the thread that reads them.
"""

from streamseg.client.documents import (
    DocumentStats,
    DocumentSubscription,
    subscribe_polygons,
    subscribe_zones,
)
from streamseg.client.events import (
    AsyncEventSubscription,
    EventStats,
    EventSubscription,
    subscribe_events,
    subscribe_events_async,
)
from streamseg.client.inbox import ClientStats
from streamseg.client.subscription import AsyncSubscription, Subscription, subscribe, subscribe_async
from streamseg.net.curve_keys import ClientKeys

__all__ = [
    "AsyncEventSubscription",
    "AsyncSubscription",
    "ClientKeys",
    "ClientStats",
    "DocumentStats",
    "DocumentSubscription",
    "EventStats",
    "EventSubscription",
    "Subscription",
    "subscribe",
    "subscribe_async",
    "subscribe_events",
    "subscribe_events_async",
    "subscribe_polygons",
    "subscribe_zones",
]
