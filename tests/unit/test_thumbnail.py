"""A mask drawn with characters."""

from __future__ import annotations

import io

import numpy as np
import pytest
from rich.console import Console

from streamseg.cli.thumbnail import LETTERS, Thumbnail, fit, letter_of, shrink
from tests.masks import STREET


def drawn(labels: np.ndarray, columns: int, rows: int, **console: object) -> str:  # type: ignore[type-arg]
    out = io.StringIO()
    Console(file=out, width=80, _environ={}, **console).print(  # type: ignore[arg-type]
        Thumbnail(labels, STREET, columns, rows), end=""
    )
    return out.getvalue()


def test_each_character_holds_two_pixels_in_their_classes_colours() -> None:
    labels = np.array([[0, 0], [1, 1], [2, 255], [0, 9]], np.uint8)
    text = drawn(labels, 2, 2, force_terminal=True, color_system="truecolor")
    first, second = text.splitlines()
    assert first.count("▀▀") == 1
    assert "38;2;128;64;128;48;2;64;0;128" in first  # road above, car below
    assert "38;2;192;192;128;48;2;128;64;128" in second  # pole above road
    assert "38;2;48;48;48;48;2;128;128;128" in second  # unknown above a class that the set does not name


def test_a_terminal_of_256_colours_gets_the_nearest_ones() -> None:
    text = drawn(np.zeros((4, 4), np.uint8), 4, 2, force_terminal=True, color_system="256")
    assert "38;5;" in text
    assert "38;2;" not in text


@pytest.mark.parametrize("how", [{}, {"force_terminal": True, "color_system": "truecolor", "no_color": True}])
def test_without_colours_each_class_has_a_letter(how: dict[str, object]) -> None:
    labels = np.array([[0, 0, 1], [0, 2, 255]], np.uint8)
    assert drawn(labels, 3, 2, **how) == "aab\nac·\n"


def test_letters_are_told_apart_as_far_as_they_go() -> None:
    assert len({letter_of(i) for i in range(len(LETTERS))}) == len(LETTERS)
    assert (letter_of(len(LETTERS)), letter_of(255)) == ("?", "·")


def test_only_labels_of_the_mask_come_out_of_shrinking_and_growing() -> None:
    labels = np.repeat(np.array([3, 200], np.uint8), 500).reshape(100, 10)
    for size in ((5, 5), (1, 1), (300, 40)):
        small = shrink(labels, size)
        assert small.shape == size
        assert set(np.unique(small)) <= {3, 200}


def test_a_thumbnail_keeps_the_pictures_proportions_and_fits() -> None:
    assert fit((360, 480), 80, 24) == (64, 24)
    assert fit((360, 480), 40, 24) == (40, 15)
    assert fit((1080, 1920), 80, 24) == (80, 22)
    assert fit((1000, 10), 80, 10) == (1, 10)
    assert fit((10, 1000), 80, 10) == (80, 1)
