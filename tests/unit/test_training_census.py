"""What labels hold is said before training, and what teaches nothing is refused."""

from __future__ import annotations

import logging
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import msgspec
import numpy as np
import numpy.typing as npt
import pytest

torch = pytest.importorskip("torch")

from streamseg.errors import TrainingError  # noqa: E402
from streamseg.evaluation.dataset import LabelledFolder  # noqa: E402
from streamseg.inference.spec import ClassEntry  # noqa: E402
from streamseg.training.census import Census, class_table, shared_pictures  # noqa: E402
from streamseg.training.loop import Inputs, train  # noqa: E402
from streamseg.training.recipe import AugmentRecipe, TrainRecipe  # noqa: E402

NAMES = ("ground", "sky", "post")
RECIPE = TrainRecipe(
    width=12,
    classes=tuple(ClassEntry(name=name, colour=(i, i, i)) for i, name in enumerate(NAMES)),
    label_set="drawn",
    input_size=(32, 32),
    epochs=1,
    batch_size=2,
    augment=AugmentRecipe(crop_size=(32, 32)),
    evaluate_every=1,
    device="cpu",
    threads=1,
)
Labels = npt.NDArray[np.uint8]


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """Makes a data set of label images of 32x32; equal numbers at the end of two names are equal pictures."""

    def make(name: str, *labels: Labels) -> Path:
        root = tmp_path / name
        for part in ("images", "labels"):
            (root / part).mkdir(parents=True)
        for index, image in enumerate(labels):
            picture = np.full((32, 32, 3), (index, len(name), 9), np.uint8)
            cv2.imwrite(str(root / f"images/{index}.png"), picture)
            cv2.imwrite(str(root / f"labels/{index}.png"), image)
        return root

    return make


def halves(*values: int) -> Labels:
    """A label image of equal stripes."""
    return np.repeat(np.array(values, np.uint8), 32 // len(values))[:, None].repeat(32, axis=1)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ((halves(0, 255),) * 2, "class 'ground' alone, none of 'sky', 'post'; the labels are 0 and 255 only"),
        ((halves(1, 1), halves(1, 255)), "class 'sky' alone, none of 'ground', 'post'; labels begin at 0"),
        ((halves(255, 255),) * 2, "every pixel is unlabelled (255)"),
        ((halves(2, 2),) * 3, "class 'post' alone"),
    ],
)  # fmt: skip
def test_labels_that_teach_nothing_are_refused(
    folder: Callable[..., Path], tmp_path: Path, labels: tuple[Labels, ...], said: str
) -> None:
    good = folder("good", halves(0, 1), halves(1, 2))
    for data, val in ((folder("bad", *labels), good), (good, tmp_path / "bad")):
        with pytest.raises(TrainingError) as caught:
            train(RECIPE, Inputs(data, val), tmp_path / "out", resume=False)
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "out").exists()


def test_what_is_valid_and_odd_is_said_before_training(
    folder: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = folder("train", halves(0, 1), halves(0, 255), halves(255, 255), halves(0, 1, 1, 1))
    val = folder("valid", halves(0, 2), halves(0, 0))
    with caplog.at_level(logging.INFO, "streamseg"):
        train(RECIPE, Inputs(data, val), tmp_path / "out", resume=False)
    said = [record.getMessage() for record in caplog.records]
    begins = next(i for i, line in enumerate(said) if "epoch 1/1" in line)
    before = "\n".join(said[:begins])
    assert "train: no pixel of 'post' in the training images" in before
    assert "train: 1 of 4 images have no labelled pixel (2)" in before
    assert "valid: no pixel of 'sky' in the validation images" in before
    assert "validation images are training images" in before  # "train" and "valid" have as many letters


def test_the_table_has_pixels_and_images_of_every_class(folder: Callable[..., Path]) -> None:
    data = Census.of(folder("a", halves(0, 1), halves(0, 255)), NAMES)
    val = Census.of(folder("bb", halves(0, 1, 1, 2)), NAMES)
    assert [line.split() for line in class_table(data, val)] == [
        ["class", "train", "pixels", "images", "val", "pixels", "images"],
        ["ground", "66.67", "%", "2", "25.00", "%", "1"],
        ["sky", "33.33", "%", "1", "50.00", "%", "1"],
        ["post", "0.00", "%", "0", "25.00", "%", "1"],
        ["unlabelled", "25.00", "%", "1", "0.00", "%", "0"],
    ]
    assert shared_pictures(data, val) == []
    assert data.digest != val.digest


def test_images_without_a_labelled_pixel_do_not_stop_a_run(
    folder: Callable[..., Path], tmp_path: Path
) -> None:
    """A batch of them has no loss, where a mean over nothing would be NaN."""
    data = folder("train", halves(0, 1), *(halves(255, 255),) * 5)
    recipe = msgspec.structs.replace(RECIPE, lovasz_from=0.0)
    assert train(recipe, Inputs(data), tmp_path / "out", resume=False).exists()


def grey_png(labels: Labels, bits: int) -> bytes:
    """A grey PNG of fewer than 8 bits, or for 3 bits one of 8 with a palette."""
    kind, depth = (3, 8) if bits == 3 else (0, bits)
    rows = []
    for row in labels:
        text = "".join(f"{value:0{depth}b}" for value in row.tolist())
        rows.append(b"\0" + int(text, 2).to_bytes(len(text) // 8, "big"))
    height, width = labels.shape
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))]
    if kind == 3:
        chunks.append((b"PLTE", bytes(range(9))))
    chunks += [(b"IDAT", zlib.compress(b"".join(rows))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


@pytest.mark.parametrize(("bits", "most"), [(1, 1), (2, 2), (4, 2)])
def test_grey_pngs_of_few_bits_keep_their_numbers(folder: Callable[..., Path], bits: int, most: int) -> None:
    root = folder("few", halves(0, 0))
    labels = halves(0, most)
    (root / "labels/0.png").write_bytes(grey_png(labels, bits))
    np.testing.assert_array_equal(LabelledFolder(root, 3)[0].labels, labels)


def test_a_png_with_a_palette_is_named(folder: Callable[..., Path]) -> None:
    root = folder("palette", halves(0, 0))
    (root / "labels/0.png").write_bytes(grey_png(halves(0, 1), 3))
    with pytest.raises(TrainingError, match=r"labels/0\.png: is a PNG with a palette; write its class"):
        LabelledFolder(root, 3)[0]


def test_labels_numbered_from_1_are_asked_about(folder: Callable[..., Path]) -> None:
    root = folder("one-off", halves(1, 2, 3, 3))
    with pytest.raises(TrainingError, match=r"label 3 at 512 pixels; .*; are they numbered from 1\?"):
        LabelledFolder(root, 3)[0]
