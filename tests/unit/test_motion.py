"""The gate's measure: noise, light and compression are no change; small and slow things always are."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamseg.live.motion import BUSY_S, HABIT_S, LEAST, MOST, Motion, cells_of
from streamseg.types import U8

FPS = 8
SIZE = (360, 480)
CELLS = cells_of(SIZE)

Scene = npt.NDArray[np.float32]


def a_scene(seed: int = 0, dark: float = 1.0) -> Scene:
    """A street: smooth parts, edges and texture, as luma of the network's input size."""
    rng = np.random.default_rng(seed)
    scene = cv2.resize(rng.uniform(30, 220, (6, 8)), SIZE[::-1], interpolation=cv2.INTER_CUBIC)
    scene += cv2.resize(rng.normal(0, 12, (90, 120)), SIZE[::-1], interpolation=cv2.INTER_LINEAR)
    scene[200:210] += 50
    return np.asarray(scene.clip(16, 235) * dark, np.float32)


def seen(scene: Scene, noise: float = 0.0, rng: np.random.Generator | None = None) -> U8:
    """The luma of a scene as the gate gets it, by a camera with so much noise (levels of a pixel)."""
    cells = cv2.resize(scene, CELLS[::-1], interpolation=cv2.INTER_AREA)
    if noise and rng is not None:
        cells = cells + rng.normal(0, noise / 4, CELLS)  # of 16 pixels
    return np.asarray(cells.round().clip(0, 255), np.uint8)


def put(scene: Scene, x: int, y: int, size: tuple[int, int], contrast: float) -> Scene:
    """The scene with a block of (height, width) pixels on it, brighter or darker than what is behind it."""
    scene = scene.copy()
    scene[y : y + size[0], x : x + size[1]] += contrast
    return scene


class Camera:
    """Looks as the gate does, with a clock of its own: each change makes a new reference."""

    def __init__(self, first: U8) -> None:
        self.motion = Motion(first)
        self.now_s = 0.0
        self.masks = 0

    def look(self, luma: U8, fps: float = FPS) -> bool:
        """Whether the network would be run on this picture."""
        self.now_s += 1 / fps
        change = self.motion.look(luma, self.now_s)
        real = change in ("new", "light")
        if real:
            self.motion.refer(luma)
            self.masks += 1
        return real


def calm(
    noise: float = 2.0, dark: float = 1.0, seconds: float = 4.0
) -> tuple[Camera, Scene, np.random.Generator]:
    """A camera that knows its still scene."""
    rng, scene = np.random.default_rng(1), a_scene(dark=dark)
    camera = Camera(seen(scene, noise, rng))
    for _ in range(round(seconds * FPS)):
        camera.look(seen(scene, noise, rng))
    return camera, scene, rng


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_a_picture_that_equals_the_reference_is_never_a_change(seed: int) -> None:
    rng = np.random.default_rng(seed)
    motion = Motion(rng.integers(0, 256, CELLS, np.uint8))
    now_s = 0.0
    for _ in range(3):
        now_s += 1 / FPS
        motion.look(rng.integers(0, 256, CELLS, np.uint8), now_s)
        same = rng.integers(0, 256, CELLS, np.uint8)
        motion.refer(same)
        assert motion.look(same.copy(), now_s) == "none"


@settings(deadline=None, max_examples=30)
@given(
    st.integers(0, SIZE[1] - 40), st.integers(0, SIZE[0] - 40), st.sampled_from([(12, 4), (12, 6), (40, 20)]),
    st.sampled_from([-1, 1]), st.sampled_from([(0.0, 15), (2.0, 20), (8.0, 42)]),
)  # fmt: skip
def test_a_block_of_enough_contrast_is_always_a_change(
    x: int, y: int, size: tuple[int, int], sign: int, camera_like: tuple[float, int]
) -> None:
    """As small as a person of 12 pixels, on every place: it covers half of some cell at least."""
    noise, contrast = camera_like
    rng = np.random.default_rng(x * 1000 + y)
    scene = np.full(SIZE, 110, np.float32)
    camera = Camera(seen(scene, noise, rng))
    for _ in range(FPS):
        camera.look(seen(scene, noise, rng))
    assert camera.look(seen(put(scene, x, y, size, sign * contrast * 1.25), noise, rng))


@pytest.mark.parametrize("noise", [0.0, 2.0, 8.0])
@pytest.mark.parametrize("dark", [1.0, 0.25])
def test_noise_is_no_change_once_it_is_known(noise: float, dark: float) -> None:
    camera, scene, rng = calm(noise, dark)
    before = camera.masks
    for _ in range(20 * FPS):
        camera.look(seen(scene, noise, rng))
    assert camera.masks - before <= 2


