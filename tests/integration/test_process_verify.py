"""`verify` finds whatever was changed in a folder of results, and nothing where nothing was."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from streamseg.cli import cli
from streamseg.config import EngineConfig
from streamseg.errors import UsageError
from streamseg.recorded import Event, Finished, ProcessConfig, process_files
from streamseg.recorded.manifest import Manifest, Output, read_manifest, result_sha256
from streamseg.recorded.verify import verify_folder
from tests.media import draw_clip, write_video


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_engine: Path) -> Path:
    """A clip and its results, to be copied."""
    folder = tmp_path_factory.mktemp("made")
    clip = draw_clip(folder / "clip.mp4", frames=12)
    other = draw_clip(folder / "other.mp4", frames=12, size=(64, 48))
    config = ProcessConfig(engine=EngineConfig(name=str(tiny_engine), threads=1), confidence=True)
    process_files([clip, other], folder / "out", config)
    return folder


@pytest.fixture
def out(made: Path, tmp_path: Path) -> Path:
    for path in (made / "out").glob("clip.*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def test_untouched_results_are_whole_with_and_without_their_source(made: Path, out: Path) -> None:
    (verdict,) = verify_folder(out)
    assert (verdict.problems, verdict.masks, verdict.source_checked) == ([], 12, True)
    (verdict,) = verify_folder(out, sources=out)
    assert (verdict.problems, verdict.source_checked) == ([], False)
    ran = CliRunner().invoke(cli, ["verify", str(out), "--sources", str(made), "--json"])
    assert ran.exit_code == 0
    assert json.loads(ran.stdout)["whole"] is True


@pytest.mark.parametrize("name", ["labels.mp4", "confidence.mp4", "overlay.mp4", "summary.json"])
def test_one_changed_byte_is_found(out: Path, name: str) -> None:
    path = out / f"clip.{name}"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    ran = CliRunner().invoke(cli, ["verify", str(out)])
    assert ran.exit_code == 1
    assert f"streamseg: {path.name}: has been changed" in ran.stderr


def test_a_missing_result_is_found(out: Path) -> None:
    (out / "clip.overlay.mp4").unlink()
    (verdict,) = verify_folder(out)
    assert any("clip.overlay.mp4: cannot be read" in p for p in verdict.problems)


def forge(out: Path, **changes: object) -> None:
    """Change the manifest, as somebody would who wants it to fit."""
    path = out / "clip.manifest.json"
    path.write_bytes(msgspec.structs.replace(read_manifest(path), **changes).encode())


def swap_labels(out: Path, made: Path) -> None:
    """Put another clip's labels in place, with their right hash as a file."""
    path = out / "clip.labels.mp4"
    path.write_bytes((made / "out" / "other.labels.mp4").read_bytes())
    outputs = dict(read_manifest(out / "clip.manifest.json").outputs)
    outputs["labels"] = Output(path.name, path.stat().st_size, result_sha256(path))
    forge(out, outputs=outputs)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda m: {"masks": 11}, "12 time stamps for 11 masks"),
        (lambda m: {"pts_runs": [(0, 513, 12)]}, "are not those of pts_sha256"),
        (lambda m: {"labels_sha256": "0" * 64}, "its labels are not those of labels_sha256"),
        (lambda m: {"settings_sha256": "0" * 64}, "its settings are not those"),
        (lambda m: {"dropped": 1}, "1 frames have no mask"),
        (lambda m: {"frames_decoded": 369 + 12}, "369 frames have no mask"),
        (lambda m: {"corrupt": 2}, "2 pictures or packets could not be decoded"),
        (lambda m: {"damage": "clip.mp4: damaged; it ends early"}, "clip.mp4: damaged; it ends early"),
        (lambda m: {"missing": ("i03.png", "i05.png")}, "2 missing: i03.png, i05.png"),
        (lambda m: {"not_made": {"overlay": "too wide"}}, "no overlay: too wide"),
        (lambda m: {"seq_runs": [(0, 1, 11)]}, "has other numbers of frames than masks"),
        (lambda m: {"frames_decoded": 13}, "12 frames decoded, the manifest has 13"),
        (lambda m: {"frames_found": 13}, "do not add up"),
        (lambda m: {"frames_left_out": 1}, "do not add up"),
        (lambda m: {"frames_promised": 13}, "promises 12 frames, the manifest has 13"),
        (lambda m: {"seq_runs": [(1, 1, 12)]}, "its frames have other numbers"),
        (lambda m: {"outputs": {}}, "names no labels, which was asked for"),
        (lambda m: {"outputs": {k: v for k, v in m.outputs.items() if k != "overlay"}}, "names no overlay"),
        (lambda m: {"outputs": {k: v for k, v in m.outputs.items() if k != "summary"}}, "names no summary"),
        (lambda m: {"container": {}}, "clip.manifest.json: is damaged (KeyError"),
        (lambda m: {"time_base": "1/0"}, "clip.manifest.json: is damaged (ZeroDivisionError"),
        (lambda m: {"outputs": m.outputs | {"labels": Output("a\0b", 1, "")}}, "is damaged (ValueError"),
        (
            lambda m: {"identity": msgspec.structs.replace(m.identity, source_sha256="0" * 64)},
            "is not what was processed",
        ),
    ],
)
def test_a_manifest_that_does_not_fit_is_found(
    out: Path, change: Callable[[Manifest], dict[str, object]], found: str
) -> None:
    forge(out, **change(read_manifest(out / "clip.manifest.json")))
    (verdict,) = verify_folder(out)
    assert any(found in p for p in verdict.problems), verdict.problems


