"""Outlines of a recording's regions: GeoJSON and COCO, written frame by frame, that other programs read."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from streamseg.recorded.polygons import Coco, GeoJson, Polygons
from streamseg.recorded.segments import FrameRecord
from streamseg.types import ClassInfo, LabelSet
from streamseg.wire.rle import decode_labels
from tests.masks import draw_labels

SIZE = (36, 48)
LABELS = LabelSet("five", tuple(ClassInfo(f"class {i}", (i, i, i)) for i in range(5)))


def write(folder: Path, masks: list[np.ndarray], confidence: np.ndarray | None = None) -> tuple[dict, dict]:
    tick = Fraction(1, 10)
    files = (
        GeoJson(folder / "a.geojson", SIZE, LABELS, tick),
        Coco(folder / "a.coco.json", SIZE, LABELS, tick),
    )
    polygons = Polygons(files)
    for seq, labels in enumerate(masks):
        record = FrameRecord(seq=seq, pts=seq, ticks=seq, resized=False, pixels={}, digest=b"")
        polygons.add(record, labels, confidence)
    polygons.close()
    assert sorted(p.name for p in folder.iterdir()) == ["a.coco.json", "a.geojson"]
    geojson, coco = (json.loads((folder / name).read_bytes()) for name in ("a.geojson", "a.coco.json"))
    return geojson, coco


def scene(seed: int) -> np.ndarray:
    labels = np.zeros(SIZE, np.uint8)
    labels[4:20, 4:30] = 1 + seed % 4
    labels[8:14, 10:20] = 0  # a hole
    labels[25:, 30:] = 255
    return labels


def test_each_region_of_each_frame_is_a_closed_polygon_with_its_class_and_area(tmp_path: Path) -> None:
    geojson, _ = write(tmp_path, [scene(0), scene(1)])
    assert geojson["type"] == "FeatureCollection"
    assert geojson["streamseg"]["size"] == list(SIZE)
    assert geojson["left_out"] == {"regions": 0, "pixels": 0}
    found = [
        (f["properties"]["time_s"], f["properties"]["name"], f["properties"]["area"])
        for f in geojson["features"]
    ]
    assert found == [
        (0.0, "class 0", 36 * 48 - 16 * 26 - 11 * 18),
        (0.0, "class 1", 16 * 26 - 6 * 10),
        (0.0, "class 0", 60),
        (0.1, "class 0", 36 * 48 - 16 * 26 - 11 * 18),
        (0.1, "class 2", 16 * 26 - 6 * 10),
        (0.1, "class 0", 60),
    ]
    for feature in geojson["features"]:
        for ring in feature["geometry"]["coordinates"]:
            assert ring[0] == ring[-1]
            assert len(ring) >= 4
    square = geojson["features"][1]["geometry"]["coordinates"]
    assert sorted(map(tuple, square[0][1:])) == [(4, 4), (4, 20), (30, 4), (30, 20)]  # corners of pixels
    assert len(square) == 2


def test_a_line_of_geojson_is_a_feature_by_itself(tmp_path: Path) -> None:
    write(tmp_path, [scene(0)])
    lines = (tmp_path / "a.geojson").read_text().splitlines()
    assert [json.loads(line.rstrip(","))["type"] for line in lines[1:-1]] == ["Feature"] * 3


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools with NumPy 2
def test_pycocotools_paints_the_masks_that_were_there(tmp_path: Path) -> None:
    module = pytest.importorskip("pycocotools.coco")
    masks = [scene(0), scene(3), draw_labels(SIZE)]
    write(tmp_path, masks)
    coco = module.COCO(str(tmp_path / "a.coco.json"))
    assert [c["name"] for c in coco.loadCats(coco.getCatIds())] == list(LABELS.names)
    for image, labels in enumerate(masks):
        assert coco.imgs[image]["file_name"] == f"{image:08d}.png"
        painted = np.full(SIZE, 255, np.uint8)
        for annotation in coco.imgToAnns[image]:
            inside = coco.annToMask(annotation).astype(bool)
            painted[inside] = annotation["category_id"]
        assert (painted != labels).mean() < 0.02


def test_a_region_with_a_hole_is_run_lengths_in_coco(tmp_path: Path) -> None:
    _, coco = write(tmp_path, [scene(0)])
    framed = next(a for a in coco["annotations"] if a["category_id"] == 1)
    there = decode_labels([(1, framed["segmentation"]["counts"])], SIZE)
    assert ((there == 1) == (scene(0) == 1)).all()
    assert (framed["bbox"], framed["area"]) == ([4, 4, 26, 16], 356)


def test_where_it_is_a_result_confidence_comes_along(tmp_path: Path) -> None:
    geojson, coco = write(tmp_path, [scene(0)], np.full(SIZE, 204, np.uint8))
    assert {f["properties"]["confidence"] for f in geojson["features"]} == {0.8}
    assert {a["score"] for a in coco["annotations"]} == {0.8}


def test_without_frames_and_without_classes_both_are_whole_documents(tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    (tmp_path / "unknown").mkdir()
    geojson, coco = write(tmp_path / "none", [])
    assert (geojson["features"], coco["annotations"], coco["images"]) == ([], [], [])
    geojson, coco = write(tmp_path / "unknown", [np.full(SIZE, 255, np.uint8)])
    assert (geojson["features"], coco["annotations"], len(coco["images"])) == ([], [], 1)
