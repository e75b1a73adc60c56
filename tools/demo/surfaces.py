"""The large surfaces of the street: ground and house fronts, as one texture that moves under fixed rays."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from streamseg.types import U8
from tools.demo.view import (
    BUILDING,
    CAMERA_HEIGHT,
    CENTRE_X,
    DEMO_SIZE,
    F32,
    FAR_M,
    FENCE,
    FOCAL,
    HORIZON,
    LEFT_KERB,
    LEFT_WALL,
    PAVEMENT,
    PERIOD_M,
    RIGHT_KERB,
    RIGHT_WALL,
    ROAD,
    SKY,
    TREE,
    f32,
    noise,
    to_u8,
)

PX = 20  # texture pixels in a metre
COLUMNS = int(PERIOD_M * PX)
GROUND_HALF_M = 14.0
GROUND_ROWS = int(2 * GROUND_HALF_M * PX)
WALL_M = 15.0
WALL_ROWS = int(WALL_M * PX)
LEVEL_ROWS = GROUND_ROWS + 2 * WALL_ROWS
LEVELS_M = (0.0, 14.0, 35.0)
"""From these distances on, the texture's copy that is smoothed along z by 1, 5 and 15 pixels is used."""

_NOTHING = np.empty(0, np.uint16)

OPEN = 255  # in the label texture: nothing here, what is behind shows


