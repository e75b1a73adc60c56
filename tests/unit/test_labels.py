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
