"""The head of a packet says whether others refer to its picture, as the decoder would find."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from streamseg.sources.referred import intra_only, reader_of
from tests.media import write_video

X265 = "bframes=3:b-pyramid=1:keyint=20:log-level=none:pools=1:frame-threads=1"


@pytest.mark.parametrize(
    ("codec", "name", "options"),
    [
        ("libx264", "clip.mp4", {"bf": "3", "g": "20"}),  # lengths in front of units
        ("libx264", "clip.ts", {"bf": "3", "g": "20"}),  # start codes
        ("libx264", "clip.mkv", {"bf": "0", "g": "20"}),
        ("libx265", "clip.mp4", {"x265-params": X265}),
        ("libx265", "clip.ts", {"x265-params": X265}),
        ("mpeg2video", "clip.ts", {"bf": "2", "g": "12"}),
        ("mpeg4", "clip.mp4", {"bf": "2", "g": "12"}),
    ],
)
def test_what_is_left_out_is_what_the_decoder_would_leave_out(
    tmp_path: Path, codec: str, name: str, options: dict[str, str]
) -> None:
    drawn = [np.random.default_rng(i // 3).integers(0, 255, (64, 96, 3), np.uint8) for i in range(50)]
    write_video(tmp_path / name, drawn, codec=codec, options=options)
    with av.open(str(tmp_path / name)) as container:
        video = container.streams.video[0]
        read = reader_of(video.codec_context.name)
        assert read is not None
        packets = [packet for packet in container.demux(video) if packet.size]
        extradata = video.codec_context.extradata or b""
        kept = [p for p in packets if (found := read(memoryview(p), extradata)) and found.by_others]
        ours = decoded(video, kept)
    with av.open(str(tmp_path / name)) as container:
        video = container.streams.video[0]
        video.codec_context.skip_frame = "NONREF"
        theirs = decoded(video, [packet for packet in container.demux(video) if packet.size])
    assert ours == theirs
    assert (len(ours) < len(packets)) == (options.get("bf") != "0")


def decoded(video: av.VideoStream, packets: list[av.Packet]) -> list[tuple[int | None, bytes]]:
    """Time stamps and pixels."""
    video.thread_type = "SLICE"
    images = [image for packet in [*packets, None] for image in video.codec_context.decode(packet)]
    return [(image.pts, image.to_ndarray(format="rgb24").tobytes()) for image in images]


def test_a_packet_that_is_cut_off_says_nothing() -> None:
    for codec in ("h264", "hevc", "mpeg2video", "mpeg4"):
        read = reader_of(codec)
        assert read is not None
        for data in (b"", b"\0\0\1", b"\0\0\0\1", b"\0\0\1\0", b"\0\0\1\xb6", b"\xff" * 9, b"\0" * 9):
            assert read(memoryview(data), b"") is None
            read(memoryview(data), b"\1" + b"\xff" * 30)


def test_of_other_codecs_nothing_is_known() -> None:
    assert reader_of("vp9") is None
    assert intra_only("mjpeg")
    assert not intra_only("h264")
