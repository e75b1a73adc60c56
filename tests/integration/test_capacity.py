"""streamseg capacity: measured on real clips and a camera, with the tiny engine."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import av
import cv2
import msgspec
import numpy as np
import pytest

from streamseg.bench.capacity import CapacityResult
from streamseg.bench.clips import ENCODERS
from streamseg.bench.pieces import Piece
from streamseg.errors import SourceError
from tests.cameras import RtspCamera, encoded
from tests.engines import tiny_engine
from tests.integration.command import Command, streamseg
from tests.media import draw_clip, write_video

__all__ = ["streamseg", "tiny_engine"]


@pytest.fixture(autouse=True)
def _seconds_are_short(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("streamseg.bench.capacity.STAGE_S", 0.02)
    monkeypatch.setattr("streamseg.bench.probe.LOOKED_S", 0.05)
    monkeypatch.setattr("streamseg.bench.probe.PIECE_S", 0.5)
    monkeypatch.setattr("streamseg.bench.helps.SMALL", (48, 64))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def _config(path: Path, engine: Path, **streams: str | Path) -> Path:
    lines = "".join(
        f'[streams.{name}]\nsource = "{source}"\nmax_fps = 5\n' for name, source in streams.items()
    )
    path.write_text(f'{lines}[engine]\nname = "{engine}"\n')
    return path


def test_streams_are_counted_and_what_limits_is_named(
    streamseg: Command, tmp_path: Path, tiny_engine: Path
) -> None:
    clip = draw_clip(tmp_path / "street.mp4")
    config = _config(tmp_path / "site.toml", tiny_engine, a=str(clip), b=str(clip))
    ended = streamseg("capacity", config)
    assert ended.code == 0, ended.err
    first, second, *_ = ended.out.splitlines()
    assert first.startswith("2 streams fit: this machine holds about ")
    assert second.startswith("limit: ")
    assert "2 streams: a, b\n64x48 h264 at 25 fps, tiny/" in ended.out
    assert [line for line in ended.out.splitlines() if len(line) > 80] == []


def test_a_stage_is_counted_as_often_as_it_is_done(
    streamseg: Command, tmp_path: Path, tiny_engine: Path
) -> None:
    """A gate keeps masks from the network and what is behind; who takes another's pictures decodes none."""
    clip = tmp_path / "yard.mp4"
    write_video(clip, [np.full((48, 64, 3), 90, np.uint8)] * 20)
    config = _config(tmp_path / "site.toml", tiny_engine, a=str(clip), b="stream:a")
    more = 'max_fps = 5\ngate = "motion"\nmask_size = "input"'
    config.write_text(config.read_text().replace("max_fps = 5", more))
    ended = streamseg("capacity", config, "--json")
    assert ended.code == 0, ended.err
    shares = [group.network_share for group in msgspec.json.decode(ended.out, type=CapacityResult).groups]
    assert max(shares) < 0.5
    tables = streamseg("capacity", config).out.split("1 stream: ")[1:]
    rows = [{line[:30].split("  ")[0]: line.split() for line in table.splitlines()} for table in tables]
    assert [("decoding" in table, "gate" in table) for table in rows] == [(True, True), (False, True)]
    for table, share in zip(rows, shares, strict=True):
        assert float(table["gate"][2]) == 5
        for stage in ("scaling", "network", "packing"):
            assert float(table[stage][2]) == pytest.approx(5 * share, rel=0.01)


def test_json_has_the_numbers_of_each_stage(streamseg: Command, tmp_path: Path, tiny_engine: Path) -> None:
    clip = draw_clip(tmp_path / "street.mp4")
    ended = streamseg(
        "capacity", "--source", clip, "--fps", 5, "--count", 3, "--engine", tiny_engine, "--json"
    )
    assert ended.code == 0, ended.err
    result = msgspec.json.decode(ended.out, type=CapacityResult)
    (group,) = result.groups
    assert (result.streams, group.count, group.streams) == (3, 3, ["video"])
    assert (group.source_fps, group.masks_fps) == (25, 5)
    times = group.times
    assert min(times.decode, times.scale, times.network, times.labels, times.pack) > 0
    assert sum(result.load.by_stage.values()) == pytest.approx(1)
    assert set(json.loads(ended.out)) == set(CapacityResult.__struct_fields__)


