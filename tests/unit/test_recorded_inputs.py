"""What stands for which inputs, and how their results are called."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import pytest

from streamseg.config import EngineConfig
from streamseg.errors import UsageError
from streamseg.recorded import ProcessConfig, process_files
from streamseg.recorded.inputs import find_inputs, look_for
from streamseg.recorded.names import Owned, number_pattern, unprintable
from tests.media import draw_clip, write_audio


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def fill(folder: Path, *names: str) -> None:
    touch(folder, *names)
    for name in names:
        (folder / name).write_bytes(b"picture")


def stems(*sources: str) -> list[str]:
    return [i.stem for i in find_inputs(sources)]


def test_a_name_is_as_short_as_tells_inputs_apart() -> None:
    assert stems("a/one.mp4", "b/two.mkv") == ["one", "two"]
    assert stems("one.mp4", "one.mkv") == ["one.mp4", "one.mkv"]
    assert stems("a/one.mp4", "b/one.mp4") == ["a-one.mp4", "b-one.mp4"]
    assert stems("one.mp4", "one.mp4") == ["one"]
    assert stems("a/b/one.mp4", "c/b/one.mp4", "two.mp4") == ["a-b-one.mp4", "c-b-one.mp4", "two"]
    assert stems("one.mp4", "one.mp4", "./one.mp4", str(Path("one.mp4").absolute())) == ["one"]
    assert stems("/v/a b.mp4", "file:///v/a%20b.mp4", "FILE://localhost/v/a%20b.mp4") == ["a b"]
    both = stems("a/b-c/one.mp4", "a-b/c/one.mp4", "x-a/b-c/one.mp4")
    assert len(set(both)) == 3


def results_of(names: dict[str, str]) -> Owned:
    """A folder of results: stem → the input that they are of."""
    return lambda stem, source: None if stem not in names else "it" if names[stem] == source else "another"


def test_an_input_keeps_its_name_whatever_other_inputs_come() -> None:
    there: dict[str, str] = {}
    for sources in (
        ["arch/cam1/0001.mp4"],
        ["arch/cam1/0001.mp4", "arch/cam2/0001.mp4"],
        ["arch/cam0/0001.mp4", "arch/cam2/0001.mp4", "arch/cam2/0001.mkv"],
        ["arch/cam2/0001.mp4"],
    ):
        for one in look_for(sources, owned=results_of(there)).inputs:
            assert there.setdefault(one.stem, one.source) == one.source
    assert there == {
        "0001": "arch/cam1/0001.mp4",
        "0001.mp4": "arch/cam2/0001.mp4",
        "cam0-0001.mp4": "arch/cam0/0001.mp4",
        "0001.mkv": "arch/cam2/0001.mkv",
    }


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        (b"caf\xe9.mp4", "caf%E9"),
        (b"\xc4\xe3\xba\xc3.mp4", "%C4%E3%BA%C3"),
        ("人物 #1.mp4".encode(), "人物 #1"),
        (b"two\nlines.mp4", "two%0Alines"),
        (b"bell\x07\x1b[1m.mp4", "bell%07%1B[1m"),
        (b"~nobody.mp4", "~nobody"),
        (b"-x.mp4", "-x"),
        (b"UPPER.MP4", "UPPER"),
    ],
)
def test_any_name_gives_one_that_can_be_read_and_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: bytes, stem: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(os.fsdecode(name)).touch()
    (one,) = find_inputs([os.fsdecode(name)])
    assert (one.stem, one.path) == (stem, Path(os.fsdecode(name)))
    assert one.shown.isprintable()
    assert unprintable(one.shown) == os.fsdecode(name)
    assert Path(one.opened).is_absolute()
    one.shown.encode()


def test_a_name_as_long_as_names_may_be_has_room_for_the_endings_of_its_results() -> None:
    first, second = stems("ä" * 125 + "1.mp4", "ä" * 125 + "2.mp4")
    assert first != second
    assert max(len(stem.encode()) for stem in (first, second)) <= 200


def test_an_empty_name_is_no_folder() -> None:
    with pytest.raises(UsageError, match="an input has an empty name"):
        find_inputs([""])


def test_a_folder_stands_for_the_videos_in_it(tmp_path: Path) -> None:
    touch(
        tmp_path, "b10.mp4", "b9.mp4", "a.MKV", "deep/c.ts", "notes.txt", "cover.jpg", ".no/d.mp4", ".e.mp4"
    )
    touch(tmp_path, "dvr.264", "x.dav", "x.vob", "x.asf", "x.gif")
    found = look_for([str(tmp_path)])
    names = ["a.MKV", "b9.mp4", "b10.mp4", "c.ts", "dvr.264", "x.asf", "x.dav", "x.gif", "x.vob"]
    assert [Path(i.source).name for i in found.inputs] == names
    assert sorted(line.removeprefix(f"{tmp_path}/") for line in found.left_out) == [
        ".e.mp4: left out, hidden",
        ".no: left out, hidden",
        "cover.jpg: left out, an image beside videos",
        "notes.txt: left out, no video",
    ]


def test_a_video_without_a_known_suffix_is_found_by_what_is_in_it(tmp_path: Path) -> None:
    draw_clip(tmp_path / "a.mp4", frames=2)
    (tmp_path / "a.mp4").rename(tmp_path / "export")
    (tmp_path / "list.m3u8").write_text("#EXTM3U\n#EXTINF:1,\nexport\n#EXT-X-ENDLIST\n")
    write_audio(tmp_path / "sound.m4a")
    found = look_for([str(tmp_path)])
    assert [i.stem for i in found.inputs] == ["export"]
    assert [line.partition(":")[0].rpartition("/")[2] for line in found.left_out] == [
        "list.m3u8",
        "sound.m4a",
    ]


def test_links_are_followed_once_and_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.mp4", "nas/deep/b.mp4", "nas/c.mp4")
    for name, to in (
        ("nas", "../nas"),
        ("again", "../nas"),
        ("loop", "."),
        ("a2.mp4", "a.mp4"),
        ("gone.mp4", "missing"),
    ):
        (tmp_path / "in" / name).symlink_to(to)
    (tmp_path / "nas" / "back").symlink_to("..")
    os.mkfifo(tmp_path / "in" / "pipe.mp4")
    found = look_for([f"{tmp_path}/in"])
    assert sorted(i.stem for i in found.inputs) == ["a", "b", "c"]
    assert {line.rpartition("/")[2] for line in found.left_out} == {
        "gone.mp4: left out, a link to nothing",
        "pipe.mp4: left out, not a regular file",
    }
    if os.geteuid():  # root may look anywhere
        (tmp_path / "in" / "shut").mkdir(mode=0)
        assert "cannot be read" in str(look_for([f"{tmp_path}/in"]).unreadable[0][1])


@pytest.mark.parametrize("link", ["A", "m/A", "z/A"])
def test_a_folder_is_called_by_its_own_name_and_not_by_a_link_to_it(tmp_path: Path, link: str) -> None:
    touch(tmp_path, "in/m/day/a.mp4", "in/z/day/a.mp4", "in/z/b.mp4")
    for target in ("m/day", "z"):
        path = tmp_path / "in" / f"{link}-{target[0]}"
        path.symlink_to(tmp_path / "in" / target)
    (tmp_path / "in" / "m" / "up").symlink_to("..")
    found = look_for([f"{tmp_path}/in"])
    names = [one.source.removeprefix(f"{tmp_path}/in/") for one in found.inputs]
    assert names == ["m/day/a.mp4", "z/b.mp4", "z/day/a.mp4"]
    assert found.left_out == []


def test_own_results_are_not_taken_for_inputs(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "a.labels.mp4", "a.overlay.mp4", "a.manifest.json", "b.labels.mp4")
    touch(tmp_path, "a.labels-png/00000000.png", "a.labels.zarr/c/0/0", "a.more.mp4")
    assert stems(str(tmp_path)) == ["a", "a.more", "b.labels"]
    assert look_for([str(tmp_path)]).left_out == []


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
    fill(tmp_path, "walk/i2.png", "walk/i10.png", "walk/i1.png")
    by_folder, by_pattern, by_number = (
        find_inputs([f"{tmp_path}/walk{end}"])[0] for end in ("", "/*.png", "/i%d.png")
    )
    assert [i.stem for i in (by_folder, by_pattern, by_number)] == ["walk"] * 3
    assert [p.name for p in by_folder.images] == ["i1.png", "i2.png", "i10.png"]
    assert by_pattern.images == by_folder.images
    assert [p.name for p in by_number.images] == ["i1.png", "i2.png", "i10.png"]
    assert by_number.missing == tuple(f"i{n}.png" for n in range(3, 10))
    touch(tmp_path, "walk/other.jpg")
    with pytest.raises(UsageError, match="images of several kinds"):
        find_inputs([f"{tmp_path}/walk"])


@pytest.mark.parametrize(
    ("pattern", "there", "missing"),
    [
        ("f%02d.png", ["f01.png", "f02.png", "f04.png"], ["f03.png"]),
        ("f%d.png", ["f007.png", "f008.png"], []),
        ("100%_%03d.PNG", ["100%_001.PNG", "100%_002.PNG", "100%_009.PNG", "100%_010.PNG"], 6),
        ("f%05d.png", ["f00010.png", "f00020.png", "f00040.png", "f00050.png"], ["f00030.png"]),
    ],
)
def test_a_hole_in_a_sequence_is_named_and_what_is_behind_it_belongs_to_it(
    tmp_path: Path, pattern: str, there: list[str], missing: list[str] | int
) -> None:
    fill(tmp_path, *there)
    (one,) = find_inputs([f"{tmp_path}/{pattern}"])
    assert [p.name for p in one.images] == there
    assert len(one.missing) == missing if isinstance(missing, int) else list(one.missing) == missing
    (folder,) = find_inputs([str(tmp_path)])  # promises nothing but the files in it
    assert ([p.name for p in folder.images], folder.missing) == (there, ())


def test_an_empty_image_is_missing(tmp_path: Path) -> None:
    fill(tmp_path, "a1.jpg", "a2.JPEG", "a4.JPG")
    touch(tmp_path, "a3.jpg")
    (one,) = find_inputs([str(tmp_path)])
    assert [p.name for p in one.images] == ["a1.jpg", "a2.JPEG", "a4.JPG"]
    assert one.missing == ("a3.jpg (empty)",)


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


def test_one_name_that_stands_for_nothing_does_not_end_the_others(tmp_path: Path) -> None:
    touch(tmp_path, "cam1/a.mp4", "notes/notes.txt")
    found = look_for([f"{tmp_path}/cam1", f"{tmp_path}/notes", f"{tmp_path}/x*.mp4"])
    assert [i.stem for i in found.inputs] == ["a"]
    assert [str(error).removeprefix(f"{tmp_path}/") for _, error in found.unreadable] == [
        "notes: no video in this folder",
        "x*.mp4: no video matches this pattern",
    ]
    with pytest.raises(UsageError, match="no video in this folder"):
        look_for([f"{tmp_path}/notes"])


@pytest.mark.parametrize("name", ["a\0b.mp4", "n" * 300 + ".mp4", "d/" * 3000, "file:///a%00b"])
def test_a_name_that_no_file_can_have_does_not_end_the_others(tmp_path: Path, name: str) -> None:
    touch(tmp_path, "a.mp4")
    found = look_for([name, str(tmp_path / "a.mp4")])
    assert [one.stem for one in found.inputs] == ["a"]
    ((shown, error),) = found.unreadable
    assert str(error).startswith(f"{shown}: cannot be a file's name (")
    assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("http://[", "is not a valid address"),
        ("http://127.0.0.1:99999/a.mp4", "is not a valid address"),
        ("http://u:p@ss@[::1/a.mp4", "is not a valid address"),
        ("http://127.0.0.1:1/line\nfeed.mp4", "connection refused; is the server running"),
    ],
)
def test_an_address_that_cannot_be_had_does_not_end_the_others(
    tmp_path: Path, tiny_engine: Path, address: str, told: str
) -> None:
    config = ProcessConfig(engine=EngineConfig(name=str(tiny_engine), threads=1))
    result = process_files([address, draw_clip(tmp_path / "a.mp4", frames=2)], tmp_path / "out", config)
    assert [Path(end.input).name for end in result.finished] == ["a.mp4"]
    (failed,) = result.failed
    assert str(failed.error).startswith(f"{failed.input}: {told}")
    assert "p@ss" not in str(failed.error)
    assert "\n" not in str(failed.error)
