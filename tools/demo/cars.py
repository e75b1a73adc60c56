"""Cars as a handful of shaded faces: a side profile drawn out across the width, wheels, glass, lights."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from streamseg.types import U8
from tools.demo.view import CAR, f32, project

Colour = tuple[float, float, float]

LENGTH_M, WIDTH_M = 4.15, 1.74

# (z, y) in metres, tail at z = 0.
_TAIL = [(0.02, 0.30), (0.0, 0.62), (0.06, 0.94)]
_BODY = [*_TAIL, (0.95, 0.96), (3.0, 0.93), (4.0, 0.78), (4.15, 0.55), (4.12, 0.28)]
_CABIN = [(0.08, 0.92), (0.52, 1.40), (1.0, 1.47), (2.0, 1.44), (3.02, 0.92)]
_REAR_SIDE_GLASS = [(0.62, 0.98), (0.78, 1.34), (1.42, 1.37), (1.42, 0.98)]
_FRONT_SIDE_GLASS = [(1.52, 0.98), (1.52, 1.37), (1.98, 1.35), (2.66, 0.98)]
_WHEELS_Z, _WHEEL_R = (0.82, 3.32), 0.31

_SHIFT = 4  # binary places of sub-pixels for cv2
_SUB = 1 << _SHIFT
_ROUND = [(float(np.cos(a)), float(np.sin(a))) for a in np.linspace(0, 2 * np.pi, 16, endpoint=False)]


@dataclass(frozen=True, slots=True)
class Car:
    """A car of one colour; `oncoming` shows its front."""

    paint: Colour
    oncoming: bool = False

    def draw(self, rgb: U8, labels: U8, x: float, z: float) -> None:
        """Draw it with its middle at x and its near end at z."""
        if z < 1.2:
            return
        light = 1.0 if x > 0 else 0.9
        near = -1.0 if x > 0 else 1.0  # which of its sides is seen
        side_x = x + near * WIDTH_M / 2
        left, right = x - WIDTH_M / 2, x + WIDTH_M / 2
        self._shadow(rgb, x, z)

        def face(points: list[tuple[float, float, float]], colour: Colour, counts: bool = True) -> None:
            corners = np.array([(round(u * _SUB), round(v * _SUB)) for u, v in project(points)], np.int32)
            cv2.fillPoly(rgb, [corners], colour, cv2.LINE_AA, _SHIFT)
            if counts:
                cv2.fillPoly(labels, [corners], CAR, cv2.LINE_8, _SHIFT)

        def side(
            profile: list[tuple[float, float]], colour: Colour, inset: float = 0.0, counts: bool = True
        ) -> None:
            face([(side_x - near * inset, y, self._z(pz, z)) for pz, y in profile], colour, counts)

        def across(a: tuple[float, float], b: tuple[float, float], inset: float, colour: Colour) -> None:
            za, zb = self._z(a[0], z), self._z(b[0], z)
            face(
                [
                    (left + inset, a[1], za),
                    (right - inset, a[1], za),
                    (right - inset, b[1], zb),
                    (left + inset, b[1], zb),
                ],
                colour,
            )

        def shade(k: float) -> Colour:
            r, g, b = (min(255.0, c * k * light) for c in self.paint)
            return r, g, b

        for wheel in (0.1, WIDTH_M - 0.1 - 0.2):  # tyres seen under the body
            za = self._z(0.3 if not self.oncoming else LENGTH_M - 0.3, z)
            face(
                [
                    (left + wheel, 0.0, za),
                    (left + wheel + 0.2, 0.0, za),
                    (left + wheel + 0.2, 0.4, za),
                    (left + wheel, 0.4, za),
                ],
                (18.0, 18.0, 20.0),
            )
        side(_BODY, shade(0.62))
        side(_CABIN, shade(0.66), 0.12)
        side(_REAR_SIDE_GLASS, (34.0, 38.0, 42.0), 0.1, False)
        side(_FRONT_SIDE_GLASS, (40.0, 44.0, 48.0), 0.1, False)
        for wz in _WHEELS_Z:
            for r, grey in ((_WHEEL_R, 20.0), (_WHEEL_R * 0.58, 120.0)):
                face([(side_x, 0.31 + r * s, self._z(wz + r * c, z)) for c, s in _ROUND], (grey, grey, grey))
        if self.oncoming:
            self._front(across, face, shade, left, right, z)
        else:
            self._tail(across, face, shade, left, right, z)

    def _z(self, along: float, z: float) -> float:
        return z + (LENGTH_M - along if self.oncoming else along)

    def _tail(self, across, face, shade, left: float, right: float, z: float) -> None:  # type: ignore[no-untyped-def]
        across((0.52, 1.40), (1.0, 1.47), 0.16, shade(1.15))
        across((0.06, 0.92), (0.52, 1.42), 0.08, shade(0.95))
        across((0.12, 0.98), (0.48, 1.35), 0.2, (30.0, 34.0, 38.0))
        across((0.3, 1.17), (0.47, 1.34), 0.24, (66.0, 72.0, 78.0))
        across((0.0, 0.62), (0.06, 0.94), 0.0, shade(0.95))
        across((0.02, 0.30), (0.0, 0.62), 0.02, shade(0.62))
        across((0.02, 0.44), (0.0, 0.52), 0.02, shade(0.45))
        for a, b in ((left + 0.03, left + 0.27), (right - 0.27, right - 0.03)):
            face([(a, 0.66, z), (b, 0.66, z), (b, 0.9, z), (a, 0.9, z)], (150.0, 26.0, 24.0))
        mid = (left + right) / 2
        face(
            [(mid - 0.27, 0.68, z), (mid + 0.27, 0.68, z), (mid + 0.27, 0.8, z), (mid - 0.27, 0.8, z)],
            (196.0, 168.0, 60.0),
        )

    def _front(self, across, face, shade, left: float, right: float, z: float) -> None:  # type: ignore[no-untyped-def]
        across((2.0, 1.44), (1.0, 1.47), 0.16, shade(1.1))
        across((3.02, 0.92), (2.0, 1.44), 0.1, shade(0.9))
        across((2.95, 0.96), (2.06, 1.40), 0.18, (44.0, 50.0, 56.0))
        across((4.0, 0.78), (3.0, 0.93), 0.03, shade(1.15))
        across((4.12, 0.28), (4.0, 0.78), 0.0, shade(0.9))
        across((4.13, 0.34), (4.1, 0.5), 0.3, (24.0, 24.0, 26.0))
        for a, b in ((left + 0.06, left + 0.4), (right - 0.4, right - 0.06)):
            face([(a, 0.56, z), (b, 0.56, z), (b, 0.72, z), (a, 0.72, z)], (226.0, 228.0, 222.0))
        mid = (left + right) / 2
        face(
            [(mid - 0.27, 0.4, z), (mid + 0.27, 0.4, z), (mid + 0.27, 0.51, z), (mid - 0.27, 0.51, z)],
            (208.0, 208.0, 200.0),
        )

    @staticmethod
    def _shadow(rgb: U8, x: float, z: float) -> None:
        half = WIDTH_M / 2 + 0.12
        ends = (z - 0.15, z + LENGTH_M)
        outline = np.array(
            project(
                [
                    (x - half, 0, ends[0]),
                    (x + half, 0, ends[0]),
                    (x + half, 0, ends[1]),
                    (x - half, 0, ends[1]),
                ]
            )
        )
        u0, v0 = np.maximum(0, np.floor(outline.min(0))).astype(int)
        u1, v1 = np.ceil(outline.max(0)).astype(int) + 1
        part = rgb[v0:v1, u0:u1]
        if part.size == 0:
            return
        mask = np.zeros(part.shape[:2], np.float32)
        cv2.fillPoly(
            mask, [((outline - [u0, v0]) * 2**_SHIFT).round().astype(np.int32)], 0.62, cv2.LINE_8, _SHIFT
        )
        soft = f32(cv2.blur(mask, (7, 3)))
        part[:] = (part * (1 - soft[..., None])).astype(np.uint8)
