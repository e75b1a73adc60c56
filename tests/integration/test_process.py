"""`process` on real files: one mask for each frame, the source's time stamps, nothing half-written."""

from __future__ import annotations

import errno
import itertools
import json
import os
import socket
import subprocess
import sys
import threading
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from streamseg.cli import cli
from streamseg.config import EngineConfig
from streamseg.errors import OutputError, SourceError, UsageError
from streamseg.recorded import (
    Event,
    Failed,
    Finished,
    Planned,
    ProcessConfig,
    Progressed,
    Started,
    process_file,
    process_files,
)
from streamseg.recorded import encode as work
from streamseg.recorded.manifest import read_manifest
from streamseg.recorded.pending import is_pending
from streamseg.recorded.segments import SegmentWriter
from streamseg.recorded.verify import verify_folder
from tests.media import BLUE, GREEN, RED, draw_clip, picture, write_audio, write_video
from tests.waiting import LIMIT_S


@pytest.fixture
def config(tiny_engine: Path) -> ProcessConfig:
    return ProcessConfig(engine=EngineConfig(name=str(tiny_engine), threads=1))


def stamps(path: Path) -> tuple[list[int | None], Fraction | None]:
    with av.open(str(path)) as container:
        return [f.pts for f in container.decode(video=0)], container.streams.video[0].time_base


