"""Sound beside the overlay: copied, converted or left out, and never at the pictures' cost."""

from __future__ import annotations

import os
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from streamseg.recorded.audio import Sound, Span, open_sound
from streamseg.recorded.inputs import Input
from streamseg.recorded.tracks import Encoder, Track, write_video
from tests.media import with_sound

PICTURES = 50  # at 25 a second
TWO_SECONDS = Span(Fraction(-1), Fraction(2))
SOUND_PID = 0x101  # where FFmpeg puts the second stream of a transport stream


def overlay(source: Path, out: Path, span: Span = TWO_SECONDS) -> str | None:
    """Write an overlay of 50 pictures with the source's sound → what became of that."""
    track = Track("overlay", (48, 64), Fraction(1, 25), Fraction(25))
    encoder = Encoder(track)
    packets = [p for i in range(PICTURES) for p in encoder.encode(np.full((72, 64), i, np.uint8), i)]
    with open_sound(Input(str(source), "clip"), 0, span) as sound:
        assert write_video(out, track, [*packets, *encoder.flush()], sound) == PICTURES
    with av.open(str(out)) as container:
        assert [frame.time for frame in container.decode(video=0)] == [i / 25 for i in range(PICTURES)]
    return sound.told


def packets_of(path: Path) -> list[tuple[float, bytes]]:
    with av.open(str(path)) as container:
        packets = container.demux(container.streams.best("audio"))
        return [(float((p.pts or 0) * p.time_base), bytes(p)) for p in packets if p.size]


def heard(path: Path) -> list[bool]:
    """Whether there is a tone, for each tenth of a second."""
    loud = np.zeros(30, bool)
    with av.open(str(path)) as container:
        for frame in container.decode(audio=0):
            assert frame.time is not None
            at_s = frame.time + np.flatnonzero(np.abs(frame.to_ndarray()[0]) > 0.1) / frame.sample_rate
            loud[np.clip(at_s * 10, 0, 29).astype(int)] = True
    return list(loud)


def tenths(*parts: tuple[int, int]) -> list[bool]:
    return [any(begin <= i < end for begin, end in parts) for i in range(30)]


@pytest.mark.parametrize(
    ("name", "codec", "rate"),
    [
        ("clip.mkv", "aac", 48000),
        ("clip.mp4", "aac", 16000),
        ("clip.mkv", "mp3", 44100),
        ("clip.ts", "mp2", 48000),
        ("clip.mkv", "ac3", 48000),
        ("clip.mkv", "opus", 48000),
        ("clip.mkv", "flac", 44100),
    ],
)
def test_sound_that_mp4_holds_is_copied(tmp_path: Path, name: str, codec: str, rate: int) -> None:
    encoder = {"mp3": "libmp3lame", "opus": "libopus"}.get(codec, codec)
    clip = with_sound(tmp_path / name, encoder, rate=rate)
    out = tmp_path / "overlay.mp4"
    assert overlay(clip, out) == f"{codec}, copied"
    copied = packets_of(out)
    assert [data for _, data in copied] == [data for _, data in packets_of(clip)][: len(copied)]
    assert copied[-1][0] > 1.8
    assert [at for at, _ in copied] == pytest.approx(
        [at for at, _ in packets_of(clip)][: len(copied)], abs=0.002
    )


@pytest.mark.parametrize(
    ("name", "codec", "rate", "layout"),
    [
        ("clip.avi", "pcm_mulaw", 8000, "mono"),
        ("clip.avi", "pcm_s16le", 11025, "stereo"),
        ("clip.mov", "pcm_s16be", 48000, "stereo"),
        ("clip.avi", "adpcm_ms", 22050, "mono"),
        ("clip.mkv", "pcm_f32le", 96000, "5.1"),
        ("clip.mkv", "pcm_u8", 6000, "mono"),
    ],
)
def test_sound_that_mp4_does_not_hold_is_converted(
    tmp_path: Path, name: str, codec: str, rate: int, layout: str
) -> None:
    clip = with_sound(tmp_path / name, codec, rate=rate, layout=layout)
    out = tmp_path / "overlay.mp4"
    assert overlay(clip, out) == f"{codec}, converted to AAC"
    assert heard(out)[:19] == [True] * 19
    again = tmp_path / "again.mp4"
    overlay(clip, again)
    assert again.read_bytes() == out.read_bytes()


@pytest.mark.parametrize(("name", "codec"), [("clip.mkv", "aac"), ("clip.mkv", "pcm_s16le")])
@pytest.mark.parametrize("parts", [[(8, 20)], [(0, 6)], [(0, 5), (12, 20)]])
def test_sound_that_begins_late_ends_early_or_has_a_gap_keeps_its_time(
    tmp_path: Path, name: str, codec: str, parts: list[tuple[int, int]]
) -> None:
    clip = with_sound(tmp_path / name, codec, parts=[(a / 10, b / 10) for a, b in parts])
    out = tmp_path / "overlay.mp4"
    told = overlay(clip, out)
    assert told in (f"{codec}, copied", f"{codec}, converted to AAC")
    edges = {a for part in parts for a in part} | {a - 1 for part in parts for a in part}
    for tenth, (found, wanted) in enumerate(zip(heard(out), tenths(*parts), strict=True)):
        assert found == wanted or tenth in edges, tenth


