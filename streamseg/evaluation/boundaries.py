"""Scores near boundaries: mIoU in a band round them (a trimap), and how well contours agree.

Bands: Kohli, Ladický, Torr, "Robust higher order potentials for enforcing label consistency", 2009, as
Krähenbühl & Koltun 2011 and the DeepLab papers plot them. Contours: Csurka, Larlus, Perronnin, "What is a
good evaluation measure for semantic segmentation?", 2013.
"""

from __future__ import annotations

from typing import cast

import cv2
import numpy as np
import numpy.typing as npt

from streamseg.evaluation.dataset import IGNORE
from streamseg.types import U8

WIDTHS = (1, 2, 5, 10, 20)
"""Of the bands, pixels on either side of a boundary."""

TOLERANCE = 3
"""Pixels that two contours may be apart and still agree."""

Bools = npt.NDArray[np.bool_]


def edge_pixels(labels: U8, counted: Bools) -> Bools:
    """Pixels with one of their four neighbours in another class, where both are counted."""
    edges = np.zeros(labels.shape, bool)
    down = (labels[:-1] != labels[1:]) & counted[:-1] & counted[1:]
    right = (labels[:, :-1] != labels[:, 1:]) & counted[:, :-1] & counted[:, 1:]
    edges[:-1] |= down
    edges[1:] |= down
    edges[:, :-1] |= right
    edges[:, 1:] |= right
    return edges


def boundary_distance(truth: U8) -> npt.NDArray[np.float32]:
    """Pixels from each pixel to the nearest true boundary, 0 on it; infinite where there is none.

    A boundary lies between two classes. The border of unlabelled pixels is none, as it may not be a true one.
    """
    edges = edge_pixels(truth, truth != IGNORE)
    if not edges.any():
        return np.full(truth.shape, np.inf, np.float32)
    return _distance_to(edges)


def boundary_f(truth: U8, predicted: U8, classes: int) -> float | None:
    """The mean over classes of the F-score of their contours, 0..1; None where there is no contour at all.

    A pixel of one contour is a hit when a pixel of the other is at most TOLERANCE away (Euclidean). Classes
    with a contour in the truth or in the prediction count; what is unlabelled does not.
    """
    counted = truth != IGNORE
    true_edges, found_edges = edge_pixels(truth, counted), edge_pixels(predicted, counted)
    scores = []
    for label in range(classes):
        true_contour = true_edges & (truth == label)
        found_contour = found_edges & (predicted == label)
        true_count, found_count = int(true_contour.sum()), int(found_contour.sum())
        if not true_count and not found_count:
            continue
        if not true_count or not found_count:
            scores.append(0.0)
            continue
        precision = (found_contour & _near(true_contour)).sum() / found_count
        recall = (true_contour & _near(found_contour)).sum() / true_count
        scores.append(float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0)
    return sum(scores) / len(scores) if scores else None


def _near(contour: Bools) -> Bools:
    """Pixels at most TOLERANCE from a contour that is not empty."""
    return _distance_to(contour) < TOLERANCE + 0.01  # the next distance is at least 1/10 further


def _distance_to(pixels: Bools) -> npt.NDArray[np.float32]:
    distance = cv2.distanceTransform((~pixels).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return cast(npt.NDArray[np.float32], distance)
