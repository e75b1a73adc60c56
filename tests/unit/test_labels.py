"""Names and colours of classes from a text file."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamseg.errors import UsageError
from streamseg.inference.labels import read_labels, voc_colour
from streamseg.models.zoo import VOC21


def test_a_line_is_a_name_with_or_without_a_colour(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("sky\n\n  road marking #ff8000\npole\n")
    entries = read_labels(tmp_path / "x.txt")
    assert [entry.name for entry in entries] == ["sky", "road marking", "pole"]
    assert [entry.colour for entry in entries] == [(0, 0, 0), (255, 128, 0), (0, 128, 0)]


def test_colours_are_pascal_vocs_and_all_different() -> None:
    assert [voc_colour(i) for i in range(21)] == list(VOC21.values())
    assert len({voc_colour(i) for i in range(255)}) == 255


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "must have 2 to 255 classes, one a line; has 0"),
        (b"alone\n", "has 1"),
        (b"a\n" * 300, "has 300"),
        (b"a\nb\na\n", "'a' is also that of"),
        (b"a\nb\n\xff\xfe\n", "is not UTF-8 text (line 3)"),
        ("a\nb\n".encode("utf-16"), "is UTF-16 text; save it as UTF-8"),
        (b"a\n\x1b[2Jb\n", "must be one line of text"),
    ],
)
def test_a_file_that_cannot_be_is_refused_in_one_line(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "x.txt").write_bytes(content)
    with pytest.raises(UsageError) as caught:
        read_labels(tmp_path / "x.txt")
    assert said in str(caught.value)
    with pytest.raises(UsageError, match="cannot be read"):
        read_labels(tmp_path / "y.txt")


@pytest.mark.parametrize(
    "content",
    [
        "0 a\n1 b\n2 c",
        "0: a\r\n1: b\r\n2: c\r\n",
        "2,c\n0,a\n1,b",
        "# id name\n0\ta\n1\tb\n2\tc",
        "a\n#x\nb\nc",
    ],
)
def test_numbers_before_names_are_ids_and_comments_are_skipped(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.txt").write_text(content)
    assert [entry.name for entry in read_labels(tmp_path / "x.txt")] == ["a", "b", "c"]


def test_numbers_that_are_part_of_names_stay(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("2 wheels\nroad\n4 wheels\nsky\n")
    assert [entry.name for entry in read_labels(tmp_path / "x.txt")] == [
        "2 wheels",
        "road",
        "4 wheels",
        "sky",
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("1 a\n2 b\n3 c\n", "its 3 classes have numbers, but not those from 0 to 2; count them from 0"),
        ("7 a\n8 b\n11 c\n", "not those from 0 to 2"),
        ("0 a\n0 b\n1 c\n", "not those from 0 to 2"),
        ("id,name\n0,a\n1,b\n", "most lines begin with a number, but 'id,name' does not"),
        ("names:\n  0: a\n  1: b\n  2: c\n", "'names:' does not"),
        ("128 64 128 a\n0 0 142 b\n", "not those from 0 to 1"),
    ],
)
def test_numbers_that_are_no_ids_are_refused(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "x.txt").write_text(content)
    with pytest.raises(UsageError) as caught:
        read_labels(tmp_path / "x.txt")
    assert said in str(caught.value)