def test_more_noise_at_night_is_learned_within_seconds() -> None:
    camera, scene, rng = calm(1.0)
    for _ in range(6 * FPS):
        camera.look(seen(scene, 10.0, rng))
    before = camera.masks
    for _ in range(10 * FPS):
        camera.look(seen(scene, 10.0, rng))
    assert camera.masks - before <= 2


@pytest.mark.parametrize("gain", [0.6, 0.8, 1.15, 1.3])
def test_an_exposure_step_is_one_mask_and_then_calm(gain: float) -> None:
    camera, scene, rng = calm()
    before = camera.masks
    assert camera.look(seen(scene * gain, 2.0, rng))
    for _ in range(10 * FPS):
        camera.look(seen(scene * gain, 2.0, rng))
    assert camera.masks - before <= 3


def test_light_that_drifts_costs_a_mask_now_and_then() -> None:
    camera, scene, rng = calm()
    before = camera.masks
    for i in range(30 * FPS):  # a quarter darker within half a minute
        camera.look(seen(scene * (1 - 0.25 * i / (30 * FPS)), 2.0, rng))
    assert camera.masks - before <= 12


def test_something_new_is_seen_while_the_light_changes() -> None:
    camera, scene, rng = calm()
    for i in range(2 * FPS):
        camera.look(seen(scene * (1 - 0.01 * i / FPS), 2.0, rng))
    assert camera.look(seen(put(scene, 201, 131, (12, 5), -60) * 0.98, 2.0, rng))


def test_a_slow_car_far_away_adds_up() -> None:
    """A fifth of a pixel for each frame, as 1.6 pixels a second."""
    camera, scene, rng = calm()
    shown = put(scene, 100, 150, (8, 16), -50)
    camera.look(seen(shown, 2.0, rng))
    moved = 0.0
    masks = []
    for i in range(12 * FPS):
        moved += 0.2
        x = 100 + int(moved)
        if camera.look(seen(put(scene, x, 150, (8, 16), -50), 2.0, rng)):
            masks.append((i, x))
    places = [x for _, x in masks]
    assert len(masks) >= 4
    assert max(b - a for a, b in itertools.pairwise([100, *places])) <= 4  # pixels behind at most


def test_a_person_of_twelve_pixels_who_walks_is_seen_at_once_and_all_the_way() -> None:
    camera, scene, rng = calm()
    behind = 0
    assert camera.look(seen(put(scene, 60, 250, (12, 4), -45), 2.0, rng))
    last = 60
    for i in range(1, 10 * FPS):
        x = 60 + round(i * 1.5)  # 12 pixels, its own height, a second
        if camera.look(seen(put(scene, x, 250, (12, 4), -45), 2.0, rng)):
            last = x
        behind = max(behind, x - last)
    assert behind <= 8


def test_a_large_thing_of_little_contrast_is_seen() -> None:
    camera, scene, rng = calm(1.0)
    assert camera.look(seen(put(scene, 150, 100, (70, 30), 6), 1.0, rng))


