"""Any recording: a mask for each picture that FFmpeg decodes, at its time, or a line on what is missing."""

from __future__ import annotations

import contextlib
import itertools
import random
from fractions import Fraction
from pathlib import Path

import pytest

from streamseg.config import EngineConfig
from streamseg.errors import SourceError
from streamseg.recorded import ProcessConfig, process_files
from streamseg.recorded.inputs import Input
from streamseg.recorded.manifest import Manifest
from streamseg.recorded.opening import open_input, probe
from streamseg.recorded.segment_plan import OtherPictures, SegmentRoute, plan_segments
from streamseg.recorded.selection import Account, picks
from streamseg.recorded.timeline import from_runs
from streamseg.recorded.verify import verify_folder
from tests.recordings import BARE, SHOWS_CUTS, Made, make, probed

QUICK, SLOW, SOAK = 24, 60, 2000  # the recordings up to these numbers, each run with those before it
MASKED = 12  # every so many cases, masks are made as well


def decoded(one: Input, config: ProcessConfig) -> tuple[list[int | None], list[Fraction], str | None]:
    """Time stamps, times, and what is missing."""
    account = Account()
    try:
        with open_input(one, config) as source:
            found = [pick.picture for pick in picks(source, config, account)]
    except SourceError as error:
        return [], [], str(error)
    return [p.image.pts for p in found], [p.time_s for p in found], account.line


def agree(made: Made, stamps: list[int | None], truth: list[int | None]) -> bool:
    """Whether these are the pictures of ffprobe; where it knows no time, any is right."""
    if made.kind in BARE:
        return len(stamps) == len(truth)
    return len(stamps) == len(truth) and all(b is None or a == b for a, b in zip(stamps, truth, strict=True))


def check(seed: int, folder: Path, engine: Path) -> None:
    made = make(seed, folder)
    one, config = Input(str(made.path), "s"), ProcessConfig(track=made.track, segment_frames=4)
    stamps, times, line = decoded(one, config)
    truth = probed(made)
    assert agree(made, stamps, truth) or line, (made, stamps, truth)
    if made.damage == "none":
        assert (len(stamps), line) == (made.pictures, None), made
        assert agree(made, stamps, truth), (made, stamps, truth)
    if made.damage == "cut" and made.kind in SHOWS_CUTS and len(stamps) < made.pictures:
        assert line, made
    if not times:
        return
    rng = random.Random(seed)
    _check_choice(rng, one, config, stamps, times)
    if made.damage == "none":
        _check_segments(rng, one, config)
    else:
        with contextlib.suppress(OtherPictures):  # of damaged data FFmpeg may show what its buffers held
            _check_segments(rng, one, config)
    if seed % MASKED == 0:
        _check_masks(made, folder, engine, stamps, line)
    made.path.unlink()


def _check_choice(
    rng: random.Random, one: Input, config: ProcessConfig, stamps: list[int | None], times: list[Fraction]
) -> None:
    """--start and --end take what choosing from all pictures takes."""
    begin, end = sorted(float(rng.choice(times)) for _ in range(2))
    chosen = ProcessConfig(
        track=config.track, start_s=max(0.0, round(begin - 0.01, 3)), end_s=max(0.001, round(end + 0.01, 3))
    )
    assert chosen.end_s is not None
    wanted = [
        stamp
        for stamp, time_s in zip(stamps, times, strict=True)
        if (not chosen.start_s or time_s >= Fraction(repr(chosen.start_s)))
        and time_s < Fraction(repr(chosen.end_s))
    ]
    assert decoded(one, chosen)[0] == wanted, (one, chosen)


def _check_segments(rng: random.Random, one: Input, config: ProcessConfig) -> None:
    """A segment decoded by itself has the pictures that the whole file has there; else it says so."""
    recording = probe(one, config, [])
    planned = rng.choice(list(plan_segments(recording)))
    frames = SegmentRoute(recording, planned=planned, seeks=False).frames()
    assert [f.stamp.seq for f in itertools.islice(frames, len(planned.seqs))] == planned.seqs  # type: ignore[union-attr]
    for _ in frames:  # raises OtherPictures
        pass


def _check_masks(made: Made, folder: Path, engine: Path, stamps: list[int | None], line: str | None) -> None:
    out = folder / f"{made.path.name}.out"
    config = ProcessConfig(
        engine=EngineConfig(name=str(engine), threads=1), track=made.track, overlay=False, segment_frames=8
    )
    result = process_files([made.path], out, config)
    manifest: Manifest = result.finished[0].manifest
    assert from_runs(manifest.pts_runs) == stamps, made
    assert (manifest.masks, manifest.frames_decoded, manifest.dropped) == (len(stamps), len(stamps), 0), made
    assert (manifest.damage is None) == result.whole == (line is None), made
    problems = [problem for verdict in verify_folder(out) for problem in verdict.problems]
    assert all(line is not None and "damage" in problem for problem in problems), (made, problems)


@pytest.mark.parametrize("third", range(3))
def test_a_random_recording_has_one_mask_for_each_picture_or_says_what_is_missing(
    third: int, tmp_path: Path, tiny_engine: Path
) -> None:
    for seed in range(third * QUICK // 3, (third + 1) * QUICK // 3):
        check(seed, tmp_path, tiny_engine)


@pytest.mark.slow
@pytest.mark.parametrize("third", range(3))
def test_more_random_recordings(third: int, tmp_path: Path, tiny_engine: Path) -> None:
    more = SLOW - QUICK
    for seed in range(QUICK + third * more // 3, QUICK + (third + 1) * more // 3):
        check(seed, tmp_path, tiny_engine)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_two_thousand_random_recordings(tmp_path: Path, tiny_engine: Path) -> None:
    for seed in range(SLOW, SLOW + SOAK):
        check(seed, tmp_path, tiny_engine)
