"""A live source, for a stream's decode thread: paced, looped, rate-limited and reconnected."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from fractions import Fraction
from functools import partial

from av.video.frame import VideoFrame

from streamseg.config import StreamConfig
from streamseg.config.redact import redact
from streamseg.errors import SourceEnded, SourceError
from streamseg.runtime.backoff import Backoff
from streamseg.sources.edge import COUNTED_FPS
from streamseg.sources.events import (
    Connected,
    Corrupt,
    Decoding,
    Disconnected,
    Ended,
    Polled,
    SkipFrames,
    Skipped,
    SourceEvent,
    Unskippable,
)
from streamseg.sources.frames import FrameMaker
from streamseg.sources.jpeg import Needed
from streamseg.sources.opening import WEB, open_source
from streamseg.sources.reading import OpenSource, pictures
from streamseg.sources.skipping import DecodeLess
from streamseg.sources.target import resolve
from streamseg.types import DEFAULT_SETTINGS, Frame, FrameSettings

log = logging.getLogger(__name__)

STILLS = ("mjpeg", "png", "webp", "bmp", "gif", "tiff", "jpeg2000")
"""Codecs of cameras that give one picture for each request, by FFmpeg's names."""

POLLS_PER_S = 1.0
"""How often such a camera is asked where max_fps does not say it."""

GOOD_FRAMES = 25
"""Frames of one connection after which a source counts as working and the next pause is short again."""


Opening = Callable[..., AbstractContextManager[OpenSource]]
"""open_source with the settings of a stream."""


def frames(
    config: StreamConfig,
    stream: str,
    stop: threading.Event,
    on_event: Callable[[SourceEvent], None],
    first_epoch: int = 0,
    settings: Callable[[], FrameSettings] = lambda: DEFAULT_SETTINGS,
    current: Callable[[], StreamConfig] | None = None,
    streams: Callable[[], int] = lambda: 1,
    needed: Needed | None = None,
) -> Iterator[Frame]:
    """Yield a stream's frames until its file ends or `stop` is set; a live source is reconnected each time.

    Blocks while connecting, reading and pacing; run it in the thread that may block. `stop` is noticed within
    0.1 s while connecting, waiting and pacing, and within timeout_s while a source that fell silent is read.
    Each connection, and each round of a looped file, is an epoch; they count from first_epoch. on_event is
    called in this thread; settings, too, for each frame. current: the stream's settings now: of them, max_fps
    and skip_frames are taken while the source is read. streams: how many are decoded in this process.
    needed: how small JPEGs may be decoded.
    Raises SourceError when a file cannot be opened, or an address can never work. Other errors
    while a live source is read are treated as the source's failure: it is tried again.
    """
    told: SourceEvent | None = None

    def report(event: SourceEvent) -> None:
        nonlocal told
        if isinstance(event, Decoding | Unskippable):
            if event == told:  # in the round, or the connection, before
                return
            told = event
        on_event(event)

    restarts = resolve(config.source).kind != "file"
    backoff = Backoff()
    epoch = first_epoch
    rounds = 0
    endless = False
    while not stop.is_set():
        good = 0
        try:
            opened = partial(open_source, config, stream, stop, needed=needed, report=report)
            with opened(endless=endless, streams=streams()) as source:
                endless = source.endless and source.codec not in STILLS
                if rounds == 0:
                    on_event(_connected(source, epoch))
                maker = FrameMaker(source, stream, epoch, settings)
                for frame in _play(source, current or (lambda: config), maker, stop, opened):
                    good += 1
                    if good == GOOD_FRAMES:
                        backoff.reset()
                    yield frame
                epoch += 1
                if stop.is_set():
                    return
                if not config.loop or (source.damage and rounds == 0):
                    on_event(Ended(source.damage))
                if not config.loop:
                    return
                rounds += 1
                continue
        except SourceError as error:
            if stop.is_set():
                return
            looped = config.loop and epoch > first_epoch  # a file that was there, and will be again
            if not (restarts or looped) or (not config.retry_at_start and epoch == first_epoch and not good):
                raise
            reason = str(error)
        except Exception as error:
            if stop.is_set() or not restarts:
                raise
            log.debug("%s: failed inside", stream, exc_info=error)
            reason = redact(f"failed inside: {type(error).__name__}: {error}")
        epoch += good > 0
        rounds = 0
        pause_s = backoff.pause_s()
        on_event(Disconnected(reason, pause_s))
        stop.wait(pause_s)


def _connected(source: OpenSource, epoch: int) -> Connected:
    return Connected(source.url, source.size, source.fps, source.codec, source.live, epoch)


def _shown_s(source: OpenSource, image: VideoFrame) -> float:
    """For how long a picture is shown, by itself or by the rate of its source."""
    if image.duration and image.time_base:
        return float(image.duration * image.time_base)
    return float(1 / (source.fps or COUNTED_FPS))


def _less(source: OpenSource, current: Callable[[], StreamConfig]) -> DecodeLess:
    """What leaves out packets of a source. Of a file that waits for its reader, only what is asked for."""

    live = source.live  # not the source, which holds what is made here: its decoder ends with it

    def wanted() -> tuple[SkipFrames, float | None]:
        config = current()
        mode = config.skip_frames
        return "none" if mode == "auto" and not live else mode, config.max_fps

    timed = source.edge is None or source.edge.timed
    held = max(0, source.reached.packets - len(source.pending))
    return DecodeLess(source.decoder, source.codec, wanted, source.report, source.url, timed=timed, held=held)


