"""streamseg segment: pictures in, results out, each mistake one line."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from streamseg.types import U8
from streamseg.wire.rle import decode_labels
from tests.integration.command import Command, streamseg

__all__ = ["streamseg"]

RED, BLUE = 1, 3


def two_colours(path: Path, shape: tuple[int, int] = (48, 64)) -> Path:
    """Red on the left, blue on the right."""
    bgr = np.zeros((*shape, 3), np.uint8)
    bgr[:, : shape[1] // 2, 2] = 255
    bgr[:, shape[1] // 2 :, 0] = 255
    path.write_bytes(cv2.imencode(path.suffix, bgr)[1].tobytes())
    return path


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def png_labels(path: Path) -> U8:
    """The numbers of an indexed PNG."""
    image = pytest.importorskip("PIL.Image")
    return np.asarray(image.open(path))


def test_pictures_and_folders_give_every_result_that_is_asked_for(
    here: Path, tiny_engine: Path, streamseg: Command
) -> None:
    (here / "more").mkdir()
    two_colours(here / "more" / "a.png", (90, 120))
    two_colours(here / "b.png")
    formats = ("--format", "png", "--format", "json", "--format", "overlay")
    done = streamseg("segment", "more", "b.png", "--engine", tiny_engine, "--out", "out", *formats)
    assert (done.code, done.err) == (0, "")
    first, second = done.out.splitlines()
    assert first.startswith("more/a.png: red 50 %, blue 50 %: out/a.png, out/a.json, out/a-overlay.jpg")
    assert second.startswith("b.png: ")
    labels = png_labels(here / "out/a.png")
    assert labels.shape == (90, 120)
    assert (labels[:, :50] == RED).all()
    assert (labels[:, 70:] == BLUE).all()
    document = json.loads((here / "out/a.json").read_text())
    assert document["shape"] == [90, 120]
    assert [c["name"] for c in document["classes"][:2]] == ["red", "blue"]
    assert sum(c["pixels"] for c in document["classes"]) + document["unknown"] == 90 * 120
    segments = [(c["id"], c["segmentation"]["counts"]) for c in document["classes"]]
    assert np.array_equal(decode_labels(segments, (90, 120)), labels)
    assert {p["id"] for p in document["polygons"]} >= {RED, BLUE}
    overlay = cv2.imread(str(here / "out/a-overlay.jpg"))
    assert overlay.shape[1] == 120
    assert overlay.shape[0] > 90  # the legend


def test_the_picture_of_standard_input_goes_to_standard_output(
    here: Path, tiny_engine: Path, streamseg: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = two_colours(here / "b.png").read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    words = ("segment", "-", "--engine", tiny_engine, "--out", "-", "--format", "json")
    done = streamseg(*words)
    assert done.code == 0
    assert json.loads(done.out)["label_set"] == "tiny-4"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    assert streamseg(*words).last_line == "streamseg: standard input: is empty (0 bytes)"


def test_names_that_would_be_alike_are_told_apart(here: Path, tiny_engine: Path, streamseg: Command) -> None:
    for folder in ("x", "y"):
        (here / folder).mkdir()
        two_colours(here / folder / "a.png")
    two_colours(here / "x" / "a.jpg")
    done = streamseg("segment", "x", "y", "x/a.png", "--engine", tiny_engine, "--format", "png")
    assert done.code == 0
    names = sorted(path.name for path in (here / "segmented").iterdir())
    assert names == ["a.jpg.png", "a.png-2.png", "a.png.png"]


def test_a_picture_that_cannot_be_read_is_named_and_the_others_are_done(
    here: Path, tiny_engine: Path, streamseg: Command
) -> None:
    (here / "notes.jpg").write_text("hello\n")
    two_colours(here / "b.png")
    done = streamseg("segment", "notes.jpg", "b.png", "--engine", tiny_engine)
    assert done.code == 1
    assert done.last_line == ("streamseg: notes.jpg: is not a picture; must be JPEG, PNG, WebP, BMP or TIFF")
    assert (here / "segmented/b-overlay.jpg").exists()


def test_a_result_does_not_replace_its_picture(here: Path, tiny_engine: Path, streamseg: Command) -> None:
    before = two_colours(here / "b.png").read_bytes()
    done = streamseg("segment", "b.png", "--engine", tiny_engine, "--out", ".", "--format", "png")
    assert done.last_line == "streamseg: b.png: is the picture itself; choose another --out"
    assert (here / "b.png").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nothing.jpg",), "nothing.jpg: no such file or folder"),
        (("empty",), "empty: holds no picture (.bmp, .jpeg, .jpg, .png, .tif, .tiff, .webp)"),
        (("b.png", "c.png", "--out", "-"), "--out -: takes one picture and one --format"),
        (("-", "-"), "-: standard input holds one picture; it is named twice"),
    ],
)
def test_a_mistake_is_told_before_the_engine_is_loaded(
    words: tuple[str, ...], said: str, here: Path, streamseg: Command
) -> None:
    (here / "empty").mkdir()
    for name in ("b.png", "c.png"):
        two_colours(here / name)
    done = streamseg("segment", *words, "--engine", "no-such-engine")
    assert (done.code, done.last_line) == (2, f"streamseg: {said}")
