"""The source's sound beside the overlay: copied where MP4 holds it, else converted to AAC, else left out.

Sound goes with pictures and never decides over them: whatever is wrong with it, it is left out from there on,
or altogether, and the manifest says why.
"""

from __future__ import annotations

import errno
import itertools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, cast

import av
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer

from streamseg.recorded.inputs import Input

# What MP4 holds and players play, by the codec's name, which is not always its decoder's ("mp3float").
MP4_CODECS = frozenset({"aac", "ac3", "alac", "eac3", "flac", "mp2", "mp3", "opus"})
AAC_RATES = (
    7350, 8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000,
)  # fmt: skip

MENDED_S = Fraction(1, 4)
"""Time stamps that stand still or step back by less continue where the packet before ended."""

SILENCE_S = Fraction(1, 10)
"""Gaps from this on are filled where sound is converted."""

BEYOND = 500
"""Packets in a row behind the last picture after which no more is read."""

REFUSED = (av.error.FFmpegError, ValueError, RuntimeError, NotImplementedError)
"""What PyAV raises of sound that cannot be read, decoded, converted or muxed."""


@dataclass(frozen=True, slots=True)
class Span:
    """The time that sound is wanted for, in the source's seconds; shift_s leads to the overlay's."""

    begin_s: Fraction
    end_s: Fraction
    shift_s: Fraction = Fraction(0)
    why: str = ""  # no sound is wanted from end_s on, though there are pictures


