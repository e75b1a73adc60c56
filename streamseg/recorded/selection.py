"""Which decoded pictures are taken, and where the work is cut into segments: by the source alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction

from streamseg.recorded.settings import ProcessConfig
from streamseg.sources.reading import DecodedPicture, OpenSource, note_damage, pictures

LONGEST_SEGMENT = 4
"""In segment_frames: a segment ends after so many even without an intra frame."""

BEYOND_END = 25
"""Pictures in a row at or behind end_s after which no more are read: one alone may bear a wrong time."""

MAX_LOSSES = 1000


@dataclass(frozen=True, slots=True, eq=False)
class Pick:
    """A picture that gets a mask: the seq-th decoded of the file, in segment `segment`."""

    picture: DecodedPicture
    seq: int
    segment: int


@dataclass(slots=True, eq=False)
class Account:
    """What a source gave, what was lost, and where; complete when its pictures have ended."""

    decoded: int = 0
    taken: int = 0
    corrupt: int = 0
    line: str | None = None
    at_s: list[float] = field(default_factory=list)  # times of the pictures after each loss, up to MAX_LOSSES


def picks(
    source: OpenSource, config: ProcessConfig, account: Account, stop: threading.Event | None = None
) -> Iterator[Pick]:
    """Yield the pictures that `config` takes, each with its segment; `account` is filled in on the way.

    source: as open_input gives it, at or before start_s.

    A segment ends before the first intra frame after segment_frames pictures, or after four times as many.
    Only the source and `config` decide, so a second run cuts at the same places.
    """
    select = _Selection(source, config)
    beyond = segment = taken = 0
    for picture in pictures(source, stop if stop is not None else threading.Event()):
        seq, account.decoded = account.decoded, account.decoded + 1
        time_s = picture.time_s
        if source.corrupt > account.corrupt:
            account.corrupt = source.corrupt
            if len(account.at_s) < MAX_LOSSES:
                account.at_s.append(round(float(time_s), 3))
        beyond = beyond + 1 if select.behind(time_s) else 0
        if beyond == BEYOND_END:
            note_damage(source, ended=False)
            break
        if not select(time_s):
            continue
        full = taken >= config.segment_frames and picture.image.key_frame
        if full or taken >= LONGEST_SEGMENT * config.segment_frames:
            segment, taken = segment + 1, 0
        taken += 1
        account.taken += 1
        yield Pick(picture, seq, segment)
    account.corrupt, account.line = source.corrupt, source.damage


def as_written(value: float) -> Fraction:
    """The decimal as written: 0.4 as a float is above 2/5, where a frame may be."""
    return Fraction(repr(value))


class _Selection:
    """start_s, end_s, every and max_fps: whether a picture is taken. Rates count from the first one taken."""

    def __init__(self, source: OpenSource, config: ProcessConfig) -> None:
        self.config = config
        # 0 is the default, and no wish: time stamps may lie below it (a clock that wraps, an edit list).
        self.start_s = as_written(config.start_s) if config.start_s else None
        self.end_s = None if config.end_s is None else as_written(config.end_s)
        self.eligible = 0  # pictures since start_s
        self.spacing = None if config.max_fps is None else 1 / as_written(config.max_fps)
        self.next_s: Fraction | None = None
        # Time stamps are rounded: half a tick, or a 30 fps video asked for at 30 loses every other frame.
        self.slack = (source.video.time_base or Fraction(0)) / 2

    def behind(self, time_s: Fraction) -> bool:
        """Whether a picture lies at or behind end_s."""
        return self.end_s is not None and time_s >= self.end_s

    def __call__(self, time_s: Fraction) -> bool:
        if self.behind(time_s) or (self.start_s is not None and time_s < self.start_s):
            return False
        self.eligible += 1
        if (self.eligible - 1) % self.config.every:
            return False
        if self.spacing is not None:
            if self.next_s is not None and time_s + 1 + self.spacing < self.next_s:
                self.next_s = None  # the time stamps begin again
            if self.next_s is not None and time_s + self.slack < self.next_s:
                return False
            # On a grid from the first picture, so that rounding does not add up.
            self.next_s = time_s if self.next_s is None else self.next_s
            while self.next_s <= time_s + self.slack:
                self.next_s += self.spacing
        return True
