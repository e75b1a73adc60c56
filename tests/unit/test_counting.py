"""Counts of zones equal those of plain NumPy, to the pixel, over zones, sizes and encodings."""

from __future__ import annotations

import random
from collections.abc import Mapping
from fractions import Fraction

import numpy as np
import pytest

import streamseg.analytics.raster as raster_module
from streamseg.analytics.counting import count
from streamseg.analytics.counts import ZoneCounts
from streamseg.analytics.raster import rasterise
from streamseg.config import PICTURE, ZoneConfig
from streamseg.types import IGNORE, ClassInfo, LabelSet, Mask, Size, Stamp
from streamseg.wire import decode_message, encode_mask
from tests.zones import pixels_of

LABELS = LabelSet("test", tuple(ClassInfo(f"class {i}", (i, i, i)) for i in range(255)))
SIZES = [(1, 1), (1, 40), (37, 1), (9, 7), (31, 64), (65, 100), (120, 161)]


def random_mask(rng: random.Random, size: Size, classes: int, *, confident: bool) -> Mask:
    """Blobs, stripes or noise of some classes and unknown pixels."""
    numpy = np.random.default_rng(rng.randrange(2**32))
    values = np.append(np.arange(classes, dtype=np.uint8), np.uint8(IGNORE))
    match rng.randrange(3):
        case 0:
            labels = numpy.choice(values, size)
        case 1:
            labels = np.repeat(numpy.choice(values, (size[0], -(-size[1] // 9))), 9, 1)[:, : size[1]]
        case _:
            labels = np.full(size, numpy.choice(values))
    confidence = numpy.integers(0, 256, size, np.uint8) if confident else None
    stamp = Stamp("gate", 0, 0, 0, Fraction(1, 25), 1, "arrival", run=1)
    return Mask(stamp, np.ascontiguousarray(labels), LABELS.id, "engine", confidence=confidence)


def random_zone(rng: random.Random) -> ZoneConfig:
    def point() -> tuple[float, float]:
        # On a coarse grid often, where points lie on pixels' centres and edges.
        return (
            (rng.randrange(9) / 8, rng.randrange(9) / 8)
            if rng.random() < 0.4
            else (rng.random(), rng.random())
        )

    while True:
        try:
            if rng.random() < 0.3:
                line = tuple(point() for _ in range(rng.randrange(2, 5)))
                return ZoneConfig(line=line, width=rng.choice([0.001, 0.02, 0.1, 0.5, 1.0]))
            polygon = tuple(point() for _ in range(rng.randrange(3, 9)))
            holes = tuple(tuple(point() for _ in range(3)) for _ in range(rng.choice([0, 0, 1, 3])))
            return ZoneConfig(polygon=polygon, holes=holes)
        except ValueError:
            continue  # no area


def check(counts: ZoneCounts, mask: Mask, zones: Mapping[str, ZoneConfig]) -> None:
    """The counts of a mask as its subscriber has it."""
    whole = {PICTURE: np.ones(mask.size, bool)}
    for name, where in (whole | {n: pixels_of(zone, mask.size) for n, zone in zones.items()}).items():
        zone = counts.zone(name)
        assert zone is not None
        assert zone.pixels == where.sum(), name
        np.testing.assert_array_equal(zone.counts, np.bincount(mask.labels[where], minlength=256), name)
        assert zone.unknown == (mask.labels[where] == IGNORE).sum()
        if mask.confidence is None:
            assert zone.confidence is None
            continue
        sums = [mask.confidence[where & (mask.labels == i)].sum(dtype=np.int64) for i in range(256)]
        np.testing.assert_array_equal(zone.confidence, sums, name)


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "arrays"])
@pytest.mark.parametrize("seed", range(20))
def test_every_count_is_that_of_numpy_on_the_published_mask(seed: int, compiled: bool) -> None:
    rng = random.Random(seed)
    size = rng.choice(SIZES)
    zones = {f"z{i}": random_zone(rng) for i in range(rng.choice([0, 1, 2, 5, 5, 64]))}
    mask = random_mask(rng, size, rng.choice([1, 2, 21, 255]), confident=rng.random() < 0.5)
    counts = count(mask, LABELS, rasterise(zones, size, compiled=compiled), compiled=compiled)
    for encoding in ("zstd", "png", "raw"):
        kind = "mask" if mask.confidence is None else "mask+confidence"
        received = decode_message(encode_mask(mask, encoding, kind=kind))
        assert isinstance(received, Mask)
        check(counts, received, zones)
    if mask.confidence is None:
        received = decode_message(encode_mask(mask, "zstd", kind="rle"))
        assert isinstance(received, Mask)
        check(counts, received, zones)


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "arrays"])
@pytest.mark.parametrize("seed", range(30))
def test_a_raster_holds_the_pixels_whose_centres_are_inside(seed: int, compiled: bool) -> None:
    rng = random.Random(1000 + seed)
    for size in SIZES:
        zone = random_zone(rng)
        np.testing.assert_array_equal(
            rasterise({"z": zone}, size, compiled=compiled).mask("z"), pixels_of(zone, size), f"{zone}"
        )