@dataclass(slots=True, eq=False)
class Sound:
    """One source's sound on its way into an overlay. Belongs to the thread that opened it."""

    span: Span
    container: InputContainer | None = None
    stream: AudioStream | None = None
    convert: bool = False
    tracks: int = 0
    trouble: str = ""  # why it is left out, from `kept_s` on or altogether
    kept_s: Fraction | None = None  # of the overlay: the last that was muxed
    _out: Iterator[tuple[Fraction, av.Packet[Any]]] = field(default_factory=lambda: iter(()))
    _waiting: tuple[Fraction, av.Packet[Any]] | None = None

    @property
    def told(self) -> str | None:
        """What became of it, for the manifest; None where the source has none."""
        if not self.trouble and self.stream is None:
            return None
        if self.kept_s is None:
            return f"left out: {self.trouble or 'holds none at the time of the pictures'}"
        assert self.stream is not None
        words = f"{_codec(self.stream)}, {'converted to AAC' if self.convert else 'copied'}"
        if self.tracks > 1:
            words += f", 1 of {self.tracks} tracks"
        reason = self.trouble or self.span.why
        return f"{words} to {float(self.kept_s):.3f} s, then left out: {reason}" if reason else words

    def begin(self, container: OutputContainer) -> None:
        """Add a stream for it to a container that nothing has been muxed into yet."""
        if self.stream is None:
            return
        try:
            if self.convert:
                self._begin_converted(container)
            else:
                packets = self._packets()
                first = next(packets, None)
                if first is not None:
                    stream = container.add_stream_from_template(self.stream)
                    self._out = _of_stream(itertools.chain([first], packets), stream)
        except REFUSED as error:
            self.give_up(f"MP4 does not take it ({_words(error)})")

    def mux(self, container: OutputContainer, until_s: Fraction | None) -> None:
        """Mux what is before a time of the overlay; None: all that is left."""
        try:
            while True:
                one = self._waiting = self._waiting or next(self._out, None)
                if one is None or (until_s is not None and one[0] > until_s):
                    return
                container.mux_one(one[1])
                self._waiting = None
                self.kept_s = one[0]
        except REFUSED as error:
            if getattr(error, "errno", None) == errno.ENOSPC:
                raise
            self.give_up(f"MP4 does not take it ({_words(error)})")

    def give_up(self, why: str) -> None:
        """Mux nothing more."""
        self.trouble = self.trouble or why
        self._out, self._waiting = iter(()), None

    def drop(self, why: str) -> None:
        """Nothing of it is in the overlay after all."""
        self.give_up(why)
        self.kept_s = None

    def _packets(self) -> Iterator[tuple[Fraction, av.Packet[Any]]]:
        """(time in the overlay, packet) with rising time stamps; ends, with a reason, where they cannot."""
        assert self.container is not None
        assert self.stream is not None
        end: int | None = None  # of the packet before
        last, beyond = 0, 0
        packets = self.container.demux(self.stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except REFUSED as error:
                self.trouble = f"damaged ({_words(error)})"
                return
            stamp = packet.pts if packet.dts is None else packet.dts
            tick = packet.time_base
            if stamp is None or tick is None or not packet.size:
                continue
            at_s = stamp * tick
            if not self.span.begin_s <= at_s < self.span.end_s:
                beyond = beyond + 1 if at_s >= self.span.end_s else 0
                if beyond == 1 and end is not None and end * tick < self.span.end_s - 1:
                    self.trouble = "its time stamps leap behind the last picture"
                if beyond == BEYOND:
                    return
                continue
            if beyond:
                self.trouble = ""
            beyond = 0
            if end is not None and stamp <= last:
                if (end - stamp) * tick > MENDED_S:
                    self.trouble = "its time stamps step back"
                    return
                stamp = max(end, last + 1)
            shift = round(self.span.shift_s / tick)
            last, end = stamp, stamp + (packet.duration or 0)
            if packet.pts is None or packet.dts is None or packet.dts != stamp or shift:
                packet.pts = packet.dts = stamp + shift
            yield (stamp + shift) * tick, packet

    def _begin_converted(self, container: OutputContainer) -> None:
        assert self.stream is not None
        rate = next((r for r in AAC_RATES if r == self.stream.codec_context.sample_rate), 48000)
        layout = "mono" if self.stream.codec_context.channels == 1 else "stereo"
        samples = self._samples(rate, layout)
        first = next(samples, None)
        if first is None:
            return
        stream = container.add_stream("aac", rate=rate, layout=layout, format="fltp")
        stream.codec_context.flags |= av.codec.context.Flags.bitexact.value
        stream.codec_context.time_base = Fraction(1, rate)
        self._out = _encoded(itertools.chain([first], samples), stream)

    def _samples(self, rate: int, layout: str) -> Iterator[AudioFrame]:
        """Decoded sound without a gap, its pts in samples of the overlay's time."""
        assert self.stream is not None
        resampler = AudioResampler(format="fltp", layout=layout, rate=rate)
        position: int | None = None
        damaged = 0
        for at_s, packet in self._packets():
            try:
                decoded = cast(list[AudioFrame], packet.decode())
                frames = [made for frame in decoded for made in resampler.resample(frame)]
            except REFUSED as error:
                damaged += 1
                if position is None and damaged == BEYOND:
                    self.trouble = f"cannot be decoded ({_words(error)})"
                    return
                continue
            wanted = round(at_s * rate)
            position = wanted if position is None else position
            while frames and wanted - position >= SILENCE_S * rate:
                silence = _silence(min(rate, wanted - position), rate, layout)
                silence.pts = position
                position += silence.samples
                yield silence
            for made in frames:
                made.pts, made.time_base = position, Fraction(1, rate)
                position += made.samples
                yield made
        if position is None and damaged:
            self.trouble = self.trouble or "cannot be decoded"


@contextmanager
def open_sound(one: Input, track: int, span: Span, known: int = 0) -> Iterator[Sound]:
    """Open the sound that goes with video stream `track` of a file. Never fails: see Sound.told.

    known: of so many audio streams, when the pictures were opened.
    """
    with ExitStack() as stack:
        sound = Sound(span)
        if one.path is None and known:
            sound.give_up("it is copied from files, not from addresses")
        elif one.path is not None and not one.images:
            try:
                container = stack.enter_context(av.open(f"file:{one.path}", metadata_errors="replace"))
                _choose(sound, container, track)
            except (*REFUSED, OSError) as error:
                sound.give_up(f"cannot be opened ({_words(error)})")
        yield sound


def _choose(sound: Sound, container: InputContainer, track: int) -> None:
    """The track that players take, or one that can be copied, or one that can be decoded."""
    tracks = container.streams.audio
    sound.tracks = len(tracks)
    usable = [one for one in tracks if one.codec_context is not None]
    if not usable:
        if tracks:
            sound.give_up("this build of FFmpeg has no decoder for it")
        return
    video = container.streams[track] if track < len(container.streams) else None
    best = container.streams.best("audio", related=video)
    usable.sort(key=lambda one: best is None or one.index != best.index)
    chosen = next((one for one in usable if _codec(one) in MP4_CODECS), usable[0])
    sound.container, sound.stream = container, chosen
    sound.convert = _codec(chosen) not in MP4_CODECS


def _of_stream(
    packets: Iterator[tuple[Fraction, av.Packet[Any]]], stream: AudioStream
) -> Iterator[tuple[Fraction, av.Packet[Any]]]:
    for at_s, packet in packets:
        packet.stream = stream
        yield at_s, packet


def _encoded(samples: Iterator[AudioFrame], stream: AudioStream) -> Iterator[tuple[Fraction, av.Packet[Any]]]:
    for frame in itertools.chain(samples, [None]):
        for packet in stream.encode(frame):
            assert packet.pts is not None
            assert packet.time_base is not None
            yield packet.pts * packet.time_base, packet


def _silence(samples: int, rate: int, layout: str) -> AudioFrame:
    frame = AudioFrame(format="fltp", layout=layout, samples=samples)
    for plane in frame.planes:
        plane.update(bytes(plane.buffer_size))
    frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
    return frame


def _codec(stream: AudioStream) -> str:
    return str(stream.codec_context.codec.canonical_name)


def _words(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error or type(error).__name__)
