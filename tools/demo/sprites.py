"""Things that stand on the street and face the camera: drawn once, then scaled by their distance."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from streamseg.types import U8
from tools.demo.view import (
    BICYCLIST,
    CAMERA_HEIGHT,
    CENTRE_X,
    DEMO_SIZE,
    F32,
    FOCAL,
    HORIZON,
    PEDESTRIAN,
    POLE,
    SIGN,
    TREE,
    as_u8,
    f32,
    noise,
    to_u8,
)

PX = 48  # sprite pixels in a metre, at the finest


@dataclass(frozen=True, slots=True)
class Sprite:
    """RGBA with colours already multiplied by alpha, at halving sizes; the foot is at the bottom's middle."""

    levels: tuple[U8, ...]
    label: int
    cover: tuple[U8, ...]  # what counts as the thing in ground truth, 0 or 255, beside each level

    def paste(self, rgb: U8, labels: U8, x: float, z: float) -> None:
        """Draw it standing on the street at (x, z)."""
        scale = FOCAL / z / PX  # picture pixels in one of the finest level
        level = min(len(self.levels) - 1, max(0, int(-np.log2(max(scale, 1e-6)))))
        image, cover = self.levels[level], self.cover[level]
        scale *= 2.0**level
        h, w = image.shape[:2]
        foot_u, foot_v = CENTRE_X + FOCAL * x / z, HORIZON + FOCAL * CAMERA_HEIGHT / z
        left, top = foot_u - w / 2 * scale, foot_v - h * scale
        u0, v0 = max(0, int(np.floor(left))), max(0, int(np.floor(top)))
        u1 = min(DEMO_SIZE[1], int(np.ceil(left + w * scale)))
        v1 = min(DEMO_SIZE[0], int(np.ceil(foot_v)))
        if u1 <= u0 or v1 <= v0:
            return
        to_picture = np.array([[scale, 0, left - u0], [0, scale, top - v0]])
        size_wh = (u1 - u0, v1 - v0)
        part = cv2.warpAffine(image, to_picture, size_wh, flags=cv2.INTER_LINEAR)
        clear = cv2.merge([255 - part[..., 3]] * 3)
        under = rgb[v0:v1, u0:u1]
        under[:] = cv2.add(cv2.multiply(under, clear, scale=1 / 255), part[..., :3])
        covered = cv2.warpAffine(cover, to_picture, size_wh, flags=cv2.INTER_LINEAR)
        labels[v0:v1, u0:u1][covered > 127] = self.label


def make_tree(rng: np.random.Generator, height_m: float, leafy: float) -> Sprite:
    """A street tree: trunk, boughs to fine twigs, and some foliage."""
    h, w = int(height_m * PX), int(height_m * 1.15 * PX)
    alpha = np.zeros((h, w), np.uint8)
    tips: list[tuple[float, float]] = []

    def bough(x: float, y: float, angle: float, length: float, width: float) -> None:
        x2, y2 = x + length * np.sin(angle), y - length * np.cos(angle)
        ends = [(round(x * 8), round(y * 8)), (round(x2 * 8), round(y2 * 8))]
        cv2.line(alpha, ends[0], ends[1], 255, max(1, round(width)), cv2.LINE_AA, 3)
        if width < 1.0 or length < 0.12 * PX:
            tips.append((x2, y2))
            return
        for turn in (-rng.uniform(0.12, 0.62), rng.uniform(0.12, 0.62), rng.uniform(-0.25, 0.25)):
            bough(x2, y2, angle + turn, length * rng.uniform(0.64, 0.82), width * 0.66)

    bough(w / 2, h, 0.0, h * 0.235, 0.26 * PX)
    colour = f32([58, 52, 46]) + noise(rng, (h, w), 9, 3)[..., None]
    if leafy:
        leaves = np.zeros((h, w), np.uint8)
        for x, y in tips:
            if rng.random() < leafy:
                cv2.circle(leaves, (int(x), int(y)), int(rng.uniform(0.06, 0.2) * PX), 255, -1)
        leaves[noise(rng, (h, w), 1, 3) > 0.6] = 0
        light = np.linspace(88, 50, h, dtype=np.float32)[:, None] + noise(rng, (h, w), 16, 4)
        colour = np.where(leaves[..., None] > 0, light[..., None] * f32([0.92, 1.02, 0.66]), colour)
        alpha = np.maximum(alpha, leaves)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (25, 25))
    crown = as_u8(cv2.morphologyEx(alpha, cv2.MORPH_CLOSE, kernel))
    return _sprite(colour, alpha, TREE, crown)