def test_pumping_at_key_frames_causes_no_masks_once_known() -> None:
    """Every second each cell jumps by a level or two, as low bitrates have it."""
    rng, scene = np.random.default_rng(2), a_scene()
    camera = Camera(seen(scene))
    pumped = scene
    for i in range(30 * FPS):
        if i % FPS == 0:
            blocks = rng.normal(0, 1.2, (SIZE[0] // 8, SIZE[1] // 8))
            pumped = scene + cv2.resize(blocks, SIZE[::-1], interpolation=cv2.INTER_NEAREST)
        camera.look(seen(pumped))
    assert camera.masks <= 10


def test_a_waving_tree_costs_masks_at_a_bounded_rate_and_makes_nobody_blind() -> None:
    camera, scene, rng = calm()
    tree = (slice(60, 160), slice(300, 420))
    texture = cv2.resize(rng.normal(0, 40, (100, 120)), (130, 100))

    def waving(i: int) -> Scene:
        swayed = scene.copy()
        swayed[tree] += texture[:, 5 + round(5 * np.sin(i)) :][:, :120]
        return swayed

    for i in range(4 * FPS):
        camera.look(seen(waving(i), 2.0, rng))
    before, seconds = camera.masks, 10
    for i in range(seconds * FPS):
        camera.look(seen(waving(i), 2.0, rng))
    assert seconds <= camera.masks - before <= seconds / BUSY_S
    assert camera.look(seen(put(waving(0), 60, 250, (12, 4), -60), 2.0, rng))  # elsewhere: at once
    camera.look(seen(waving(1), 2.0, rng))
    looks = [camera.look(seen(put(waving(i), 350, 100, (30, 12), -90), 2.0, rng)) for i in range(5)]
    assert any(looks)  # in front of it: within BUSY_S


def test_a_flickering_lamp_costs_masks_at_a_bounded_rate() -> None:
    camera, scene, rng = calm()
    before, seconds = camera.masks, 20
    for i in range(seconds * FPS):
        camera.look(seen(put(scene, 300, 40, (30, 30), 40 * np.sin(2.1 * i)), 2.0, rng))
    assert seconds / 2 <= camera.masks - before <= seconds / BUSY_S


@pytest.mark.parametrize("fps", [4, 8, 25])
def test_what_appears_in_a_flickering_place_is_seen_within_a_quarter_of_a_second(fps: int) -> None:
    camera, scene, rng = calm()
    flickering = [put(scene, 120, 190, (40, 40), 40 * np.sin(16.8 * i / 8)) for i in range(40)]
    for start in range(5):
        for i in range(2 * fps + start):
            camera.look(seen(flickering[i % 40], 2.0, rng), fps)
        looks = (
            camera.look(seen(put(flickering[i % 40], 131, 201, (24, 8), -20), 2.0, rng), fps)
            for i in itertools.count(2 * fps + start)
        )
        assert next(k for k, real in enumerate(looks) if real) / fps <= BUSY_S


def test_habitual_changes_may_be_let_wait_longer() -> None:
    """As long as gate_min_s, in addition."""
    motion, now_s = Motion(np.full(CELLS, 100, np.uint8)), 0.0
    changed = motion.reference.copy()
    changed[10:14, 10:14] += 40
    real = []
    for i in range(1, 41):
        now_s += 1 / FPS
        luma = changed if i % 2 else np.full(CELLS, 100, np.uint8)
        if motion.look(luma, now_s, 0.25) == "new":
            motion.refer(luma)
            real.append(now_s)
    assert min(b - a for a, b in itertools.pairwise(real[2:])) >= BUSY_S + 0.25
    assert max(b - a for a, b in itertools.pairwise(real)) <= BUSY_S + 0.25 + 2 / FPS


@pytest.mark.parametrize("levels", [2, 5, 8])
def test_light_that_sways_is_not_taken_for_noise_that_hides_something(levels: float) -> None:
    """An exposure that hunts: by few levels it is worth no mask, but cells differ by it all the same."""
    camera, scene, rng = calm()
    for start in range(0, 12, 2):
        for i in range(3 * FPS + start):
            camera.look(seen(scene + levels * np.sin(2.1 * i / FPS), 2.0, rng))
        light = levels * np.sin(2.1 * (3 * FPS + start) / FPS)
        assert camera.look(seen(put(scene, 131, 201, (24, 8), -20) + light, 2.0, rng))


def test_what_filled_half_the_picture_is_not_remembered_as_noise() -> None:
    camera, scene, rng = calm()
    texture = cv2.resize(rng.normal(0, 40, (60, 200)), (1200, 300))
    for i in range(3 * FPS):
        passing = scene.copy()
        passing[30:330] = 110 + texture[:, 18 * i :][:, : SIZE[1]]
        camera.look(seen(passing, 2.0, rng))
    for _ in range(FPS):
        camera.look(seen(scene, 2.0, rng))
    looks = [camera.look(seen(put(scene, 131, 201, (24, 8), -20), 2.0, rng)) for _ in range(3)]
    assert any(looks)


def test_what_was_habitual_is_new_again_after_a_while() -> None:
    camera, scene, rng = calm()
    for i in range(3 * FPS):
        camera.look(seen(put(scene, 200, 100, (12, 8), 50 * (i % 2)), 2.0, rng))
    for _ in range(round(3 * HABIT_S * FPS)):
        camera.look(seen(scene, 2.0, rng))
    assert camera.motion.look(seen(put(scene, 200, 100, (12, 8), 50), 2.0, rng), camera.now_s + 0.1) == "new"


def test_cells_are_a_quarter_of_the_input_and_bounded() -> None:
    assert cells_of((360, 480)) == (90, 120)
    assert cells_of((1080, 1920)) == (135, 240)
    assert cells_of((2, 2)) == (1, 1)


def test_limits_are_bounded_so_that_no_camera_is_blind() -> None:
    rng = np.random.default_rng(3)
    motion = Motion(rng.integers(0, 256, CELLS, np.uint8))
    for i in range(100):
        luma = rng.integers(0, 256, CELLS, np.uint8)
        motion.look(luma, i / FPS)
        motion.refer(luma)
    flat = np.full(CELLS, 100, np.uint8)
    motion.refer(flat)
    changed = flat.copy()
    changed[10, 10] += MOST + 1
    assert LEAST < MOST
    assert motion.look(changed, 100 / FPS) != "none"
