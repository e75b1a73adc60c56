"""Killed at any moment, the same command finishes the job with the bytes of an uninterrupted one."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from streamseg.config import CrfConfig, EngineConfig, RefinementConfig
from streamseg.errors import OutputError
from streamseg.inference.backends.select import choices
from streamseg.inference.plans.cache import Agreement
from streamseg.inference.plans.proof import keep_proof
from streamseg.inference.plans.verify import Cost, Measured
from streamseg.recorded import Event, ProcessConfig, Started, process_files
from streamseg.recorded.events import Progressed
from streamseg.recorded.pending import is_pending
from streamseg.recorded.segments import segment_path, whole_segments
from tests.engines import write_two_forms
from tests.media import write_video
from tests.waiting import LIMIT_S

# Runs the command and kills itself at the given moment. Moments are what changes the folder of results, and
# every record of a segment. With 0 it runs through and says how many there were.
CHILD = """
import os, signal, sys
from streamseg.recorded import segments as segments
folder, at = sys.argv[1], int(sys.argv[2])
passed = 0

def moment():
    global passed
    passed += 1
    if passed == at:
        os.kill(os.getpid(), signal.SIGKILL)

def hook(event, args):
    if event in ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir") and folder in str(args[0]):
        moment()

write = segments.SegmentWriter._write
def writes(self, kind, data):
    moment()
    write(self, kind, data)
segments.SegmentWriter._write = writes
sys.addaudithook(hook)
sys.argv = ["streamseg", *sys.argv[3:]]
from streamseg.cli import main
try:
    main()
except SystemExit as end:
    print(passed)
    sys.exit(end.code)
"""


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """26 frames with B-frames between intra frames 5 apart."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    noise = np.random.default_rng(1).integers(0, 255, (26, 6, 8, 3), np.uint8)
    pictures = [np.kron(n, np.ones((8, 8, 1), np.uint8)) for n in noise]
    write_video(path, pictures, options={"g": "5", "bf": "2", "sc_threshold": "0"})
    path.with_name("zones.toml").write_text(
        "[zones.left]\npolygon = [[0, 0], [0.5, 0], [0.5, 1], [0, 1]]\n"
        '[events.red]\nzone = "left"\nclasses = ["red"]\nabove = 0.05\n'
    )
    return path


