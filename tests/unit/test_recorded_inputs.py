"""What stands for which inputs, and how their results are called."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from streamseg.errors import UsageError
from streamseg.recorded import process_files
from streamseg.recorded.inputs import find_inputs, number_pattern


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def stems(*sources: str) -> list[str]:
    return [i.stem for i in find_inputs(sources)]


def test_a_name_is_as_short_as_tells_inputs_apart() -> None:
    assert stems("a/one.mp4", "b/two.mkv") == ["one", "two"]
    assert stems("one.mp4", "one.mkv") == ["one.mp4", "one.mkv"]
    assert stems("a/one.mp4", "b/one.mp4") == ["a-one.mp4", "b-one.mp4"]
    assert stems("one.mp4", "one.mp4") == ["one"]
    with pytest.raises(UsageError, match=r"would be called b-one\.mp4"):
        stems("a/b/one.mp4", "c/b/one.mp4")


def test_a_folder_stands_for_the_videos_in_it(tmp_path: Path) -> None:
    touch(tmp_path, "b.mp4", "a.MKV", "deep/c.ts", "notes.txt", "cover.jpg", ".hidden/d.mp4", ".e.mp4")
    assert [Path(i.source).name for i in find_inputs([str(tmp_path)])] == ["a.MKV", "b.mp4", "c.ts"]


def test_own_results_are_not_taken_for_inputs(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "a.labels.mp4", "a.overlay.mp4", "a.manifest.json", "b.labels.mp4")
    assert stems(str(tmp_path)) == ["a", "b.labels"]


def test_a_pattern_stands_for_what_fits_it(tmp_path: Path) -> None:
    touch(tmp_path, "x1.mp4", "x2.mp4", "y.mp4", "sub/x3.mp4")
    assert stems(f"{tmp_path}/x*.mp4") == ["x1", "x2"]
    assert stems(f"{tmp_path}/**/x*.mp4") == ["x3", "x1", "x2"]
    with pytest.raises(UsageError, match="no video matches this pattern"):
        stems(f"{tmp_path}/z*.mp4")


def test_a_list_comes_from_standard_input() -> None:
    found = find_inputs(["first.mp4", "-"], io.StringIO("second.mp4\n\n third.mkv \n"))
    assert [i.source for i in found] == ["first.mp4", "second.mp4", "third.mkv"]


def test_images_are_one_sequence_called_after_their_folder(tmp_path: Path) -> None:
    touch(tmp_path, "walk/i2.png", "walk/i10.png", "walk/i1.png")
    by_folder, by_pattern, by_number = (
        find_inputs([f"{tmp_path}/walk{end}"])[0] for end in ("", "/*.png", "/i%d.png")
    )
    assert [i.stem for i in (by_folder, by_pattern, by_number)] == ["walk"] * 3
    assert [p.name for p in by_folder.images] == ["i1.png", "i10.png", "i2.png"]
    assert by_pattern.images == by_folder.images
    assert [p.name for p in by_number.images] == ["i1.png", "i2.png", "i10.png"]
    touch(tmp_path, "walk/other.jpg")
    with pytest.raises(UsageError, match="images of several kinds"):
        find_inputs([f"{tmp_path}/walk"])


def test_an_address_shows_no_password_and_a_file_may_have_any_name(tmp_path: Path) -> None:
    (one,) = find_inputs(["http://me:secret@host/day/clip.mp4?token=1"])
    assert (one.stem, one.path) == ("clip", None)
    assert "secret" not in one.shown
    touch(tmp_path, "odd [1] %03d*.mp4")
    (one,) = find_inputs([f"{tmp_path}/odd [1] %03d*.mp4"])
    assert one.path == tmp_path / "odd [1] %03d*.mp4"


def test_one_number_makes_a_number_pattern() -> None:
    pattern = number_pattern("a.b%04d.png")
    assert pattern is not None
    assert pattern.fullmatch("a.b0012.png")
    assert not pattern.fullmatch("aXb0012.png")
    assert number_pattern("plain.png") is None


def test_an_object_store_without_fsspec_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(
        UsageError, match=r"^s3://footage/a\.mp4: needs fsspec; pip install 'streamseg\[s3\]'$"
    ):
        find_inputs(["s3://footage/a.mp4"])
    with pytest.raises(UsageError, match=r"needs fsspec; pip install fsspec and its library for gs://"):
        process_files(["a.mp4"], "gs://masks")
    assert stems("http://server/a.mp4", "file:///videos/b.mp4") == ["a", "b"]