def grey_pictures(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
        assert {f.format.name for f in frames} == {"gray"}
        return [f.to_ndarray() for f in frames]


def names(folder: Path) -> list[str]:
    """What is in a folder of results, besides the list of what is still to be done."""
    return sorted(p.name for p in folder.iterdir() if not is_pending(p.name))


def test_a_mask_comes_for_each_frame_in_order(tmp_path: Path, config: ProcessConfig) -> None:
    clip = draw_clip(tmp_path / "clip.mp4", frames=9, size=(96, 128))
    with process_file(clip, config) as masks:
        found = list(masks)
    assert [(m.n, m.seq, m.run) for m in found] == [(i, i, 0) for i in range(9)]
    assert [m.pts for m in found] == stamps(clip)[0]
    shares = [float((m.labels == 1).mean()) for m in found]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_masks_also_come_in_a_plain_loop(tmp_path: Path, config: ProcessConfig) -> None:
    clip = draw_clip(tmp_path / "clip.mp4", frames=5)
    before = set(threading.enumerate())
    assert [m.n for m in process_file(clip, config)] == [0, 1, 2, 3, 4]
    assert [m.n for m, _ in zip(process_file(clip, config), range(2), strict=False)] == [0, 1]
    assert not {t.name for t in set(threading.enumerate()) - before} & {"decode", "infer", "fuse"}


def test_leaving_early_ends_the_threads(tmp_path: Path, config: ProcessConfig) -> None:
    clip = draw_clip(tmp_path / "clip.mp4", frames=60)
    before = set(threading.enumerate())
    with process_file(clip, config) as masks:
        assert [m.n for m in itertools.islice(masks, 3)] == [0, 1, 2]
    alive = {t.name for t in set(threading.enumerate()) - before}
    assert not alive & {"decode", "infer", "fuse"}


@pytest.mark.parametrize(
    ("time_base", "pts"),
    [
        (Fraction(1, 15360), [777, 1801, 2830, 2831, 99999]),
        (Fraction(1, 200000), [0, 20001, 40003, 60000, 80000]),
        (Fraction(1, 1000), [5, 38, 72, 105, 4000]),
    ],
)
def test_the_result_videos_have_the_sources_time_stamps(
    tmp_path: Path, config: ProcessConfig, time_base: Fraction, pts: list[int]
) -> None:
    clip = tmp_path / "clip.mp4"
    scale = str(time_base.denominator)
    write_video(
        clip,
        [picture((48, 64), i / 5) for i in range(5)],
        time_base=time_base,
        pts=pts,
        options={"bf": "0"},
        container_options={"video_track_timescale": scale, "movie_timescale": scale},
    )
    assert stamps(clip) == (pts, time_base)
    process_files([clip], tmp_path / "out", config)
    for name in ("labels", "overlay"):
        assert stamps(tmp_path / "out" / f"clip.{name}.mp4") == (pts, time_base)


def test_labels_keep_an_odd_size_and_read_the_same_in_common_tools(
    tmp_path: Path, config: ProcessConfig
) -> None:
    clip = tmp_path / "clip.mkv"
    pictures = [picture((49, 65), 0.2 * i, c) for i, c in enumerate([RED, GREEN, BLUE, RED, GREEN])]
    write_video(clip, pictures, codec="ffv1", pix_fmt="bgr0")
    process_files([clip], tmp_path / "out", config)
    path = tmp_path / "out" / "clip.labels.mp4"
    with process_file(clip, config) as masks:
        wanted = [m.labels for m in masks]
    found = grey_pictures(path)
    assert [f.shape for f in found] == [(49, 65)] * 5
    assert all((a == b).all() for a, b in zip(found, wanted, strict=True))
    capture = cv2.VideoCapture(str(path))
    for labels in wanted:
        read, image = capture.read()
        assert read
        assert (image == labels[..., None]).all()
    capture.release()
    with av.open(str(tmp_path / "out" / "clip.overlay.mp4")) as overlay:
        frame = next(overlay.decode(video=0))
        assert (frame.format.name, frame.width) == ("yuv420p", 66)
        assert frame.height > 50  # the legend lies below the picture
        assert frame.height % 2 == 0


def test_the_overlay_shows_the_picture_in_the_colours_of_its_classes(
    tmp_path: Path, config: ProcessConfig
) -> None:
    clip = tmp_path / "clip.mkv"
    write_video(clip, [picture((96, 128), 1.0, BLUE)], codec="ffv1", pix_fmt="bgr0")
    process_files([clip], tmp_path / "out", config)
    with av.open(str(tmp_path / "out" / "clip.overlay.mp4")) as overlay:
        rgb = next(overlay.decode(video=0)).to_ndarray(format="rgb24")
    mixed = (np.array([40, 60, 220]) + np.array([0, 0, 255])) / 2
    assert np.abs(rgb[20:76, 20:108].reshape(-1, 3).mean(0) - mixed).max() < 6
    assert rgb[98:].std() > 10  # swatches and names


def test_the_summary_tells_class_shares_over_time(tmp_path: Path, config: ProcessConfig) -> None:
    clip = tmp_path / "clip.mkv"
    pictures = [picture((48, 64), 1.0, RED)] * 25 + [picture((48, 64), 1.0, GREEN)] * 50
    write_video(clip, pictures, codec="ffv1", pix_fmt="bgr0")
    process_files([clip], tmp_path / "out", config)
    summary = json.loads((tmp_path / "out" / "clip.summary.json").read_text())
    assert summary["frames"] == 75
    assert [c["share"] for c in summary["classes"]] == pytest.approx([0, 1 / 3, 2 / 3, 0], abs=1e-6)
    assert (summary["classes"][2]["first_s"], summary["classes"][2]["last_s"]) == (1.0, 2.96)
    assert [b["shares"] for b in summary["over_time"]] == [{"red": 1.0}, {"green": 1.0}, {"green": 1.0}]


def test_several_files_are_told_apart_and_events_tell_of_each(tmp_path: Path, config: ProcessConfig) -> None:
    (tmp_path / "b").mkdir()
    clips = [tmp_path / "a.mp4", tmp_path / "b" / "a.mp4", tmp_path / "nothing.mp4"]
    for clip in clips[:2]:
        draw_clip(clip, frames=4)
    events: list[Event] = []
    result = process_files(clips, tmp_path / "out", config, on_event=events.append)
    assert [type(e) for e in events[1:]] == [Started, *[Progressed] * 4, Finished] * 2 + [Failed]
    assert events[0] == Planned(tuple(str(clip) for clip in clips))
    assert len({f.path for f in result.finished}) == 2
    assert "no such file" in str(result.failed[0].error)
    assert not result.whole


def test_results_are_the_same_bytes_however_threads_ran(
    tmp_path: Path, config: ProcessConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = draw_clip(tmp_path / "clip.mp4", frames=30)
    process_files([clip], tmp_path / "one", config)
    monkeypatch.setattr(work, "Prefetcher", lambda name, items: _InPlace(items))
    process_files([clip], tmp_path / "two", config)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name


class _InPlace:
    """A step in the plain loop, without a thread."""

    def __init__(self, items: object) -> None:
        self.items = items

    def __iter__(self) -> object:
        return iter(self.items)  # type: ignore[call-overload]

    def close(self) -> None:
        self.items.close()  # type: ignore[attr-defined]


def test_a_finished_job_is_left_alone_and_another_setting_begins_anew(
    tmp_path: Path, config: ProcessConfig
) -> None:
    clip, out = draw_clip(tmp_path / "clip.mp4", frames=4), tmp_path / "out"
    process_files([clip], out, config)
    before = {p.name: p.stat().st_mtime_ns for p in out.iterdir()}
    events: list[Event] = []
    process_files([clip], out, config, on_event=events.append)
    assert [e.again for e in events if isinstance(e, Finished)] == [True]
    assert {p.name: p.stat().st_mtime_ns for p in out.iterdir()} == before

    events.clear()
    half = ProcessConfig(engine=config.engine, scale=0.5, overlay=False)
    process_files([clip], out, half, on_event=events.append)
    (started,) = [e for e in events if isinstance(e, Started)]
    assert "settings.scale was 1.0, is 0.5" in started.why
    assert grey_pictures(out / "clip.labels.mp4")[0].shape == (24, 32)
    assert names(out) == ["clip.labels.mp4", "clip.manifest.json", "clip.summary.json"]


def test_files_of_somebody_else_are_not_overwritten_unasked(tmp_path: Path, config: ProcessConfig) -> None:
    clip, out = draw_clip(tmp_path / "clip.mp4", frames=4), tmp_path / "out"
    out.mkdir()
    (out / "clip.overlay.mp4").write_text("mine")
    result = process_files([clip], out, config)
    assert "clip.overlay.mp4: exists already" in str(result.failed[0].error)
    assert names(out) == ["clip.overlay.mp4"]
    assert process_files([clip], out, config, overwrite=True).whole
    assert stamps(out / "clip.overlay.mp4") == stamps(clip)


def test_results_of_another_recording_are_never_removed_unasked(
    tmp_path: Path, config: ProcessConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    for day, frames in (("day1", 3), ("day2", 5), ("day3", 4)):
        (tmp_path / day).mkdir()
        draw_clip(tmp_path / day / "cam.mp4", frames=frames)
    few = ProcessConfig(engine=config.engine, overlay=False)
    for day in ("day1", "day2"):
        assert process_files([tmp_path / day / "cam.mp4"], out, few).whole
    masks = {read_manifest(path).input: read_manifest(path).masks for path in out.glob("*.manifest.json")}
    assert masks == {f"{tmp_path}/day1/cam.mp4": 3, f"{tmp_path}/day2/cam.mp4": 5}
    for day in ("day1", "day2"):  # from inside its folder it is the same recording
        monkeypatch.chdir(tmp_path / day)
        assert process_files(["cam.mp4"], out, few).finished[0].again
    monkeypatch.chdir(tmp_path / "day3")
    assert process_files(["cam.mp4"], out, few).finished[0].path == f"{out}/day3-cam.mp4.manifest.json"
    draw_clip(tmp_path / "day1" / "cam.mp4", frames=7)  # the same name, and another content
    (failed,) = process_files([tmp_path / "day1" / "cam.mp4"], out, few).failed
    assert f"holds the results of {tmp_path}/day1/cam.mp4 with another content" in str(failed.error)
    assert read_manifest(out / "cam.manifest.json").masks == 3
    process_files([tmp_path / "day1" / "cam.mp4"], out, few, overwrite=True)
    assert read_manifest(out / "cam.manifest.json").masks == 7
    process_files([tmp_path / "day3" / "cam.mp4"], tmp_path / "one", few)
    process_files([tmp_path / "day1" / "cam.mp4"], tmp_path / "one", few, overwrite=True)
    assert [p.name for p in (tmp_path / "one").glob("*.manifest.json")] == ["cam.manifest.json"]


def test_results_keep_their_names_when_a_camera_is_added(tmp_path: Path, config: ProcessConfig) -> None:
    few = ProcessConfig(engine=config.engine, overlay=False)
    names = {3: "0001", 2: "cam2-0001.mp4", 1: "cam1-0001.mp4"}  # by camera, in the order that they come
    for count, camera in enumerate(names, 1):
        (tmp_path / f"arch/cam{camera}").mkdir(parents=True)
        draw_clip(tmp_path / f"arch/cam{camera}/0001.mp4", frames=1 + camera % 2)  # two are equal
        result = process_files([tmp_path / "arch"], tmp_path / "out", few)
        assert [f.again for f in result.finished].count(False) == 1
        found = {Path(f.path).name for f in result.finished}
        assert found == {f"{name}.manifest.json" for name in list(names.values())[:count]}
    assert [p for v in verify_folder(tmp_path / "out") for p in v.problems] == []


def test_an_input_that_fails_on_its_way_does_not_end_the_others(
    tmp_path: Path, config: ProcessConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever one input raises, and however it looks: FFmpeg's errors have the numbers of the system's."""
    clips = [draw_clip(tmp_path / f"{name}.mp4", frames=3 + i) for i, name in enumerate("abcd")]
    few = ProcessConfig(engine=config.engine, overlay=False)
    causes = [
        av.error.PermissionError(errno.EPERM, "Operation not permitted"),
        OSError(errno.EINVAL, "Invalid argument"),
        ValueError("unsupported"),
    ]
    write = SegmentWriter.frame

    def frame(self: SegmentWriter, record: object) -> None:
        for name, cause in zip("abc", causes, strict=True):
            if f".{name}.segments" in str(self.path):
                raise cause
        write(self, record)  # type: ignore[arg-type]

    monkeypatch.setattr(SegmentWriter, "frame", frame)
    result = process_files(clips, tmp_path / "out", few)
    for failed, clip in zip(result.failed, clips[:3], strict=True):
        assert str(failed.error).startswith(f"{clip}: its results cannot be made (")
    assert [f.input for f in result.finished] == [str(clips[3])]
    assert names(tmp_path / "out") == ["d.labels.mp4", "d.manifest.json", "d.summary.json"]


@pytest.mark.parametrize("size", [(32, 17000), (17000, 32)])
def test_pictures_too_large_for_the_overlay_have_their_masks(
    tmp_path: Path, config: ProcessConfig, size: tuple[int, int]
) -> None:
    clip = tmp_path / "wide.mkv"
    write_video(clip, [picture(size, 1.0, BLUE)] * 2, codec="ffv1", pix_fmt="bgr0")
    result = process_files([clip], tmp_path / "out", config)
    assert not result.whole
    manifest = result.finished[0].manifest
    assert manifest.masks == 2
    assert "H.264 in MP4 cannot hold it" in manifest.not_made["overlay"]
    assert set(manifest.outputs) == {"labels", "summary"}
    (verdict,) = verify_folder(tmp_path / "out")
    assert verdict.problems == manifest.problems()
    assert not process_files([clip], tmp_path / "out", config).whole
    without = ProcessConfig(engine=config.engine, overlay=False)  # which is asking it away
    assert process_files([clip], tmp_path / "out", without).whole
    assert [v.problems for v in verify_folder(tmp_path / "out")] == [[]]


def bad_inputs(folder: Path) -> dict[str, Path]:
    (folder / "folder").mkdir()
    (folder / "text.mp4").write_text("not a video\n" * 50)
    (folder / "empty.mp4").touch()
    write_audio(folder / "sound.m4a")
    whole = draw_clip(folder / "whole.mp4", frames=30).read_bytes()
    (folder / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    return {
        "no such file": folder / "missing.mp4",
        "is text, not a video": folder / "text.mp4",
        "is empty": folder / "empty.mp4",
        "no video in it": folder / "sound.m4a",
        "cut off": folder / "cut.mp4",
    }


def test_what_is_no_video_gives_one_line_and_no_result(tmp_path: Path, tiny_engine: Path) -> None:
    for words, path in bad_inputs(tmp_path).items():
        out = tmp_path / "out"
        ran = CliRunner().invoke(cli, ["process", str(path), "--out", str(out), "--engine", str(tiny_engine)])
        lines = ran.stderr.splitlines()
        assert (ran.exit_code, len(lines)) == (1, 1), ran.stderr
        assert lines[0].startswith(f"streamseg: {path}: ")
        assert words in lines[0]
        assert names(out) == []


def test_a_truncated_file_gives_what_can_be_decoded_and_says_so(tmp_path: Path, tiny_engine: Path) -> None:
    whole = tmp_path / "whole.mkv"
    noise = np.random.default_rng(0).integers(0, 255, (40, 48, 64, 3), np.uint8)
    write_video(whole, list(noise), codec="mpeg4", options={"g": "5"})
    data = whole.read_bytes()
    (tmp_path / "cut.mkv").write_bytes(data[: len(data) * 2 // 3])
    args = ["process", str(tmp_path / "cut.mkv"), "--out", str(tmp_path), "--engine", str(tiny_engine)]
    ran = CliRunner().invoke(cli, args)
    assert ran.exit_code == 1
    assert "cut.mkv: damaged; " in ran.stderr
    manifest = read_manifest(tmp_path / "cut.manifest.json")
    assert 0 < manifest.masks == manifest.frames_decoded < 40
    assert manifest.damage is not None
    assert len(grey_pictures(tmp_path / "cut.labels.mp4")) == manifest.masks


def test_names_of_any_bytes_are_processed_verified_and_told_in_one_line_each(
    tmp_path: Path, tiny_engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    clip = draw_clip(tmp_path / "clip.mp4", frames=2)
    names = [b"caf\xe9.mp4", b"~nobody.mp4", b"two\nlines.mp4", b"-x.mp4", b" a b .MP4", b"n" * 250 + b".mp4"]
    odd = [os.fsdecode(name) for name in names]
    for i, name in enumerate(odd):
        Path(name).write_bytes(clip.read_bytes() if i else draw_clip(clip, frames=3).read_bytes())
    out = os.fsdecode(b"r\xe9sultats")
    options = ["--out", out, "--engine", str(tiny_engine), "--no-overlay"]
    ran = CliRunner().invoke(cli, ["process", *options, "--", *odd, *odd])
    assert ran.exit_code == 0, ran.stderr
    lines = ran.stderr.splitlines()
    assert len(lines) == len(odd)
    assert lines[0].startswith("caf\\xe9.mp4: 3 masks in ")
    ran = CliRunner().invoke(cli, ["verify", out])
    assert ran.exit_code == 0
    assert ran.stdout.count(": whole, ") == len(odd)
    assert "source was not found" not in ran.stdout
    listed = b"caf\xe9.mp4\n-x.mp4\r\n a b .MP4\n\n"
    ran = CliRunner().invoke(cli, ["process", *options, "-"], input=listed)
    assert ran.exit_code == 0, ran.stderr
    assert [line.split(": ")[1][:16] for line in ran.stderr.splitlines()] == ["already finished"] * 3
    for args in (["process", "", "--out", out], ["process", "clip.mp4", "--out", ""], ["verify", ""]):
        ran = CliRunner().invoke(cli, [*args, *options[2:4]] if args[0] == "process" else args)
        assert isinstance(ran.exception, UsageError), args


@pytest.mark.parametrize("kind", ["pipe", "socket", "device"])
def test_what_can_be_read_once_only_is_no_recording(tmp_path: Path, config: ProcessConfig, kind: str) -> None:
    path = tmp_path / f"{kind}.mp4"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path = Path("/dev/zero")
    else:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(path))
    result = process_files([path, draw_clip(tmp_path / "clip.mp4", frames=2)], tmp_path / "out", config)
    assert f"{path}: is a {kind}" in str(result.failed[0].error).replace("pipe or socket", kind)
    assert len(result.finished) == 1
    with pytest.raises(SourceError, match=": is a "), process_file(path, config):
        pass


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path: Path, config: ProcessConfig) -> None:
    clip = draw_clip(tmp_path / "clip.mp4", frames=4)
    with pytest.raises(OutputError, match=r"clip\.mp4: is a file, not a folder"):
        process_files([clip], clip, config)
    if os.geteuid():  # root may write anywhere
        (tmp_path / "shut").mkdir(mode=0o500)
        with pytest.raises(OutputError, match="cannot be written to; choose another folder"):
            process_files([clip], tmp_path / "shut", config)


def test_a_full_disk_ends_the_job_and_the_same_command_goes_on(
    tmp_path: Path, config: ProcessConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip, out = draw_clip(tmp_path / "clip.mp4", frames=12), tmp_path / "out"
    config = ProcessConfig(
        engine=config.engine, segment_frames=1
    )  # the clip's one intra frame: segments of 4
    process_files([clip], tmp_path / "whole", config)
    write, left = SegmentWriter.frame, itertools.count()

    def frame(self: SegmentWriter, record: object) -> None:
        if next(left) == 6:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, record)  # type: ignore[arg-type]

    monkeypatch.setattr(SegmentWriter, "frame", frame)
    with pytest.raises(OutputError, match="the disk is full; make room"):
        process_files([clip], out, config)
    monkeypatch.setattr(SegmentWriter, "frame", write)
    assert names(out) == [".clip.segments"]
    events: list[Event] = []
    process_files([clip], out, config, on_event=events.append)
    assert [e.why for e in events if isinstance(e, Started)] == ["continues from frame 4"]
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (out / path.name).read_bytes(), path.name


def test_wrong_settings_are_refused_before_anything_is_read(tmp_path: Path, config: ProcessConfig) -> None:
    with pytest.raises(UsageError, match="nothing to process"):
        process_files([], tmp_path, config)
    with pytest.raises(UsageError, match="end_s: must be above start_s"):
        process_files(["a.mp4"], tmp_path, ProcessConfig(engine=config.engine, start_s=3, end_s=2))
    with pytest.raises(SourceError, match="no such file"), process_file(tmp_path / "a.mp4", config) as masks:
        next(masks)


def test_the_command_prints_a_line_for_each_file(tmp_path: Path, tiny_engine: Path) -> None:
    clip = draw_clip(tmp_path / "clip.mp4", frames=4)
    options = ["--out", str(tmp_path), "--engine", str(tiny_engine)]
    command = [sys.executable, "-m", "streamseg", "process", str(clip), *options]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
    assert (ran.returncode, ran.stdout) == (0, "")
    assert ran.stderr.startswith(f"{clip}: 4 masks in ")
    assert len(ran.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("clip", "frames"),
    [
        ("camvid_0016E5_15hz.mp4", 101),
        ("car-detection.mp4", 377),
        ("one-by-one-person-detection.mp4", 1394),
    ],
)
@pytest.mark.slow
def test_every_frame_of_the_real_clips_has_its_mask(
    shared_data: Path, tmp_path: Path, config: ProcessConfig, clip: str, frames: int
) -> None:
    path = shared_data / "video" / clip
    process_files([path], tmp_path, ProcessConfig(engine=config.engine, overlay=frames < 200))
    found, time_base = stamps(path)
    assert len(found) == frames
    assert stamps(tmp_path / f"{path.stem}.labels.mp4") == (found, time_base)
    assert read_manifest(tmp_path / f"{path.stem}.manifest.json").masks == frames
