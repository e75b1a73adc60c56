"""`verify` finds whatever was changed in a folder of results, and nothing where nothing was."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from streamseg.cli import cli
from streamseg.config import EngineConfig
from streamseg.errors import UsageError
from streamseg.recorded import ProcessConfig, process_files
from streamseg.recorded.manifest import Manifest, Output, read_manifest, result_sha256
from streamseg.recorded.verify import verify_folder
from tests.media import draw_clip


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
        (lambda m: {"frames_decoded": 13}, "12 frames decoded, the manifest has 13"),
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


def test_unfinished_work_and_an_empty_folder_are_told(
    out: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    (out / ".late.segments").mkdir()
    assert [bool(v.problems) for v in verify_folder(out)] == [False, True]
    with pytest.raises(UsageError, match="holds no results"):
        verify_folder(tmp_path_factory.mktemp("empty"))
