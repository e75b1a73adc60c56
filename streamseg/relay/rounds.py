"""Snapshot requests at a relay, gathered in rounds, so that daemons are asked once for many. No sockets."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from streamseg.net.mask_sockets import Asker
from streamseg.wire import MAX_PREFIXES, kept_events, replied_events

MAX_WAITING = 1024  # clients; more get no answer, and may ask again
ANSWER_WITHIN_S = 0.5  # what a daemon has not sent by then is left out
PAUSE_S = 0.02  # between two rounds, so that many clients cost the daemons little

EVENTS = b"event/"

Message = list[bytes]


@dataclass(slots=True)
class _Client:
    asker: Asker
    prefixes: list[bytes]


@dataclass(slots=True)
class _Round:
    clients: list[_Client]
    waiting_for: set[int]
    deadline_s: float
    found: dict[bytes, list[Message]] = field(default_factory=dict)  # by topic; of events there are many


class Rounds:
    """One round after the other; a request that comes during one is in the next. Used by one thread."""

    def __init__(self) -> None:
        self._waiting: deque[_Client] = deque()
        self._round: _Round | None = None
        self._begin_at_s = 0.0

    @property
    def running(self) -> bool:
        return self._round is not None

    def wait_s(self, now_s: float, at_most_s: float) -> float:
        """How long there is nothing to do."""
        if self._round is not None:
            return (
                max(0.0, min(at_most_s, self._round.deadline_s - now_s)) if self._round.waiting_for else 0.0
            )
        return max(0.001, min(at_most_s, self._begin_at_s - now_s)) if self._waiting else at_most_s

    def ask(self, asker: Asker, prefixes: list[bytes]) -> bool:
        """Add a client's request; False where too many wait."""
        if len(self._waiting) >= MAX_WAITING:
            return False
        self._waiting.append(_Client(asker, prefixes))
        return True

    def begin(self, upstreams: Collection[int], now_s: float) -> Iterator[list[bytes]]:
        """Start a round when requests wait: yields the prefixes to ask those daemons for, once."""
        if self._round is not None or not self._waiting or now_s < self._begin_at_s:
            return
        clients, prefixes = [], set[bytes]()
        while self._waiting:
            more = prefixes | set(self._waiting[0].prefixes)
            if len(more) > MAX_PREFIXES:
                break
            prefixes = more
            clients.append(self._waiting.popleft())
        self._round = _Round(clients, set(upstreams), now_s + ANSWER_WITHIN_S)
        self._begin_at_s = now_s + PAUSE_S
        yield sorted(prefixes)

    def answer(self, upstream: int, messages: list[Message]) -> None:
        """Add a daemon's answer."""
        if self._round is not None:
            self._round.waiting_for.discard(upstream)
            found: dict[bytes, list[Message]] = {}
            for message in messages:
                found.setdefault(message[0], []).append(message)
            self._round.found |= found

    def answered(self, now_s: float) -> Iterator[tuple[Asker, list[Message]]]:
        """Each client with what it asked for, once all daemons have answered or are late."""
        over = self._round
        if over is None or (over.waiting_for and now_s < over.deadline_s):
            return
        self._round = None
        # Label sets first, as at a daemon.
        topics = sorted(over.found, key=lambda topic: not topic.startswith(b"labels/"))
        for client in over.clients:
            chosen = [topic for topic in topics if any(topic.startswith(p) for p in client.prefixes)]
            events = [over.found[topic] for topic in chosen if topic.startswith(EVENTS)]
            others = [over.found[topic][-1] for topic in chosen if not topic.startswith(EVENTS)]
            yield client.asker, [*others, *replied_events([kept_events(one) for one in events])]