def appended(path: Path, begins_s: float, codec: str = "aac") -> Path:
    """A transport stream whose sound, after 2 s, goes on at another time."""
    first, second = path.with_name("first.ts"), path.with_name("second.ts")
    with_sound(first, codec)
    with_sound(second, codec, parts=[(begins_s, begins_s + 1)], seconds=begins_s + 1)
    data = second.read_bytes()
    parts = [data[at : at + 188] for at in range(0, len(data), 188)]
    sound = [part for part in parts if (part[1] & 31) << 8 | part[2] == SOUND_PID]
    path.write_bytes(first.read_bytes() + b"".join(sound))
    return path


@pytest.mark.parametrize(
    ("begins_s", "why"),
    [
        (0.5, "its time stamps step back"),
        (0.0, "its time stamps step back"),
        (1.9, ""),
        (2.5, ""),
        (30.0, "its time stamps leap behind the last picture"),
    ],
)
@pytest.mark.parametrize("codec", ["aac", "mp2"])
def test_sound_whose_clock_jumps_is_kept_as_far_as_it_goes_with_the_pictures(
    tmp_path: Path, begins_s: float, why: str, codec: str
) -> None:
    clip = appended(tmp_path / "clip.ts", begins_s, codec)
    told = overlay(clip, tmp_path / "overlay.mp4", Span(Fraction(-1), Fraction(5)))
    assert told is not None
    kept = re.fullmatch(rf"{codec}, copied to (.*) s, then left out: {why}", told)
    assert (kept is None) == (why == "")
    if kept is not None:
        assert float(kept[1]) == pytest.approx(2.0, abs=0.1)
    stamps = [at for at, _ in packets_of(tmp_path / "overlay.mp4")]
    assert stamps == sorted(set(stamps))


def test_of_several_tracks_one_that_can_be_copied_is_taken(tmp_path: Path) -> None:
    clip = with_sound(tmp_path / "clip.mkv", "pcm_s16le", "aac")
    out = tmp_path / "overlay.mp4"
    assert overlay(clip, out) == "aac, copied, 1 of 2 tracks"
    with av.open(str(out)) as container:
        assert [stream.codec_context.name for stream in container.streams.audio] == ["aac"]


@pytest.mark.parametrize("name", ["clip.mkv", "clip.ts"])
def test_a_track_without_sound_at_the_pictures_time_is_left_out(tmp_path: Path, name: str) -> None:
    clip = with_sound(tmp_path / name, "aac", parts=[(5, 6)], seconds=6)
    out = tmp_path / "overlay.mp4"
    assert overlay(clip, out) == "left out: holds none at the time of the pictures"
    with av.open(str(out)) as container:
        assert not container.streams.audio


def test_without_sound_there_is_nothing_to_tell(tmp_path: Path) -> None:
    assert overlay(with_sound(tmp_path / "clip.mkv"), tmp_path / "overlay.mp4") is None
    with open_sound(Input("https://example.org/clip.mp4", "clip"), 0, TWO_SECONDS) as sound:
        assert sound.told is None


def test_what_cannot_be_opened_or_is_an_address_is_told(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(os.urandom(4096))
    told = overlay(tmp_path / "clip.mp4", tmp_path / "overlay.mp4")
    assert told is not None
    assert told.startswith("left out: cannot be opened (")
    with open_sound(Input("https://example.org/clip.mp4", "clip"), 0, TWO_SECONDS, known=1) as sound:
        assert sound.told == "left out: it is copied from files, not from addresses"


def test_sound_that_is_cut_off_is_kept_as_far_as_it_goes(tmp_path: Path) -> None:
    clip = with_sound(tmp_path / "clip.mkv", "aac")
    data = clip.read_bytes()
    clip.write_bytes(data[: len(data) * 2 // 3])
    told = overlay(clip, tmp_path / "overlay.mp4")
    assert told is not None
    assert told.startswith("aac, copied")
    assert any(heard(tmp_path / "overlay.mp4"))


def test_time_that_was_moved_moves_the_sound_too(tmp_path: Path) -> None:
    clip = with_sound(tmp_path / "clip.mkv", "aac")
    out = tmp_path / "overlay.mp4"
    told = overlay(clip, out, Span(Fraction(-1), Fraction(1), Fraction(1, 2), "why"))
    assert told is not None
    assert "then left out: why" in told
    for tenth, (found, wanted) in enumerate(zip(heard(out), tenths((5, 15)), strict=True)):
        assert found == wanted or tenth in (4, 15)


def test_what_the_muxer_refuses_ends_the_sound_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = with_sound(tmp_path / "clip.mkv", "aac")
    begin = Sound.begin

    def stop_in_the_middle(sound: Sound, container: Any) -> None:
        begin(sound, container)
        packets = sound._out

        def some() -> Any:
            for number, (at_s, packet) in enumerate(packets):
                if number == 20:
                    packet.dts = packet.pts = -(10**9)
                yield at_s, packet

        sound._out = some()

    monkeypatch.setattr(Sound, "begin", stop_in_the_middle)
    told = overlay(clip, tmp_path / "overlay.mp4")
    assert told is not None
    assert "then left out: MP4 does not take it (Invalid argument)" in told