def test_labels_of_another_clip_are_found(made: Path, out: Path) -> None:
    swap_labels(out, made)
    (verdict,) = verify_folder(out)
    assert any("labels are not those of labels_sha256" in p for p in verdict.problems)


def test_a_cut_recording_is_not_whole_however_often_it_is_asked(
    made: Path, tmp_path: Path, tiny_engine: Path
) -> None:
    config = ProcessConfig(engine=EngineConfig(name=str(tiny_engine), threads=1), overlay=False)
    noise = np.random.default_rng(0).integers(0, 255, (40, 48, 64, 3), np.uint8)
    write_video(tmp_path / "cut.mkv", list(noise), codec="mpeg4", options={"g": "5"})
    data = (tmp_path / "cut.mkv").read_bytes()
    (tmp_path / "cut.mkv").write_bytes(data[: len(data) * 2 // 3])
    for _ in range(2):
        result = process_files([tmp_path / "cut.mkv"], tmp_path / "out", config)
        assert not result.whole
        (verdict,) = verify_folder(tmp_path / "out")
        assert verdict.problems == [result.finished[0].manifest.damage]


def test_what_was_asked_for_and_has_no_results_is_told(made: Path, tmp_path: Path, tiny_engine: Path) -> None:
    config = ProcessConfig(engine=EngineConfig(name=str(tiny_engine), threads=1), overlay=False)
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("no video\n" * 9)
    out = tmp_path / "out"
    inputs = [made / "clip.mp4", tmp_path / "empty.mp4", tmp_path / "text.mp4", tmp_path / "gone.mp4"]
    assert not process_files(inputs, out, config).whole
    problems = [p for verdict in verify_folder(out) for p in verdict.problems]
    assert [p.split(": ")[0] for p in problems] == [str(path) for path in inputs[1:]]
    assert all("(asked for by .streamseg-" in p for p in problems)
    (tmp_path / "empty.mp4").write_bytes((made / "other.mp4").read_bytes())
    (tmp_path / "text.mp4").write_bytes((made / "other.mp4").read_bytes())
    process_files(inputs[1:3], out, config)
    assert [p.split(": ")[0] for v in verify_folder(out) for p in v.problems] == [str(inputs[3])]
    draw_clip(tmp_path / "gone.mp4", frames=3)
    assert process_files(inputs, out, config).whole
    assert [p for v in verify_folder(out) for p in v.problems] == []
    assert not [p for p in out.iterdir() if p.name.startswith(".")]


def test_damage_that_a_manifest_does_not_tell_is_found(tmp_path: Path, tiny_engine: Path) -> None:
    config = ProcessConfig(engine=EngineConfig(name=str(tiny_engine), threads=1), overlay=False)
    clip, out = tmp_path / "clip.mkv", tmp_path / "out"
    noise = np.random.default_rng(0).integers(0, 255, (20, 48, 64, 3), np.uint8)
    write_video(clip, list(noise), codec="mpeg4", options={"g": "5"})
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size * 2 // 3])
    (finished,) = process_files([clip], out, config).finished
    found = finished.manifest.damage
    forge(out, damage=None, corrupt=0, frames_found=finished.manifest.frames_decoded)
    (verdict,) = verify_folder(out)
    assert verdict.problems == [found]


@pytest.mark.parametrize("name", ["a\0b.mp4", "n" * 300 + ".mp4", "http://[::1", "s3://"])
def test_a_source_with_an_impossible_name_is_not_found(out: Path, name: str) -> None:
    forge(out, input=name)
    (verdict,) = verify_folder(out)
    assert not verdict.source_checked


def test_a_later_failure_under_the_name_of_earlier_results_is_told_until_it_is_mended(
    made: Path, tmp_path: Path, tiny_engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ProcessConfig(engine=EngineConfig(name=str(tiny_engine), threads=1), overlay=False)
    for day, data in (("monday", (made / "clip.mp4").read_bytes()), ("tuesday", b""), ("away", b"")):
        (tmp_path / day).mkdir()
        (tmp_path / day / "cam.mp4").write_bytes(data)
    out = tmp_path / "out"
    for day, whole in (("monday", True), ("tuesday", False)):
        monkeypatch.chdir(tmp_path / day)
        assert process_files(["cam.mp4"], out, config).whole == whole
    (tmp_path / "away" / "cam.mp4").unlink()
    monkeypatch.chdir(tmp_path / "away")
    first = next(p for v in verify_folder(out) for p in v.problems)
    assert first.startswith("cam.mp4: is empty (0 bytes)")
    (tmp_path / "away" / "cam.mp4").write_bytes((made / "clip.mp4").read_bytes())
    draw_clip(tmp_path / "more.mp4", frames=3)
    assert process_files(["cam.mp4", tmp_path / "more.mp4"], out, config).whole  # another list of inputs
    assert [p for v in verify_folder(out) for p in v.problems] == []
    assert not [p for p in out.iterdir() if p.name.startswith(".")]


def test_inputs_that_were_never_reached_are_told(made: Path, tmp_path: Path, tiny_engine: Path) -> None:
    config = ProcessConfig(engine=EngineConfig(name=str(tiny_engine), threads=1), overlay=False)

    def on_event(event: Event) -> None:
        if isinstance(event, Finished):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        process_files([made / "clip.mp4", made / "other.mp4"], tmp_path, config, on_event=on_event)
    clip, other = verify_folder(tmp_path)
    assert clip.problems == []
    assert "other.mp4: has not been processed yet" in other.problems[0]


def test_a_manifest_of_another_version_is_refused_in_one_line(
    made: Path, out: Path, tiny_engine: Path
) -> None:
    path = out / "clip.manifest.json"
    told = json.loads(path.read_bytes())
    config = ProcessConfig(engine=EngineConfig(name=str(tiny_engine), threads=1), confidence=True)
    path.write_text(json.dumps({**told, "schema": 3, "frames_decoded": "many"}))
    (verdict,) = verify_folder(out)
    refusal = "was made by another version of streamseg"
    assert f"{refusal} (schema 3; this one knows 1 and 2)" in verdict.problems[0]
    (failed,) = process_files([made / "clip.mp4"], out, config).failed
    assert refusal in str(failed.error)
    for name in ("frames_promised", "frames_found", "frames_left_out", "missing", "seq_runs", "not_made"):
        del told[name]
    path.write_text(json.dumps({**told, "schema": 1}))  # as 0.1 wrote it
    assert process_files([made / "clip.mp4"], out, config).finished[0].again
    assert [v.problems for v in verify_folder(out) if v.path == str(path)] == [[]]


def test_a_source_is_found_in_the_folders_below_by_its_content(made: Path, out: Path, tmp_path: Path) -> None:
    sources = tmp_path / "moved"
    for folder, name in (("b", "clip.mp4"), ("a/deep", "other.mp4")):
        (sources / folder).mkdir(parents=True)
        (sources / folder / "clip.mp4").write_bytes((made / name).read_bytes())
    (verdict,) = verify_folder(out, sources)
    assert (verdict.problems, verdict.source_checked) == ([], True)
    (sources / "b" / "clip.mp4").unlink()
    (verdict,) = verify_folder(out, sources)
    assert "is not what was processed" in verdict.problems[0]
    with pytest.raises(UsageError, match="is no folder"):
        verify_folder(out, tmp_path / "nowhere")


def test_unfinished_work_and_an_empty_folder_are_told(
    out: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    (out / ".late.segments").mkdir()
    assert [bool(v.problems) for v in verify_folder(out)] == [False, True]
    with pytest.raises(UsageError, match="holds no results"):
        verify_folder(tmp_path_factory.mktemp("empty"))