def test_zones_that_cross_in_too_many_ways_are_counted_in_several_passes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(raster_module, "MOST_SETS", 5)
    rng = random.Random(3)
    zones = {f"z{i}": random_zone(rng) for i in range(20)}
    mask = random_mask(rng, (65, 100), 21, confident=True)
    raster = rasterise(zones, mask.size)
    assert len(raster.layers) > 3
    check(count(mask, LABELS, raster), mask, zones)


def test_where_a_polygon_crosses_itself_the_even_odd_rule_decides() -> None:
    star = ZoneConfig(polygon=((0.5, 0), (0.8, 1), (0, 0.4), (1, 0.4), (0.2, 1)))
    mask = rasterise({"star": star}, (100, 100)).mask("star")
    assert not mask[60, 50], "its middle is outside"
    assert mask[20, 50]


def test_neighbours_share_no_pixel_and_leave_none_out() -> None:
    """Half-open edges: what is cut in two adds up, also where the cut is on pixels' centres."""
    left, right = ((0, 0), (0.5, 0), (0.5, 1), (0, 1)), ((0.5, 0), (1, 0), (1, 1), (0.5, 1))
    for width in (9, 10, 11):
        raster = rasterise({"l": ZoneConfig(polygon=left), "r": ZoneConfig(polygon=right)}, (4, width))
        assert (raster.mask("l") ^ raster.mask("r")).all()


GROUND = ((0.3, 0.5), (0.7, 0.5), (1.0, 1.0), (0.0, 1.0))


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "arrays"])
def test_the_pixels_of_a_rectangle_on_the_ground_have_its_area(compiled: bool) -> None:
    zone = ZoneConfig(polygon=GROUND, ground=GROUND, ground_size_m=(8.0, 25.0))
    for size in [(200, 300), (720, 1280)]:
        labels = np.zeros(size, np.uint8)
        labels[: size[0] * 3 // 4] = 1
        mask = Mask(Stamp("gate", 0, 0, 0, Fraction(1, 25), 1, "arrival", run=1), labels, "test", "engine")
        areas = count(mask, LABELS, rasterise({"road": zone}, size), compiled=compiled).zones[1].square_m
        assert areas is not None
        assert areas.sum() == pytest.approx(200, rel=0.01), "but for the pixels at its edges"
        assert areas[1] > 2 * areas[0], "what is far away is larger than it looks"


def test_both_ways_to_count_give_the_same_areas() -> None:
    zone = ZoneConfig(polygon=((0, 0.1), (1, 0), (1, 1), (0, 1)), ground=GROUND, ground_size_m=(8, 25))
    raster = rasterise({"road": zone}, (90, 160))
    mask = random_mask(random.Random(5), (90, 160), 21, confident=False)
    one, other = (count(mask, LABELS, raster, compiled=c).zones[1].square_m for c in (True, False))
    assert one is not None
    np.testing.assert_allclose(one, other, rtol=1e-9)


@pytest.mark.parametrize("turn", range(4))
def test_the_sky_has_no_area(turn: int) -> None:
    """Pixels at the horizon and above, wherever that is in the picture, and those near it."""
    corners = GROUND
    for _ in range(turn):  # by a quarter
        corners = tuple((1 - y, x) for x, y in corners)
    everything = ((0, 0), (1, 0), (1, 1), (0, 1))
    zone = ZoneConfig(polygon=everything, ground=corners, ground_size_m=(8.0, 25.0))
    raster = rasterise({"all": zone}, (100, 100))
    labels = np.rot90(np.repeat(np.arange(100, dtype=np.uint8), 100).reshape(100, 100), -turn)
    mask = Mask(Stamp("g", 0, 0, 0, Fraction(1), 1, "arrival"), np.ascontiguousarray(labels), "test", "e")
    areas = count(mask, LABELS, raster).zones[1].square_m
    assert areas is not None
    assert np.isfinite(areas).all()
    horizon = 17  # where the edges of the rectangle meet: 1/6 of the height
    assert (areas[:horizon] == 0).all()
    assert (areas[50:100] > 0).all()
    assert areas.sum() < 200 * 12 * 12
