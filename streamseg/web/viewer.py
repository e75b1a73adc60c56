"""One browser: the tiles that it shows, and what is on its way to it.

The page acknowledges what it has drawn. Of each tile two frames at most are on their way, and the newest
waits here for its turn: a slow browser sees fewer frames, never old ones.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from streamseg.types import U8
from streamseg.web.feed import Feed
from streamseg.web.frames import Shown

ON_THEIR_WAY = 2  # frames of one tile
MAX_TILES = 256
MAX_TEXTS = 256  # waiting to be sent; a browser that reads none of them is disconnected

FORM_FIELDS = frozenset({"source", "realtime", "loop", "max_fps"})  # of a stream that a page adds
ZONE_FIELDS = frozenset({"zones", "events"})

Name = Annotated[str, Meta(min_length=1, max_length=64)]
_Slot = tuple[str, int]  # stream, revision


class Tile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A visible tile: its width in device pixels, and what is wanted beside the masks."""

    width: Annotated[int, Meta(ge=1, le=16384)] = 640
    refined: bool = False  # revision 1
    shares: bool = False  # what is counted in its zones

    @property
    def wants(self) -> tuple[bool, bool]:
        return self.refined, self.shares


class Watch(msgspec.Struct, frozen=True, tag_field="type", tag="watch"):
    """All visible tiles; replaces the earlier ones."""

    tiles: Annotated[dict[Name, Tile], Meta(max_length=MAX_TILES)]
    hidden: bool = False  # the page is in the background


class Drawn(msgspec.Struct, frozen=True, tag_field="type", tag="drawn"):
    """A frame of a tile was drawn (or dropped)."""

    stream: Name
    revision: Literal[0, 1] = 0


class Ping(msgspec.Struct, frozen=True, tag_field="type", tag="ping"):
    """Sent back at once, with our clock."""

    at: float


class Do(msgspec.Struct, frozen=True, tag_field="type", tag="do"):
    """A request for the daemon."""

    id: int
    what: Literal["add", "remove", "pause", "resume", "keyframe", "zones", "toml", "engines", "engine"]
    stream: Name
    settings: Annotated[dict[str, Any], Meta(max_length=32)] = {}

    def problems(self) -> list[str]:
        """The settings that a page may not set: its form has no field for them."""
        if self.what in ("zones", "toml"):
            unknown = [key for key in self.settings if key not in ZONE_FIELDS]
            wrong = [key for key, value in self.settings.items() if not isinstance(value, dict)]
            return [f"{key[:40]!r}: must be a table of zones or events" for key in {*unknown, *wrong}]
        if self.what == "engine" and (
            list(self.settings) != ["engine"] or type(self.settings["engine"]) is not str
        ):
            return ["engine: must be the name of a network"]
        return [
            f"{key[:40]!r}: cannot be set in the console; see streamseg ctl add on the daemon's machine"
            for key in self.settings
            if key not in FORM_FIELDS and self.what != "engine"
        ]


PageMessage = Watch | Drawn | Ping | Do
_decoder: msgspec.json.Decoder[PageMessage] = msgspec.json.Decoder(PageMessage)


def parse_page_message(text: str) -> PageMessage:
    """Read a message of the page; raises msgspec.MsgspecError."""
    try:
        return _decoder.decode(text)
    except RecursionError:
        raise msgspec.DecodeError("is nested too deeply") from None


class Slow(Exception):
    """The browser does not read."""


class Viewer:
    """The tiles that one browser shows. Belongs to the event loop of its feed."""

    def __init__(self, feed: Feed) -> None:
        self.hidden = False
        self._feed = feed
        self._tiles: dict[str, Tile] = {}
        self._slots: dict[_Slot, Shown] = {}
        self._on_their_way: dict[_Slot, int] = {}
        self._sent: dict[_Slot, tuple[U8, int]] = {}  # the labels that the page has, and their step
        self._turns: dict[_Slot, int] = {}  # the turn at which a slot was last served
        self._turn = 0
        self._texts: deque[str] = deque()
        self._shares: dict[str, dict[str, Any]] = {}  # the newest of each stream
        self._changed = asyncio.Event()

    def send(self, message: dict[str, Any]) -> None:
        """Queue a JSON text; raises Slow when too many wait."""
        if len(self._texts) >= MAX_TEXTS:
            raise Slow
        self._texts.append(msgspec.json.encode(message).decode())
        self._changed.set()

    def show(self, stream: str, shown: Shown) -> None:
        """Queue a mask for its tile; a newer one replaces it."""
        tile = self._tiles.get(stream)
        if tile is not None and (tile.refined or shown.mask.revision == 0):
            self._slots[stream, shown.mask.revision] = shown
            self._changed.set()

    def show_shares(self, stream: str, message: dict[str, Any]) -> None:
        """Queue what was counted in a stream's zones; a newer one replaces it."""
        tile = self._tiles.get(stream)
        if tile is not None and tile.shares:
            self._shares[stream] = message
            self._changed.set()

    def watch(self, watch: Watch) -> None:
        """Receive these tiles, and no others."""
        self.hidden = watch.hidden
        before, self._tiles = self._tiles, dict(watch.tiles)
        for stream, tile in watch.tiles.items():
            if stream not in before:
                self._forget(stream)
            if tile.wants != _wants(before.get(stream)):
                self._feed.watch(stream, *tile.wants)
        for stream, tile in before.items():
            if stream not in watch.tiles:
                self._forget(stream)
            if tile.wants != _wants(watch.tiles.get(stream)):
                self._feed.unwatch(stream, *tile.wants)

    def drawn(self, drawn: Drawn) -> None:
        slot = (drawn.stream, drawn.revision)
        self._on_their_way[slot] = max(0, self._on_their_way.get(slot, 0) - 1)
        self._changed.set()

    def close(self) -> None:
        self.watch(Watch(tiles={}))

    async def next(self) -> str | list[bytes]:
        """Wait for what to send next: a text, or the messages of one frame."""
        while True:
            self._changed.clear()  # before looking, so that nothing is missed in between
            if self._texts:
                return self._texts.popleft()
            if self._shares:
                return msgspec.json.encode(self._shares.pop(next(iter(self._shares)))).decode()
            ready = [slot for slot in self._slots if self._on_their_way.get(slot, 0) < ON_THEIR_WAY]
            if ready:
                slot = min(ready, key=lambda s: self._turns.get(s, -1))
                self._turn += 1
                self._turns[slot] = self._turn
                self._on_their_way[slot] = self._on_their_way.get(slot, 0) + 1
                return self._messages(slot, self._slots.pop(slot))
            await self._changed.wait()

    def _messages(self, slot: _Slot, shown: Shown) -> list[bytes]:
        """A frame as its tile gets it, without the labels where they are those that it got last."""
        step, (labels, before) = shown.step(self._tiles[slot[0]].width), self._sent.get(slot, (None, 0))
        kept = shown.mask.same_as is not None and labels is shown.mask.labels and step == before
        self._sent[slot] = shown.mask.labels, step
        return shown.messages(step, kept=kept)

    def _forget(self, stream: str) -> None:
        self._shares.pop(stream, None)
        for revision in (0, 1):
            for table in (self._slots, self._on_their_way, self._turns, self._sent):
                table.pop((stream, revision), None)


def _wants(tile: Tile | None) -> tuple[bool, bool] | None:
    return None if tile is None else tile.wants
