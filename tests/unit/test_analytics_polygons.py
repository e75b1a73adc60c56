"""A mask as polygons: what a reader fills again is the mask."""

from __future__ import annotations

import numpy as np

from streamseg.analytics.polygons import polygons_of
from streamseg.analytics.regions import fill
from streamseg.types import IGNORE
from streamseg.wire import encode_polygons, parse_polygons
from tests.masks import STREET, make_mask


def test_a_reader_of_the_message_gets_the_mask_back() -> None:
    mask = make_mask(3, size=(120, 160), confidence=np.full((120, 160), 102, np.uint8))
    document = parse_polygons(encode_polygons(polygons_of(mask, STREET)))
    assert (document.stream, document.n, document.seq, document.shape) == ("gate", 3, 3, (120, 160))
    again = np.full(mask.size, IGNORE, np.uint8)
    for polygon in document.polygons:
        again[fill(polygon.rings, mask.size)] = polygon.id
        assert polygon.name == STREET.names[polygon.id]
        assert polygon.confidence == 0.4
    assert (again == mask.labels).mean() >= 0.99
    assert sum(polygon.area for polygon in document.polygons) == np.count_nonzero(mask.labels != IGNORE)


def test_whole_numbers_are_sent_without_a_fraction() -> None:
    labels = np.full((6, 8), IGNORE, np.uint8)
    labels[1:5, 2:7] = 2
    (_, document) = encode_polygons(polygons_of(make_mask(labels=labels), STREET))
    assert b".0" not in document
    assert b'"polygons":[{"id":2,"name":"pole","area":20,"rings":[[[' in document
