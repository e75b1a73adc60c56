"""The drawn street at a moment of the drive: picture and ground truth."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from streamseg.types import U8
from tools.demo.cars import Car
from tools.demo.sprites import Sprite, make_lamp, make_person, make_sign, make_tree
from tools.demo.surfaces import Surfaces, make_surfaces
from tools.demo.view import DEMO_SIZE, FAR_M, LEFT_KERB, PERIOD_M, RIGHT_KERB, as_u8, noise

CLASSES = (
    *("sky", "building", "pole", "road", "pavement", "tree"),
    *("sign-symbol", "fence", "car", "pedestrian", "bicyclist"),
)
"""What the labels of draw_scene mean, by their number."""

SPEED_M_S = 9.0
SEED = 20


def draw_scene(t_s: float) -> tuple[U8, U8]:
    """Draw the street t_s seconds into the drive: RGB (360, 480, 3) and labels (360, 480), see CLASSES.

    The same t_s gives the same picture everywhere and always; the drive repeats itself every 10 s.
    """
    street = _street()
    driven_m = t_s * SPEED_M_S
    rgb, labels = street.surfaces.draw(driven_m)
    moment = [(thing.ahead_m(t_s, driven_m), thing) for thing in street.things]
    for z, thing in sorted(moment, key=lambda pair: -pair[0]):
        if thing.nearest_m < z < FAR_M * 0.9:
            thing.draw(rgb, labels, z, t_s)
    soft = cv2.GaussianBlur(rgb, (3, 3), 0.55)
    grain = street.grain[round(t_s * 30) * 7 % len(street.grain)]
    return as_u8(cv2.add(soft, grain, dtype=cv2.CV_8U)), labels


@dataclass(frozen=True, slots=True)
class Thing:
    """Something at x that starts z metres ahead and moves along the street by itself."""

    look: tuple[Sprite | Car, ...]  # several: the phases of a step
    x: float
    z: float
    speed_m_s: float = 0.0
    sway_m: float = 0.0
    follows: bool = False  # drives ahead of the camera, always at about the same distance
    nearest_m: float = 1.6

    def ahead_m(self, t_s: float, driven_m: float) -> float:
        if self.follows:
            return self.z + self.sway_m * float(np.sin(2 * np.pi * t_s / 10))
        # + 6 keeps what has just been passed from appearing far ahead while its end is still in view
        return (self.z + self.speed_m_s * t_s - driven_m + 6) % PERIOD_M - 6

    def draw(self, rgb: U8, labels: U8, z: float, t_s: float) -> None:
        look = self.look[int(t_s * 4) % len(self.look)]
        if isinstance(look, Car):
            look.draw(rgb, labels, self.x, z)
        else:
            look.paste(rgb, labels, self.x, z)


@dataclass(frozen=True, slots=True)
class Street:
    surfaces: Surfaces
    things: tuple[Thing, ...]
    grain: tuple[np.ndarray, ...]


@lru_cache(maxsize=1)
def _street() -> Street:
    rng = np.random.default_rng(SEED)
    surfaces = make_surfaces(rng)
    grain = tuple(
        np.dstack([noise(rng, DEMO_SIZE, 2.5) for _ in range(3)]).astype(np.int16) for _ in range(4)
    )
    return Street(surfaces, tuple(_things(rng)), grain)


def _things(rng: np.random.Generator) -> list[Thing]:
    paints = [
        (150, 154, 160),
        (46, 52, 66),
        (120, 30, 34),
        (188, 190, 188),
        (58, 66, 62),
        (44, 70, 116),
        (30, 30, 33),
    ]
    things = [
        Thing((Car((92, 100, 112)),), -0.1, 15.0, sway_m=2.5, follows=True),
        Thing((Car((168, 172, 176), oncoming=True),), 3.3, 62.0, -9.0),
        Thing((Car((110, 34, 36), oncoming=True),), 3.3, 24.0, -9.0),
    ]
    for x, slots in ((LEFT_KERB + 1.15, range(0, 9)), (RIGHT_KERB - 1.1, range(0, 12))):
        for slot in slots:
            if rng.random() < 0.55:
                paint = paints[rng.integers(len(paints))]
                z = slot * 7.0 + rng.uniform(0, 1.5)
                things.append(Thing((Car(paint, oncoming=bool(x > 0)),), x, z))
    trees = [make_tree(rng, height, leafy) for height, leafy in ((7.5, 0.0), (6.5, 0.75), (8.0, 0.35))]
    things += [Thing((trees[i % 3],), LEFT_KERB - 1.2, 9.0 + 18 * i + rng.uniform(-3, 3)) for i in range(5)]
    things += [
        Thing((trees[(i + 1) % 3],), RIGHT_KERB + 1.6, 4.0 + 22.5 * i + rng.uniform(-3, 3)) for i in range(4)
    ]
    left, right = make_lamp(rng, 1), make_lamp(rng, -1)
    things += [Thing((left,), LEFT_KERB - 0.4, 15.0 + 30 * i) for i in range(3)]
    things += [Thing((right,), RIGHT_KERB + 0.4, 30 * i) for i in range(3)]
    things += [Thing((make_sign(rng, "round"),), LEFT_KERB - 0.5, z) for z in (24.0, 68.0)]
    things += [Thing((make_sign(rng, "board"),), RIGHT_KERB + 0.5, z) for z in (20.0, 52.0)]
    for _ in range(9):
        seed = int(rng.integers(1 << 30))
        look = tuple(make_person(np.random.default_rng(seed), step) for step in (-1.0, 0.0, 1.0, 0.0))
        x = rng.choice([LEFT_KERB - rng.uniform(0.8, 1.9), RIGHT_KERB + rng.uniform(0.8, 2.4)])
        things.append(Thing(look, float(x), float(rng.uniform(0, PERIOD_M)), float(rng.choice([-1.2, 1.2]))))
    rider = tuple(make_person(np.random.default_rng(SEED), step, bicycle=True) for step in (-0.5, 0.5))
    things.append(Thing(rider, LEFT_KERB + 2.6, 48.0, 4.5))
    return things
