"""Whatever a camera, a phone or an editor may have made: one mask for each frame, at its time stamp."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import msgspec
import numpy as np
import pytest

from streamseg.config import EngineConfig
from streamseg.recorded import ProcessConfig, Progressed, process_file, process_files
from streamseg.recorded.inputs import find_inputs
from streamseg.recorded.manifest import Manifest, read_manifest
from streamseg.recorded.opening import probe
from streamseg.recorded.route import Route, SegmentEnd
from streamseg.recorded.timeline import from_runs
from streamseg.recorded.tracks import read_labels
from streamseg.recorded.verify import verify_folder
from streamseg.sources.target import DEMO_CLIP
from streamseg.types import U8
from tests.media import BLUE, GREEN, RED, draw_clip, picture, write_video
from tests.web import folder_server

FRAMES = 8


def pictures(size: tuple[int, int] = (48, 64)) -> list[U8]:
    return [picture(size, (i + 1) / FRAMES) for i in range(FRAMES)]


MADE: dict[str, dict[str, Any]] = {
    "h264-b-frames.mp4": {"options": {"bf": "3", "g": "8"}},
    "h264-open-gop.mkv": {"options": {"bf": "2", "g": "3", "x264-params": "open-gop=1:scenecut=0"}},
    "h264.ts": {"time_base": Fraction(1, 90000), "pts": [9000 + 3600 * i for i in range(FRAMES)]},
    "h264.flv": {},
    "hevc.mp4": {"codec": "libx265", "options": {"x265-params": "log-level=none"}},
    "hevc-10-bit.mkv": {
        "codec": "libx265",
        "pix_fmt": "yuv420p10le",
        "options": {"x265-params": "log-level=none"},
    },
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"cpu-used": "8", "deadline": "realtime"}},
    "vp9-alpha.webm": {
        "codec": "libvpx-vp9",
        "pix_fmt": "yuva420p",
        "options": {"cpu-used": "8", "deadline": "realtime", "auto-alt-ref": "0"},
    },
    "av1.mp4": {"codec": "libsvtav1", "options": {"preset": "12", "svtav1-params": "lp=1"}},
    "mjpeg.avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "prores.mov": {"codec": "prores_ks", "pix_fmt": "yuv422p10le"},
    "png-alpha.mov": {"codec": "png", "pix_fmt": "rgba"},
    "ffv1.mkv": {"codec": "ffv1", "pix_fmt": "yuv444p"},
    "mpeg2-interlaced.mpg": {
        "codec": "mpeg2video",
        "options": {"flags": "+ildct+ilme", "bf": "2"},
        "container_format": "vob",
    },
    "variable-rate.mp4": {
        "time_base": Fraction(1, 90000),
        "pts": [0, 3000, 9000, 9100, 50000, 90000, 90001, 400000],
        "options": {"bf": "0"},
    },
    "turned.mp4": {"rotation": 90},
    "begins-late.mkv": {"time_base": Fraction(1, 1000), "pts": [5000 + 40 * i for i in range(FRAMES)]},
    "no-time-stamps.h264": {"container_format": "h264"},
}


def decoded(path: Path, track: int = 0) -> list[int | None]:
    with av.open(str(path)) as container:
        return [f.pts for f in container.decode(video=track)]


@pytest.fixture(scope="module")
def config(tiny_engine: Path) -> ProcessConfig:
    return ProcessConfig(engine=EngineConfig(name=str(tiny_engine), threads=1), overlay=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, config: ProcessConfig) -> Path:
    """A folder of clips of every kind, and in out/ their results: one job."""
    folder = tmp_path_factory.mktemp("kinds")
    for name, how in MADE.items():
        write_video(folder / name, pictures(), **how)
    write_video(folder / "odd.mkv", pictures((33, 51)), codec="ffv1", pix_fmt="yuv444p")
    edited(folder / "edited.mp4")
    result = process_files([folder], folder / "out", config)
    assert [str(f.error) for f in result.failed] == []
    return folder


def edited(path: Path) -> None:
    """An MP4 whose edit list hides the first three frames."""
    options = {"avoid_negative_ts": "disabled", "movie_timescale": "12800", "video_track_timescale": "12800"}
    write_video(
        path,
        pictures(),
        time_base=Fraction(1, 12800),
        pts=[512 * (i - 3) for i in range(FRAMES)],
        options={"bf": "0"},
        container_options=options,
    )


def manifest_of(folder: Path, name: str) -> Manifest:
    """Of a clip of this name, whose stem another may share."""
    return next(
        m
        for m in map(read_manifest, sorted((folder / "out").glob("*.manifest.json")))
        if m.input.endswith(name)
    )


@pytest.mark.parametrize("name", [*MADE, "odd.mkv", "edited.mp4"])
def test_each_kind_of_file_has_one_mask_for_each_frame_at_its_time(made: Path, name: str) -> None:
    manifest = manifest_of(made, name)
    wanted = decoded(made / name)
    assert from_runs(manifest.pts_runs) == wanted
    assert manifest.masks == manifest.frames_decoded == len(wanted) == (5 if name == "edited.mp4" else FRAMES)
    assert (manifest.dropped, manifest.corrupt, manifest.damage) == (0, 0, None)
    found = [ticks for ticks, _ in read_labels(made / "out" / manifest.outputs["labels"].file)]
    if None in wanted:
        assert manifest.mended_time_stamps == len(wanted)
        assert found == sorted(set(found))
    else:
        assert found == wanted
    tall, wide = (33, 51) if name == "odd.mkv" else (64, 48) if name == "turned.mp4" else (48, 64)
    assert manifest.size == (tall, wide)


def test_each_kind_of_file_is_seen_in_its_colours(made: Path) -> None:
    for path in sorted((made / "out").glob("*.labels.mp4")):
        *_, (_, last) = read_labels(path)
        assert (last == 1).mean() > 0.9, path.name


def test_the_proof_of_each_kind_of_file_holds(made: Path) -> None:
    verdicts = verify_folder(made / "out")
    assert len(verdicts) == len(MADE) + 2
    assert [p for v in verdicts for p in v.problems] == []
    assert all(v.source_checked for v in verdicts)


@pytest.mark.parametrize("deinterlace", [True, False])
def test_the_comb_of_two_fields_is_taken_out(
    tmp_path: Path, config: ProcessConfig, deinterlace: bool
) -> None:
    """A red bar moves by a quarter of the width from one field to the next."""
    combed = []
    for i in range(4):
        rgb = np.full((96, 128, 3), 128, np.uint8)
        for field in (0, 1):
            begin = 16 * i + 32 * field
            rgb[field::2, begin : begin + 32] = RED
        combed.append(rgb)
    clip = tmp_path / "fields.mkv"
    write_video(clip, combed, codec="mpeg2video", options={"flags": "+ildct+ilme"})
    settings = msgspec.structs.replace(config, deinterlace=deinterlace)
    seen: list[U8] = []
    (one,) = find_inputs([str(clip)])
    for frame in Route(probe(one, settings, [])).frames():
        if not isinstance(frame, SegmentEnd):
            assert frame.pts == 40 * len(seen)
            seen.append(frame.rgb)
    assert len(seen) == 4
    comb = max(float(np.abs(np.diff(rgb[8:-8, :, 1].astype(int), axis=0)).mean()) for rgb in seen)
    assert (comb < 8) == deinterlace


def test_a_video_track_can_be_chosen(tmp_path: Path, config: ProcessConfig) -> None:
    path = tmp_path / "two.mkv"
    with av.open(str(path), "w") as container:
        streams = []
        for size, frames in (((64, 96), 3), ((48, 64), 5)):
            stream = container.add_stream("ffv1", rate=25)
            stream.height, stream.width, stream.pix_fmt = *size, "bgr0"
            streams.append((stream, size, frames))
        for i in range(5):
            for (stream, size, frames), colour in zip(streams, (RED, BLUE), strict=True):
                if i < frames:
                    frame = av.VideoFrame.from_ndarray(picture(size, 1.0, colour), format="rgb24")
                    frame.pts = i
                    container.mux(stream.encode(frame))
        for stream, _, _ in streams:
            container.mux(stream.encode())
    for track, size, frames, label in ((0, (64, 96), 3, 1), (1, (48, 64), 5, 3)):
        with process_file(path, ProcessConfig(engine=config.engine, track=track)) as masks:
            found = list(masks)
        assert [m.pts for m in found] == decoded(path, track)
        assert len(found) == frames
        assert {m.size for m in found} == {size}
        assert all((m.labels == label).all() for m in found)
    result = process_files([path], tmp_path / "out", ProcessConfig(engine=config.engine, track=2))
    assert "has no video track 2; choose from 0 to 1" in str(result.failed[0].error)


@pytest.mark.parametrize("source", ["walk", "walk/*.png", "walk/i%d.png"])
def test_a_sequence_of_images_is_a_video(tmp_path: Path, config: ProcessConfig, source: str) -> None:
    (tmp_path / "walk").mkdir()
    for i, colour in enumerate([RED, GREEN, BLUE]):
        cv2.imwrite(str(tmp_path / "walk" / f"i{i + 7}.png"), picture((48, 64), 1.0, colour)[..., ::-1])
    out = tmp_path / "out"
    config = ProcessConfig(engine=config.engine, image_fps=10, overlay=False)
    result = process_files([f"{tmp_path}/{source}"], out, config)
    manifest = result.finished[0].manifest
    assert (manifest.masks, manifest.damage, manifest.time_base) == (3, None, "1/10")
    assert [int(labels[5, 5]) for _, labels in read_labels(out / "walk.labels.mp4")] == [1, 2, 3]
    assert [v.problems for v in verify_folder(out)] == [[]]


@pytest.mark.parametrize("source", ["walk", "walk/*.png", "walk/i%d.png"])
def test_images_that_are_still_written_are_no_recording_yet(
    tmp_path: Path, config: ProcessConfig, source: str
) -> None:
    (tmp_path / "walk").mkdir()

    def write(number: int) -> None:
        cv2.imwrite(str(tmp_path / "walk" / f"i{number}.png"), picture((48, 64), 1.0, RED)[..., ::-1])

    def on_event(event: object) -> None:
        if isinstance(event, Progressed):
            write(event.done + 2)

    write(1)
    write(2)
    (failed,) = process_files([f"{tmp_path}/{source}"], tmp_path / "out", config, on_event=on_event).failed
    assert "was still being written" in str(failed.error)
    assert process_files([f"{tmp_path}/{source}"], tmp_path / "out", config).finished[0].manifest.masks == 4


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """A web server for the folder."""
    with folder_server(tmp_path) as address:
        yield f"http://{address}"


def test_a_file_behind_an_address_is_taken_whole(tmp_path: Path, web: str, config: ProcessConfig) -> None:
    clip = draw_clip(tmp_path / "clip.mkv", frames=FRAMES)
    result = process_files([f"{web}/clip.mkv", f"{web}/none.mkv"], tmp_path / "out", config)
    (finished,) = result.finished
    assert from_runs(finished.manifest.pts_runs) == decoded(clip)
    assert "404" in str(result.failed[0].error)
    assert process_files([f"{web}/clip.mkv"], tmp_path / "out", config).finished[0].again
    draw_clip(clip, frames=FRAMES + 1)
    (refused,) = process_files([f"{web}/clip.mkv"], tmp_path / "out", config).failed
    assert "with another content; choose another folder, or replace them" in str(refused.error)
    again = process_files([f"{web}/clip.mkv"], tmp_path / "out", config, overwrite=True)
    assert again.finished[0].manifest.masks == FRAMES + 1


def test_damage_in_the_middle_is_decoded_around_and_located(tmp_path: Path, config: ProcessConfig) -> None:
    path = tmp_path / "scratched.ts"
    noise = np.random.default_rng(2).integers(0, 255, (50, 6, 8, 3), np.uint8)
    grown = [np.kron(n, np.ones((16, 16, 1), np.uint8)) for n in noise]
    write_video(path, grown, codec="mpeg2video", options={"g": "5"})
    data = bytearray(path.read_bytes())
    middle = len(data) // 2 // 188 * 188
    data[middle : middle + 188 * 40] = b"\0" * (188 * 40)
    path.write_bytes(data)
    result = process_files([path], tmp_path / "out", config)
    manifest = result.finished[0].manifest
    assert not result.whole
    assert from_runs(manifest.pts_runs) == decoded(path)
    assert 30 < manifest.masks == manifest.frames_decoded
    assert manifest.corrupt > 0
    assert manifest.damage is not None
    begin = (manifest.pts_runs[0][0] or 0) / 90000
    assert manifest.damaged_at_s
    assert all(0.5 < at - begin < 1.6 for at in manifest.damaged_at_s)
    assert [v.problems for v in verify_folder(tmp_path / "out")] == [[manifest.damage]]


def test_sound_before_the_picture_takes_no_frame_from_the_end(tmp_path: Path, config: ProcessConfig) -> None:
    path = tmp_path / "sound-first.mkv"
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=44100)
        video = container.add_stream("ffv1", rate=25)
        video.height, video.width, video.pix_fmt = 48, 64, "bgr0"
        for i, rgb in enumerate(pictures()):
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            frame.pts = i
            container.mux(video.encode(frame))
            noise = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            noise.sample_rate, noise.pts = 44100, i * 1024
            container.mux(sound.encode(noise))
        container.mux(video.encode())
        container.mux(sound.encode())
    with process_file(path, config) as masks:
        assert [m.pts for m in masks] == decoded(path) == [40 * i for i in range(FRAMES)]


def test_time_stamps_that_begin_again_are_mended_and_counted(tmp_path: Path, config: ProcessConfig) -> None:
    half = tmp_path / "half.ts"
    write_video(half, pictures(), options={"bf": "0"}, time_base=Fraction(1, 90000), pts=STEPS)
    path = tmp_path / "twice.ts"
    path.write_bytes(half.read_bytes() * 2)
    result = process_files([path], tmp_path / "out", config)
    manifest = result.finished[0].manifest
    wanted = decoded(path)
    assert wanted[:FRAMES] == wanted[FRAMES:]
    assert from_runs(manifest.pts_runs) == wanted
    found = [ticks for ticks, _ in read_labels(tmp_path / "out" / "twice.labels.mp4")]
    assert found == [STEPS[0] + 90000 * i for i in range(2 * FRAMES)]
    assert manifest.mended_time_stamps == FRAMES


STEPS = [900000 + 90000 * i for i in range(FRAMES)]


def test_the_packaged_clip_is_an_input_too() -> None:
    assert [(i.source, i.stem) for i in find_inputs(["demo:"])] == [(str(DEMO_CLIP), "demo")]


@pytest.mark.parametrize("name", ["list.ffconcat", "list.m3u8"])
def test_a_list_is_proved_by_what_it_names(tmp_path: Path, config: ProcessConfig, name: str) -> None:
    for i in (0, 1):
        write_video(tmp_path / f"{i}.ts", pictures(), codec="mpeg2video")
    head, line, end = {
        "list.ffconcat": ("ffconcat version 1.0\n", "file {}.ts\n", ""),
        "list.m3u8": (
            "#EXTM3U\n#EXT-X-TARGETDURATION:1\n",
            "#EXT-X-DISCONTINUITY\n#EXTINF:0.32,\n{}.ts\n",
            "#EXT-X-ENDLIST\n",
        ),
    }[name]
    path = tmp_path / name
    path.write_text(head + "".join(line.format(i) for i in (0, 1)) + end)
    out = tmp_path / "out"
    result = process_files([path], out, config)
    assert (result.whole, result.finished[0].manifest.masks) == (True, 2 * FRAMES)
    assert [v.problems for v in verify_folder(out)] == [[]]
    (tmp_path / "1.ts").write_bytes((tmp_path / "0.ts").read_bytes() + b"\xff" * 188)
    (verdict,) = verify_folder(out)
    assert "is not what was processed" in verdict.problems[0]
    assert "with another content" in str(process_files([path], out, config).failed[0].error)
    (tmp_path / "1.ts").unlink()
    result = process_files([path], out, config, overwrite=True)
    assert not result.whole
    if result.finished:  # HLS goes on without it
        assert f"1 missing: {tmp_path}/1.ts" in result.finished[0].manifest.problems()[-1]


class _Grows:
    """Appends to a file at each event, as a recorder does."""

    def __init__(self, path: Path, rest: bytes) -> None:
        self.path, self.rest = path, rest

    def __call__(self, event: object) -> None:
        if isinstance(event, Progressed):
            with self.path.open("ab") as file:
                file.write(self.rest[:1000])
            self.rest = self.rest[1000:]


@pytest.mark.parametrize("name", ["grows.mkv", "grows.ts", "grows.mjpeg"])
def test_a_recording_that_is_still_written_gets_no_proof_and_does_not_stop_the_others(
    tmp_path: Path, config: ProcessConfig, name: str
) -> None:
    codec = {"codec": "mjpeg", "pix_fmt": "yuvj420p"} if name.endswith("mjpeg") else {"codec": "mpeg2video"}
    path = tmp_path / name
    write_video(path, pictures(), **codec)  # type: ignore[arg-type]
    behind = draw_clip(tmp_path / "behind.mp4", frames=2)
    grows = _Grows(path, path.read_bytes())
    result = process_files([path, behind], tmp_path / "out", config, on_event=grows)
    assert "was still being written while it was processed" in str(result.failed[0].error)
    assert [f.manifest.masks for f in result.finished] == [2]
    assert not list((tmp_path / "out").glob("*grows*"))
    assert process_files([path], tmp_path / "out", config).finished[0].manifest.masks >= FRAMES