@dataclass(frozen=True, slots=True)
class Surfaces:
    """Textures (all levels below each other) and, for each pixel of the picture, where its ray meets them."""

    texture: U8  # (3 · LEVEL_ROWS, COLUMNS, 3)
    labels: U8  # (3 · LEVEL_ROWS, COLUMNS)
    at: npt.NDArray[np.int16]  # (H, W, 2), column and row at the start of the drive
    between: npt.NDArray[np.uint16]  # (H, W), the rest of it behind the point, in OpenCV's fixed-point form
    backdrop: U8  # (H, W, 3), what lies behind everything
    backdrop_labels: U8  # (H, W)
    keep: U8  # (H, W, 3), the share of colour that haze leaves, of 255
    haze: U8  # (H, W, 3), the haze's own light

    def draw(self, driven_m: float) -> tuple[U8, U8]:
        """Picture and labels of the empty street after so many metres."""
        shift = round(
            (driven_m % PERIOD_M) * PX
        )  # whole texture pixels: 6 of them in a thirtieth of a second
        at = self.at + np.array([shift, 0], np.int16)
        rgb = cv2.remap(self.texture, at, self.between, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
        labels = cv2.remap(self.labels, at, _NOTHING, cv2.INTER_NEAREST, borderMode=cv2.BORDER_WRAP)
        rgb = cv2.add(cv2.multiply(rgb, self.keep, scale=1 / 255), self.haze)
        hole = labels == OPEN
        cv2.copyTo(self.backdrop, hole.astype(np.uint8), rgb)
        labels = np.where(hole, self.backdrop_labels, labels)
        return np.asarray(rgb, np.uint8), np.asarray(labels, np.uint8)


def make_surfaces(rng: np.random.Generator) -> Surfaces:
    ground, ground_labels = _ground(rng)
    left, left_labels = _house_fronts(rng)
    right, right_labels = _house_fronts(rng)
    texture = np.concatenate([ground, left, right])
    labels = np.concatenate([ground_labels, left_labels, right_labels])
    smoothed = [texture] + [cv2.blur(texture, (k, 1), borderType=cv2.BORDER_REFLECT) for k in (5, 15)]
    rows, columns, distance = _rays()
    at, between = cv2.convertMaps(columns, rows, cv2.CV_16SC2)
    backdrop, backdrop_labels = _backdrop(rng)
    keep = np.exp(-distance / 260.0)[..., None].repeat(3, 2)
    return Surfaces(
        texture=np.concatenate(smoothed),
        labels=np.concatenate([labels] * 3),
        at=np.asarray(at, np.int16),
        between=np.asarray(between, np.uint16),
        backdrop=backdrop,
        backdrop_labels=backdrop_labels,
        keep=to_u8(keep * 255),
        haze=to_u8((1 - keep) * f32([206, 214, 220])),
    )


def _rays() -> tuple[F32, F32, F32]:
    """For each pixel: row and column of the texture, and the distance; rows of OPEN where nothing is met."""
    h, w = DEMO_SIZE
    v, u = np.mgrid[0:h, 0:w].astype(np.float32)
    dx, dy = (u - CENTRE_X) / FOCAL, (v - HORIZON) / FOCAL
    with np.errstate(divide="ignore", invalid="ignore"):
        to_ground = np.where(dy > 0, CAMERA_HEIGHT / dy, np.inf)
        to_wall = np.where(dx < 0, LEFT_WALL / dx, np.where(dx > 0, RIGHT_WALL / dx, np.inf))
    z = np.minimum(np.minimum(to_ground, to_wall), FAR_M * 2).astype(np.float32)
    on_ground = to_ground <= to_wall
    height = CAMERA_HEIGHT - dy * z
    side = np.where(dx < 0, 0, WALL_ROWS)
    wall_row = GROUND_ROWS + side + np.clip((WALL_M - height) * PX, 0, WALL_ROWS - 1)
    ground_row = np.clip((dx * z + GROUND_HALF_M) * PX, 0, GROUND_ROWS - 1)
    level = sum((z >= start).astype(np.float32) for start in LEVELS_M[1:])
    rows = np.where(on_ground, ground_row, wall_row) + level * LEVEL_ROWS
    rows = np.where((height > WALL_M) | (z >= FAR_M), GROUND_ROWS, rows)  # the walls' top row is open
    return rows.astype(np.float32), (z * PX).astype(np.float32), np.minimum(z, FAR_M)


def _ground(rng: np.random.Generator) -> tuple[U8, U8]:
    x = (np.arange(GROUND_ROWS, dtype=np.float32) / PX - GROUND_HALF_M)[:, None]
    z = (np.arange(COLUMNS, dtype=np.float32) / PX)[None, :]
    size = (GROUND_ROWS, COLUMNS)
    road = (x > LEFT_KERB) & (x < RIGHT_KERB) & (z >= 0)
    shade = (
        np.where(road, 84.0, 104.0) + noise(rng, size, 5) + noise(rng, size, 5, 24) + noise(rng, size, 3, 90)
    )
    rgb = shade[..., None] * f32([0.97, 1.0, 1.03])
    rgb[np.abs(x[:, 0] + 0.9) < 0.25] *= 0.95  # wheel tracks
    rgb[np.abs(x[:, 0] - 0.9) < 0.25] *= 0.95
    for edge, inside in ((LEFT_KERB, 1), (RIGHT_KERB, -1)):
        kerb = np.abs(x[:, 0] - edge) < 0.12
        rgb[kerb] = rgb[kerb] * 0.2 + 118
        gutter = np.abs(x[:, 0] - edge - 0.3 * inside) < 0.14
        rgb[gutter] *= 0.8
        yellow = np.abs(x[:, 0] - edge - 0.6 * inside) < 0.06
        rgb[yellow] = rgb[yellow] * 0.3 + f32([120, 104, 40])
    slabs = ~road & ((np.mod(z, 0.9) < 0.06) | (np.mod(x + 50, 0.6) < 0.05))
    rgb[slabs] *= 0.86
    dashes = (np.abs(x - 1.75) < 0.075) & (np.mod(z, 6.0) < 3.6)
    rgb[dashes] = rgb[dashes] * 0.3 + 140
    for _ in range(26):  # patches and manholes of the road
        cx, cz = rng.uniform(LEFT_KERB + 1, RIGHT_KERB - 1), rng.uniform(3, PERIOD_M - 5)
        r, c = int((cx + GROUND_HALF_M) * PX), int(cz * PX)
        if rng.random() < 0.5:
            cv2.circle(rgb, (c, r), 7, (58.0, 58.0, 60.0), -1)
        else:
            dr, dc = rng.integers(10, 30), rng.integers(20, 70)
            rgb[r - dr : r + dr, c : c + dc] *= rng.uniform(0.84, 0.95)
    return to_u8(rgb), np.where(road, ROAD, PAVEMENT).astype(np.uint8)


def _house_fronts(rng: np.random.Generator) -> tuple[U8, U8]:
    """One side of the street, top row first; rows above the roofs are OPEN."""
    rgb = np.full((WALL_ROWS, COLUMNS, 3), 205, np.float32)
    labels = np.full((WALL_ROWS, COLUMNS), OPEN, np.uint8)
    bricks = f32(
        [[124, 88, 70], [150, 128, 100], [112, 106, 100], [168, 158, 138], [96, 76, 66], [138, 120, 108]]
    )
    at = 0
    while at < COLUMNS:
        width = min(int(rng.uniform(7, 15) * PX), COLUMNS - at)
        if COLUMNS - at - width < 5 * PX:
            width = COLUMNS - at
        gap = rng.random() < 0.16
        if gap:
            _garden(rng, rgb[:, at : at + width], labels[:, at : at + width])
        else:
            colour = bricks[rng.integers(len(bricks))] * rng.uniform(0.75, 1.1)
            height = int(rng.uniform(6.5, 12.5) * PX)
            _house(rng, rgb[-height:, at : at + width], colour)
            labels[-height:, at : at + width] = BUILDING
        at += width
    rgb += noise(rng, (WALL_ROWS, COLUMNS), 5)[..., None] + noise(rng, (WALL_ROWS, COLUMNS), 5, 40)[..., None]
    return to_u8(rgb), labels


def _house(rng: np.random.Generator, wall: F32, colour: F32) -> None:
    h, w = wall.shape[:2]
    wall[:] = colour + noise(rng, (h, w), 6, 3)[..., None]
    wall[::6] *= 0.93  # courses of bricks
    wall[:8] *= 0.6  # eaves
    wall[:, :2] *= 0.6
    wall[:, -2:] *= 0.6
    storey, bay = int(3.1 * PX), int(rng.uniform(2.2, 3.2) * PX)
    ww, wh = int(bay * 0.48), int(1.7 * PX)
    for bottom in range(h - storey, 30, -storey):
        for left in range(max(6, (w % bay) // 2), w - ww - 5, bay):
            _window(rng, wall[max(10, bottom - 14 - wh) : bottom - 14, left : left + ww])
    shop = rng.random() < 0.45
    ground = wall[-storey + 6 :]
    if shop:
        sign = f32(rng.uniform(40, 190, 3))
        ground[:12, 4:-4] = sign * 0.8
        ground[14:-10, 8:-8] = 44 + noise(rng, ground[14:-10, 8:-8].shape[:2], 22, 14)[..., None]
        ground[14:-10, 8 : w - 8 : max(20, bay)] = sign * 0.5
    else:
        for left in range(max(6, (w % bay) // 2), w - ww - 5, bay):
            _window(rng, ground[10 : 10 + wh, left : left + ww])
        door = int(rng.integers(8, max(9, w - 30)))
        ground[8:, door : door + 20] = f32(rng.uniform(25, 90, 3))
    ground[-6:] *= 0.7


def _window(rng: np.random.Generator, pane: F32) -> None:
    if pane.shape[0] < 12 or pane.shape[1] < 8:
        return
    pane[:] = rng.choice([205.0, 190.0, 90.0])  # frame
    glass = pane[2:-2, 2:-2]
    glass[:] = rng.uniform(28, 60) * f32([0.95, 1.0, 1.08])
    glass[: glass.shape[0] // 2] += (
        rng.uniform(0, 50) * np.linspace(1, 0, glass.shape[0] // 2, dtype=np.float32)[:, None, None]
    )
    pane[pane.shape[0] // 2] = pane[0]
    pane[:, pane.shape[1] // 2] = pane[0, :1]


def _garden(rng: np.random.Generator, rgb: F32, labels: U8) -> None:
    """A gap between houses: trees behind a fence."""
    w = rgb.shape[1]
    top = (WALL_ROWS - 5.2 * PX - np.abs(noise(rng, (1, w), 34, 12)[0])).astype(int)
    for c in range(w):
        rgb[top[c] :, c] = f32([66, 72, 48])
        labels[top[c] :, c] = TREE
    leaf = noise(rng, rgb.shape[:2], 18, 3) + noise(rng, rgb.shape[:2], 14, 9)
    rgb += np.where(labels == TREE, leaf, 0)[..., None]
    fence = int(1.5 * PX)
    rgb[-fence:] = 62 + noise(rng, (fence, w), 6)[..., None]
    rgb[-fence:, ::5] *= 0.55
    rgb[-fence : -fence + 3] = 80
    labels[-fence:] = FENCE


def _backdrop(rng: np.random.Generator) -> tuple[U8, U8]:
    """Sky with thin clouds, and the end of the street: trees and roofs in the haze."""
    h, w = DEMO_SIZE
    down = np.linspace(0, 1, h, dtype=np.float32)[:, None]
    sky = np.stack([188 + 78 * down, 210 + 58 * down, 236 + 26 * down], -1) + np.zeros((h, w, 1), np.float32)
    clouds = noise(rng, (h, w), 1, 60) + noise(rng, (h, w), 0.6, 24)
    sky += np.clip(clouds, 0, 2)[..., None] * f32([22, 14, 6])
    labels = np.full((h, w), SKY, np.uint8)
    ridge = HORIZON - 13 - np.abs(noise(rng, (1, w), 9, 7)[0]) - np.abs(noise(rng, (1, w), 3, 2)[0])
    rows = np.arange(h, dtype=np.float32)[:, None]
    trees = rows >= ridge[None, :]
    sky[trees] = (f32([104, 110, 100]) + noise(rng, (h, w), 9, 2)[..., None])[trees]
    labels[trees] = TREE
    for _ in range(9):
        left, width, tall = int(rng.uniform(150, 320)), int(rng.uniform(12, 30)), int(rng.uniform(12, 30))
        block = np.s_[int(HORIZON) - tall : int(HORIZON) + 6, left : left + width]
        sky[block] = rng.uniform(110, 160) + noise(rng, sky[block].shape[:2], 10, 3)[..., None]
        labels[block] = BUILDING
    road = rows > HORIZON + 3
    sky[(road & (np.abs(np.arange(w) - CENTRE_X) < 40)[None, :])] = 110
    labels[(road & (np.abs(np.arange(w) - CENTRE_X) < 40)[None, :])] = ROAD
    return to_u8(sky), labels