def test_a_source_that_cannot_be_opened_is_one_line_and_the_others_go_on(
    streamseg: Command, tmp_path: Path, tiny_engine: Path
) -> None:
    away = "rtsp://127.0.0.1:1/h264"  # nobody listens at port 1
    with RtspCamera(encoded()) as camera:
        config = _config(tmp_path / "site.toml", tiny_engine, gate=camera.url, yard=away)
        ended = streamseg("capacity", config)
    assert ended.code == 0, ended.err
    assert ended.out.startswith("this machine holds about ")
    (line,) = (line for line in ended.out.splitlines() if line.startswith("left out: "))
    assert line.startswith(f"left out: yard: {away}: ")


@pytest.mark.parametrize("drawn", [True, False])
def test_without_an_encoder_there_is_a_hint_less(
    streamseg: Command, tmp_path: Path, tiny_engine: Path, monkeypatch: pytest.MonkeyPatch, drawn: bool
) -> None:
    monkeypatch.setattr("streamseg.bench.capacity.WORTH", 0)
    if not drawn:
        monkeypatch.setitem(ENCODERS, "h264", "libnone")
    clip = draw_clip(tmp_path / "street.mp4", size=(96, 128))
    ended = streamseg("capacity", "--source", clip, "--engine", tiny_engine)
    assert ended.code == 0, ended.err
    assert ended.out.startswith("this machine holds about ")
    assert ("source: a second stream" in ended.out) is drawn


def test_a_damaged_packet_is_left_out_as_in_a_stream(
    streamseg: Command, tmp_path: Path, tiny_engine: Path
) -> None:
    jpeg = cv2.imencode(".jpg", np.full((48, 64, 3), 90, np.uint8))[1].tobytes()
    with av.open(str(tmp_path / "yard.avi"), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuvj420p"
        for i in range(20):
            packet = av.Packet(bytes(200) if i % 5 == 4 else jpeg)
            packet.stream, packet.pts, packet.dts, packet.is_keyframe = stream, i, i, True
            packet.time_base = Fraction(1, 25)
            container.mux(packet)
    ended = streamseg("capacity", _config(tmp_path / "site.toml", tiny_engine, a=tmp_path / "yard.avi"))
    assert ended.code == 0, ended.err
    assert ended.out.startswith("this machine holds about ")
    nothing = Piece("mjpeg", (48, 64), 25.0, (bytes(200),) * 5, (True,) * 5, None)
    with pytest.raises(SourceError, match="none of its pictures can be decoded"):
        next(nothing.decoded())


def test_without_any_source_there_is_one_line(streamseg: Command, tmp_path: Path, tiny_engine: Path) -> None:
    config = _config(tmp_path / "site.toml", tiny_engine, yard=str(tmp_path / "none.mp4"))
    ended = streamseg("capacity", config)
    assert ended.code == 1
    assert ended.last_line == f"streamseg: {tmp_path / 'none.mp4'}: no such file; check the path"


def test_a_clip_that_no_encoder_makes_is_one_line(streamseg: Command) -> None:
    ended = streamseg("capacity", "--size", 333, 334)
    assert ended.code == 1
    line = "streamseg: a clip of 334x333 in h264 cannot be made: its sides must be even"
    assert ended.last_line == line


def test_a_file_that_is_wrong_is_refused_as_by_run(streamseg: Command, tmp_path: Path) -> None:
    config = tmp_path / "site.toml"
    config.write_text("[streams.a]\nsource = 'demo:'\nmax_fsp = 8\n")
    ended = streamseg("capacity", config)
    assert ended.code == 2
    assert "streams.a.max_fsp" in ended.last_line


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ((), "give one of CONFIG.toml, --source and --size"),
        (("--source", "demo:", "--size", 48, 64), "give one of CONFIG.toml, --source and --size"),
        (("site.toml", "--fps", 8), "--fps: write it in site.toml instead"),
    ],
)
def test_the_command_says_what_it_needs(streamseg: Command, words: tuple[object, ...], line: str) -> None:
    ended = streamseg("capacity", *words)
    assert ended.code == 2
    assert ended.last_line == f"streamseg: {line}"
