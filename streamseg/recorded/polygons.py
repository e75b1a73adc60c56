"""Outlines of what is in each frame, as GeoJSON or as COCO's annotations; both are written frame by frame.

Coordinates are pixels of the masks: x to the right, y down, (0, 0) the upper left corner of the picture. So a
program for maps shows them upside down.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from streamseg.analytics.regions import Region, Regions, fill, find_regions
from streamseg.recorded.exports import time_s
from streamseg.recorded.segments import FrameRecord
from streamseg.types import U8, LabelSet, Size
from streamseg.wire.rle import encode_mask

_encode = msgspec.json.Encoder().encode


class Polygons:
    """Finds the regions of each frame once, and has them written in each wanted form."""

    def __init__(self, files: Sequence[GeoJson | Coco]) -> None:
        self.files = files

    def add(self, record: FrameRecord, labels: U8, confidence: U8 | None) -> None:
        regions = find_regions(labels, confidence)
        for file in self.files:
            file.add(record, regions)

    def close(self) -> None:
        for file in self.files:
            file.close()


class _Left:
    """What was left out of all frames, because there were too many regions or points."""

    def __init__(self) -> None:
        self.regions = self.pixels = 0

    def add(self, regions: Regions) -> None:
        self.regions += regions.left_out
        self.pixels += regions.left_out_pixels

    def shown(self) -> dict[str, int]:
        return {"regions": self.regions, "pixels": self.pixels}


class GeoJson:
    """A FeatureCollection (RFC 7946): a Polygon for each region of each frame, a line each."""

    def __init__(self, path: Path, size: Size, labels: LabelSet, tick: Fraction) -> None:
        self.names, self.tick = labels.names, tick
        self.left, self.first = _Left(), True
        self.file = path.open("wb")
        head = {
            "coordinates": "pixels of the masks: x to the right, y down, 0 0 the upper left corner",
            "size": list(size),
            "label_set": labels.id,
        }
        self.file.write(b'{"type":"FeatureCollection","streamseg":%s,"features":[' % _encode(head))

    def add(self, record: FrameRecord, regions: Regions) -> None:
        self.left.add(regions)
        for region in regions.found:
            about = {
                "seq": record.seq,
                "pts": record.pts,
                "time_s": time_s(record, self.tick),
                "id": region.label,
                "name": self.names[region.label] if region.label < len(self.names) else None,
                "area": region.area,
                **_score(region, "confidence"),
            }
            rings = [_points(ring) for ring in region.rings]
            shape = {"type": "Polygon", "coordinates": [[*ring, ring[0]] for ring in rings]}
            line = _encode({"type": "Feature", "geometry": shape, "properties": about})
            self.file.write((b"\n" if self.first else b",\n") + line)
            self.first = False

    def close(self) -> None:
        self.file.write(b'\n],"left_out":%s}\n' % _encode(self.left.shown()))
        self.file.close()


class Coco:
    """COCO's annotations of instances, an image for each frame: polygons, or run lengths around holes."""

    def __init__(
        self, path: Path, size: Size, labels: LabelSet, tick: Fraction, images: Sequence[Path] = ()
    ) -> None:
        self.size, self.labels, self.tick, self.images = size, labels, tick, images
        self.left, self.frames, self.annotations = _Left(), 0, 0
        self.file = path.open("w+b")
        self.beside = path.with_suffix(".images")  # they come behind the annotations
        self.listed = self.beside.open("w+b")
        self.file.write(b'{"annotations":[')

    def add(self, record: FrameRecord, regions: Regions) -> None:
        self.left.add(regions)
        image = {
            "id": self.frames,
            "file_name": self._name(record),
            "height": self.size[0],
            "width": self.size[1],
            "seq": record.seq,
            "pts": record.pts,
            "time_s": time_s(record, self.tick),
        }
        self.listed.write((b",\n" if self.frames else b"\n") + _encode(image))
        for region in regions.found:
            line = {
                "id": self.annotations + 1,
                "image_id": self.frames,
                "category_id": region.label,
                "segmentation": self._segmentation(region),
                "area": region.area,
                "bbox": region.box,
                "iscrowd": 0,
                **_score(region, "score"),
            }
            self.file.write((b",\n" if self.annotations else b"\n") + _encode(line))
            self.annotations += 1
        self.frames += 1

    def close(self) -> None:
        self.file.write(b'\n],"images":[')
        self.listed.seek(0)
        shutil.copyfileobj(self.listed, self.file)
        self.listed.close()
        self.beside.unlink()
        rest = {
            "categories": [{"id": i, "name": name} for i, name in enumerate(self.labels.names)],
            "info": {"label_set": self.labels.id, "left_out": self.left.shown()},
        }
        self.file.write(b"\n]," + _encode(rest)[1:] + b"\n")
        self.file.close()

    def _name(self, record: FrameRecord) -> str:
        """Of its own image; of a video's frame, of the PNG that --png writes for it."""
        if record.pts is not None and record.pts < len(self.images):
            return self.images[record.pts].name
        return f"{record.seq:08d}.png"

    def _segmentation(self, region: Region) -> Any:
        """COCO's polygons have no holes: a region with some is given as its pixels."""
        if len(region.rings) == 1:
            return [list(itertools.chain.from_iterable(_points(region.rings[0])))]
        left, top, width, height = region.box
        inside = fill([ring - (left, top) for ring in region.rings], (height, width))
        return {"size": list(self.size), "counts": encode_mask(inside, (top, left), self.size)}


def _points(ring: npt.NDArray[np.float64]) -> list[list[float]]:
    """[x, y] of each point, without a fraction where it has none."""
    return [[v if v % 1 else int(v) for v in point] for point in ring.tolist()]


def _score(region: Region, name: str) -> dict[str, float]:
    return {} if region.confidence is None else {name: round(region.confidence, 4)}