class Thinning:
    """Lets at most max_fps pictures a second through, evenly; jitter of up to one period evens out."""

    def __init__(self, max_fps: float | None) -> None:
        self.period_s = 1.0 / max_fps if max_fps else 0.0
        self.due_s: float | None = None

    def take(self, max_fps: float | None) -> None:
        """Another rate from now on."""
        period_s = 1.0 / max_fps if max_fps else 0.0
        if period_s == self.period_s:
            return
        if self.due_s is not None:
            last_s = self.due_s - self.period_s
            self.due_s = last_s + period_s if self.period_s and period_s else None
        self.period_s = period_s

    def takes(self, now_s: float) -> bool:
        """Whether the picture of this moment is one to keep; a clock that ran backwards starts again."""
        if not self.period_s:
            return True
        if self.due_s is None or now_s < self.due_s - 2 * self.period_s:
            self.due_s = now_s
        if now_s < self.due_s - 1e-6:  # PTS times are rounded
            return False
        self.due_s = max(self.due_s + self.period_s, now_s - self.period_s)
        return True


class Pacer:
    """Holds a file's pictures back until their PTS is due on the monotonic clock.

    A PTS that jumps back, or ahead by more than JUMP_S, is taken as the new start rather than waited for; so
    is one that comes more than LATE_S late, because the source had stalled.
    """

    JUMP_S, LATE_S = 10.0, 1.0

    def __init__(self, stop: threading.Event) -> None:
        self.stop = stop
        self.start_s: float | None = None  # monotonic time of PTS 0
        self.last_s = 0.0

    def wait(self, pts_s: float) -> None:
        """Block until the picture is due, or stopped; one that is late passes at once."""
        if self.start_s is None or not 0 <= pts_s - self.last_s <= self.JUMP_S:
            self.start_s = time.monotonic() - pts_s
        self.last_s = pts_s
        ahead_s = self.start_s + pts_s - time.monotonic()
        if ahead_s > 0:
            self.stop.wait(ahead_s)
        elif ahead_s < -self.LATE_S:
            self.start_s = time.monotonic() - pts_s

    def finish(self, shown_s: float) -> None:
        """Block until the last picture has been shown for its time, or stopped: then a next round is due."""
        if self.start_s is not None:
            self.stop.wait(max(0.0, self.start_s + self.last_s + shown_s - time.monotonic()))


def _play(
    source: OpenSource,
    current: Callable[[], StreamConfig],
    maker: FrameMaker,
    stop: threading.Event,
    again: Opening,
) -> Iterator[Frame]:
    """The frames of one connection; with one picture for each connection, those of all that follow.

    again: opens the source once more.
    """
    opened_s = time.monotonic()
    one = False
    try:
        for frame in _read(source, current, maker, stop):
            one = maker.seq == 1
            yield frame
    except SourceEnded:
        if not (one and source.over and _gives_stills(source)):
            raise
    if one and source.over and _gives_stills(source):
        yield from _poll(source, current, maker, stop, opened_s, again)


def _gives_stills(source: OpenSource) -> bool:
    return source.target.scheme in WEB and source.codec in STILLS


def _poll(
    source: OpenSource,
    current: Callable[[], StreamConfig],
    maker: FrameMaker,
    stop: threading.Event,
    opened_s: float,
    again: Opening,
) -> Iterator[Frame]:
    """Ask again and again for the one picture that a source gives, as often as max_fps says."""
    source.container.close()
    due_s, told_s = opened_s, 0.0
    while True:
        config = current()
        every_s = 1.0 / (config.max_fps or POLLS_PER_S)
        if every_s != told_s:
            source.report(Polled(source.url, every_s))
            told_s = every_s
        due_s = max(due_s + every_s, time.monotonic())
        stop.wait(due_s - time.monotonic())
        if stop.is_set():
            return
        with again(streams=1) as opened:
            maker.source, before = opened, maker.seq
            try:
                for picture in pictures(opened, stop):
                    image, since_s = picture.image, time.monotonic() - opened_s
                    image.pts, image.time_base = round(since_s * 1000), Fraction(1, 1000)
                    yield maker.frame(picture)
            except SourceEnded:
                if not opened.over:
                    raise
            if maker.seq > before + 1:
                raise SourceEnded(f"{opened.url}: ended")


def _read(
    source: OpenSource, current: Callable[[], StreamConfig], maker: FrameMaker, stop: threading.Event
) -> Iterator[Frame]:
    thinning = Thinning(current().max_fps)
    edge = source.edge
    less = source.less = _less(source, current)
    pacer = Pacer(stop) if source.paced and edge is None else None
    corrupt, shown_s = 0, 0.0
    try:
        for picture in pictures(source, stop):
            if source.corrupt > corrupt:
                source.report(Corrupt(source.corrupt - corrupt))
                corrupt = source.corrupt
            counted = picture.image.pts is None and source.endless
            media_s = None if counted else float(picture.time_s)
            now_s = time.monotonic() if source.endless or media_s is None else media_s
            thinning.take(current().max_fps)
            taken = thinning.takes(now_s)
            less.next_due(now_s, float(picture.time_s), thinning.due_s)
            if not taken:
                maker.skip()
                source.report(Skipped())
                continue
            if pacer and media_s is not None:
                pacer.wait(media_s)
            elif edge is not None and edge.paced and media_s is not None:
                stop.wait(max(0.0, edge.due_s(media_s) - time.monotonic()))
            if stop.is_set():
                return
            yield maker.frame(picture)
            shown_s = _shown_s(source, picture.image)
        if pacer and maker.seq:
            pacer.finish(shown_s)
    finally:
        if source.corrupt > corrupt:
            source.report(Corrupt(source.corrupt - corrupt))