def make_lamp(rng: np.random.Generator, side: int) -> Sprite:
    """A street lamp whose arm reaches over the road (side 1: to the right)."""
    h, w = int(7.5 * PX), int(3.2 * PX)
    alpha = np.zeros((h, w), np.uint8)
    mid = w // 2
    cv2.line(alpha, (mid, h), (mid, 12), 255, 7)
    cv2.line(alpha, (mid, h), (mid, h - 60), 255, 11)
    cv2.line(alpha, (mid, 14), (mid + side * 62, 6), 255, 5)
    cv2.line(alpha, (mid + side * 40, 8), (mid + side * 70, 8), 255, 10)
    return _sprite(
        np.full((h, w, 3), 74, np.float32), alpha, POLE, as_u8(cv2.dilate(alpha, np.ones((3, 5), np.uint8)))
    )


def make_sign(rng: np.random.Generator, shape: str) -> Sprite:
    """A traffic sign on its post."""
    h, w = int(2.7 * PX), int(0.9 * PX)
    colour = np.full((h, w, 3), 92, np.float32)
    alpha = np.zeros((h, w), np.uint8)
    mid, r = w // 2, 19
    cv2.line(alpha, (mid, h), (mid, 30), 255, 4)
    if shape == "round":
        cv2.circle(alpha, (mid, 22), r, 255, -1)
        cv2.circle(colour, (mid, 22), r, (176, 32, 36), -1)
        cv2.circle(colour, (mid, 22), r - 5, (222, 222, 220), -1)
        cv2.line(colour, (mid - 6, 22), (mid + 6, 22), (30, 30, 30), 4)
    else:
        cv2.rectangle(alpha, (mid - r, 4), (mid + r, 44), 255, -1)
        cv2.rectangle(colour, (mid - r, 4), (mid + r, 44), (28, 70, 150), -1)
        cv2.arrowedLine(colour, (mid, 40), (mid, 10), (225, 225, 225), 5, tipLength=0.4)
    return _sprite(colour, alpha, SIGN, as_u8(cv2.dilate(alpha, np.ones((3, 3), np.uint8))))


def make_person(rng: np.random.Generator, step: float, bicycle: bool = False) -> Sprite:
    """Somebody seen from behind, legs `step` (−1..1) apart; with `bicycle`, riding one."""
    h, w = int(1.85 * PX), int(0.95 * PX)
    colour = np.full((h, w, 3), 30, np.float32)
    alpha = np.zeros((h, w), np.uint8)
    mid = w // 2
    coat = rng.uniform(22, 100, 3) * rng.uniform(0.5, 1.0)
    parts: list[tuple[tuple[int, int], tuple[int, int], int, object]] = []
    lift = 10 if bicycle else 0
    for side in (-1, 1):
        foot = (mid + side * 4 + int(side * step * 7), h - 2 - lift)
        parts.append(((mid + side * 4, int(h * 0.54)), foot, 8, (26, 28, 36)))
        parts.append(((mid + side * 9, int(h * 0.24)), (mid + side * 12, int(h * 0.52)), 6, coat * 0.8))
    parts.append(((mid, int(h * 0.22)), (mid, int(h * 0.53)), 19, coat))
    if bicycle:
        parts.append(((mid, int(h * 0.62)), (mid, h - 3), 5, (16, 16, 18)))
        parts.append(((mid - 12, int(h * 0.5)), (mid + 12, int(h * 0.5)), 3, (24, 24, 26)))
    for start, end, width, paint in parts:
        cv2.line(alpha, start, end, 255, width)
        cv2.line(colour, start, end, tuple(float(c) for c in paint), width)  # type: ignore[attr-defined]
    cv2.circle(alpha, (mid, int(h * 0.085)), 6, 255, -1)
    cv2.circle(colour, (mid, int(h * 0.085)), 6, (72, 54, 46), -1)
    colour += noise(rng, (h, w), 6, 2)[..., None]
    return _sprite(colour, alpha, BICYCLIST if bicycle else PEDESTRIAN, alpha)


def _sprite(colour: F32, alpha: U8, label: int, cover: U8) -> Sprite:
    premultiplied = f32(colour * (alpha[..., None] / 255))
    image = np.dstack([to_u8(premultiplied), alpha])
    levels, covers = [image], [np.ascontiguousarray(cover)]
    while min(levels[-1].shape[:2]) > 8 and len(levels) < 6:
        h, w = levels[-1].shape[:2]
        half_wh = (max(1, w // 2), max(1, h // 2))
        levels.append(np.asarray(cv2.resize(levels[-1], half_wh, interpolation=cv2.INTER_AREA), np.uint8))
        covers.append(np.asarray(cv2.resize(covers[-1], half_wh, interpolation=cv2.INTER_AREA), np.uint8))
    return Sprite(tuple(levels), label, tuple(covers))