def run(clip: Path, out: Path, engine: Path, at: int) -> subprocess.CompletedProcess[str]:
    options = [
        "--out",
        str(out),
        "--engine",
        str(engine),
        "--threads",
        "1",
        "--segment-frames",
        "6",
        "--confidence",
        "--polygons",
        "both",
        "--zones",
        str(clip.with_name("zones.toml")),
    ]
    return subprocess.run(
        [sys.executable, "-c", CHILD, str(out), str(at), "process", str(clip), *options],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


@pytest.mark.parametrize(
    "kills", [2, pytest.param(int(os.environ.get("STREAMSEG_TEST_KILLS", "5")), marks=pytest.mark.slow)]
)
def test_killed_at_any_moment_the_same_command_ends_with_the_same_bytes(
    kills: int, clip: Path, tiny_engine: Path, tmp_path: Path
) -> None:
    whole = run(clip, tmp_path / "whole", tiny_engine, 0)
    assert whole.returncode == 0, whole.stderr
    moments = int(whole.stdout)
    wanted = contents(tmp_path / "whole")
    assert sorted(wanted) == [
        f"clip.{name}"
        for name in ("confidence.mp4", "labels.mp4", "manifest.json", "overlay.mp4",
                     "polygons.coco.json", "polygons.geojson", "summary.json", "zone-events.csv",
                     "zone-events.jsonl", "zones.csv", "zones.png")
    ]  # fmt: skip
    out, chance = tmp_path / "out", random.Random(6)
    # One in each part of the run, so that few kills still reach its end, where results get their names.
    for kill in range(kills):
        at = chance.randint(kill * moments // kills + 1, (kill + 1) * moments // kills)
        killed = run(clip, out, tiny_engine, at)
        assert killed.returncode == -signal.SIGKILL, f"moment {at} of {moments}"
        resumed = run(clip, out, tiny_engine, 0)
        assert resumed.returncode == 0, resumed.stderr
        assert contents(out) == wanted, f"moment {at} of {moments}"
        shutil.rmtree(out)


def test_killed_again_and_again_it_still_gets_there(clip: Path, tiny_engine: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ends = [run(clip, out, tiny_engine, 30 * i).returncode for i in (1, 2, 3)]
    assert ends == [-signal.SIGKILL] * 3
    assert run(clip, out, tiny_engine, 0).returncode == 0
    run(clip, tmp_path / "whole", tiny_engine, 0)
    assert contents(out) == contents(tmp_path / "whole")


@pytest.fixture
def config(tiny_engine: Path) -> ProcessConfig:
    return ProcessConfig(engine=EngineConfig(name=str(tiny_engine), threads=1), segment_frames=6)


def stop_after(clip: Path, out: Path, config: ProcessConfig, frames: int) -> None:
    """SegmentMaker until so many masks are there, as Ctrl-C would end it."""

    def on_event(event: Event) -> None:
        if getattr(event, "done", 0) == frames:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        process_files([clip], out, config, on_event=on_event)


def test_work_is_cut_at_intra_frames_and_ctrl_c_keeps_what_was_committed(
    clip: Path, config: ProcessConfig, tmp_path: Path
) -> None:
    stop_after(clip, tmp_path, config, 23)
    segments = tmp_path / ".clip.segments"
    assert sorted(p.name for p in segments.iterdir()) == [
        "000000.segment",
        "000001.segment",
        "job.json",
        "lock",
    ]
    assert [tail.frames for tail in whole_segments(segments).values()] == [
        10,
        10,
    ]  # two groups of five are the first to exceed six
    events: list[Event] = []
    process_files([clip], tmp_path, config, on_event=events.append)
    assert [e.why for e in events if isinstance(e, Started)] == ["continues from frame 20"]


def test_a_damaged_part_is_made_again(clip: Path, config: ProcessConfig, tmp_path: Path) -> None:
    process_files([clip], tmp_path / "whole", config)
    stop_after(clip, tmp_path, config, 23)
    segment = segment_path(tmp_path / ".clip.segments", 1)
    data = bytearray(segment.read_bytes())
    data[len(data) // 2] ^= 1
    segment.write_bytes(data)
    events: list[Event] = []
    process_files([clip], tmp_path, config, on_event=events.append)
    assert [e.why for e in events if isinstance(e, Started)] == ["continues from frame 10"]
    for name, wanted in contents(tmp_path / "whole").items():
        assert (tmp_path / name).read_bytes() == wanted, name


@pytest.mark.parametrize(
    "settings",
    [
        RefinementConfig(level="live", every=3),
        RefinementConfig(crf=CrfConfig(on="all")),
        RefinementConfig(lookahead=2),
    ],
)
def test_refinement_is_the_same_whether_interrupted_or_not(
    clip: Path, config: ProcessConfig, tmp_path: Path, settings: RefinementConfig
) -> None:
    refined = msgspec.structs.replace(config, refinement=settings, overlay=False)
    stop_after(clip, tmp_path, refined, 23)
    process_files([clip], tmp_path, refined)
    process_files([clip], tmp_path / "whole", refined)
    for name, wanted in contents(tmp_path / "whole").items():
        assert (tmp_path / name).read_bytes() == wanted, name


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 40 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=40k", "none", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_is_really_full_leaves_nothing_corrupt_and_resumes_when_there_is_room(
    clip: Path, config: ProcessConfig, tmp_path: Path, small_disk: Path
) -> None:
    process_files([clip], tmp_path / "whole", config)
    wanted = contents(tmp_path / "whole")
    out = small_disk / "out"
    for _ in range(2):  # trying again without room is the same clear end
        with pytest.raises(OutputError, match="the disk is full; make room and run the same command again"):
            process_files([clip], out, config)
        assert [p.name for p in out.iterdir() if not is_pending(p.name)] == [".clip.segments"]
        left = sorted(p.name for p in (out / ".clip.segments").iterdir())
        assert set(left) <= {"job.json", "lock", *(f"{i:06d}.segment" for i in range(3))}
        assert len(whole_segments(out / ".clip.segments")) == sum(name.endswith(".segment") for name in left)
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    events: list[Event] = []
    process_files([clip], out, config, on_event=events.append)
    assert [e.done > 0 for e in events if isinstance(e, Started)] == [True]
    assert contents(out) == wanted


def test_unfinished_work_of_another_job_is_not_used(
    clip: Path, config: ProcessConfig, tmp_path: Path
) -> None:
    stop_after(clip, tmp_path, config, 23)
    other = ProcessConfig(engine=config.engine, segment_frames=6, every=2)
    events: list[Event] = []
    process_files([clip], tmp_path, other, on_event=events.append)
    assert [e.why for e in events if isinstance(e, Started)] == ["starts again: settings.every was 1, is 2"]
    process_files([clip], tmp_path / "whole", other)
    for name, wanted in contents(tmp_path / "whole").items():
        assert (tmp_path / name).read_bytes() == wanted, name


def test_two_at_once_do_not_share_a_folder(clip: Path, config: ProcessConfig, tmp_path: Path) -> None:
    inside = []

    def on_event(event: Event) -> None:
        if isinstance(event, Started):
            inside.append(process_files([clip], tmp_path, config))

    assert process_files([clip], tmp_path, config, on_event=on_event).whole
    assert "another streamseg is working on it" in str(inside[0].failed[0].error)


def test_a_file_keeps_the_form_of_the_network_in_which_it_was_begun(clip: Path, tmp_path: Path) -> None:
    folder = write_two_forms(tmp_path / "tiny", gain=1 / 64)
    auto = ProcessConfig(engine=EngineConfig(name=str(folder), threads=1), overlay=False, segment_frames=5)
    int8 = choices(auto.engine)[0]
    agrees = Agreement(pictures=3, argmax_percent=100, max_difference=0, mean_difference=0)
    keep_proof(int8, Measured(agreement=agrees, cost=Cost(1, 1), fp32=Cost(2, 2)))
    fp32 = msgspec.structs.replace(auto, engine=msgspec.structs.replace(auto.engine, precision="fp32"))

    def engine(
        out: str, config: ProcessConfig, stop: threading.Event | None = None
    ) -> list[tuple[str, bool]]:
        ended = process_files(
            [clip], tmp_path / out, config, stop=stop,
            on_event=lambda event: stop.set() if stop and event == Progressed(str(clip), 12) else None,
        ).finished  # fmt: skip
        return [(one.manifest.identity.engine, one.again) for one in ended]

    assert engine("old", fp32) == [("tiny/fp32/onnx", False)]
    assert engine("old", auto) == [("tiny/fp32/onnx", True)], "finished in fp32, and left as it is"
    assert engine("begun", fp32, threading.Event()) == []
    assert engine("begun", auto) == [("tiny/fp32/onnx", False)], "goes on in fp32"
    assert engine("new", auto) == [("tiny/int8/onnx", False)]
    differs = msgspec.structs.replace(agrees, argmax_percent=90)
    keep_proof(int8, Measured(agreement=differs, cost=Cost(1, 1), fp32=Cost(2, 2)))
    assert engine("new", auto) == [("tiny/int8/onnx", True)]
    assert engine("newer", auto) == [("tiny/fp32/onnx", False)]
