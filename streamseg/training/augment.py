"""Augmentation of training pictures: geometry, light and camera.

In uint8 with OpenCV, which takes 1.5 ms a crop where the network takes 20. Every function draws from the
generator it is given, so a picture depends on the seed only.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from streamseg.evaluation.dataset import IGNORE
from streamseg.training.recipe import AugmentRecipe

Image = npt.NDArray[np.uint8]
Affine = npt.NDArray[np.float64]

MOTION = 12.0  # pixels that things go from one frame to the next, at most, but for the scale
RAMP = np.arange(256, dtype=np.float32) / 255
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def random_view(
    rng: np.random.Generator,
    recipe: AugmentRecipe,
    size: tuple[int, int],
    centre: tuple[float, float] | None,
) -> Affine:
    """A 2x3 matrix from a picture of `size` (H, W) to the crop: scale, aspect, rotation, mirror, place.

    With a `centre` (y, x) the crop shows it, near its middle.
    """
    (h, w), (crop_h, crop_w) = size, recipe.crop_size
    scale = np.exp(rng.uniform(np.log(recipe.scale_min), np.log(recipe.scale_max)))
    stretch = np.exp(rng.uniform(-recipe.aspect, recipe.aspect))
    scale_y, scale_x = scale / np.sqrt(stretch), scale * np.sqrt(stretch)
    if rng.random() < recipe.flip:
        scale_x = -scale_x
    angle = np.deg2rad(rng.uniform(-recipe.rotate_deg, recipe.rotate_deg))
    linear = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) @ np.diag(
        [scale_x, scale_y]
    )
    # Where the middle of the picture goes: the crop slides over the scaled picture, or the picture over the
    # crop where it is the smaller one, so that no more of the crop is empty than has to be.
    middle = np.array([w / 2, h / 2])
    crop_middle = np.array([crop_w, crop_h]) / 2
    slack = np.abs(np.array([abs(scale_x) * w - crop_w, abs(scale_y) * h - crop_h])) / 2
    if centre is None:
        offset = rng.uniform(-slack, slack)
    else:
        wanted = np.array([crop_w, crop_h]) * rng.uniform(-0.25, 0.25, 2)
        offset = np.clip(wanted - linear @ (np.array([centre[1], centre[0]]) - middle), -slack, slack)
    target = crop_middle + offset - linear @ middle
    return np.concatenate([linear, target[:, None]], axis=1)


def random_motion(rng: np.random.Generator, crop_size: tuple[int, int]) -> Affine:
    """A 2x3 matrix of what a camera does to a picture until its next frame: shift, scale, a slight turn."""
    middle = np.array([crop_size[1], crop_size[0]]) / 2
    scale, angle = np.exp(rng.uniform(-0.05, 0.05)), np.deg2rad(rng.uniform(-1, 1))
    linear = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shift = rng.uniform(-MOTION, MOTION, 2)
    return np.concatenate([linear, (middle + shift - linear @ middle)[:, None]], axis=1)


def after(motion: Affine | None, view: Affine) -> Affine:
    """The view, and what it shows then moved."""
    if motion is None:
        return view
    linear = motion[:, :2] @ view[:, :2]
    return np.concatenate([linear, (motion[:, :2] @ view[:, 2] + motion[:, 2])[:, None]], axis=1)


def warp(rgb: Image, labels: Image, view: Affine, crop_size: tuple[int, int]) -> tuple[Image, Image]:
    """The picture and its labels through `view`; outside the picture it is grey and unlabelled."""
    size_wh = (crop_size[1], crop_size[0])
    shrinks = abs(np.linalg.det(view[:, :2])) < 0.7
    seen = cv2.warpAffine(
        cv2.GaussianBlur(rgb, (3, 3), 0.6) if shrinks else rgb,
        view,
        size_wh,
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=(110, 110, 110),
    )
    truth = cv2.warpAffine(
        labels, view, size_wh, flags=cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=IGNORE
    )
    return _bytes(seen), _bytes(truth)


def paste(
    rgb: Image, labels: Image, donor: Image, donor_labels: Image, wanted: npt.NDArray[np.bool_]
) -> None:
    """Put the donor's pixels of the classes in `wanted` (256 flags) over the picture, in place (ClassMix)."""
    mask = wanted[donor_labels].view(np.uint8)
    cv2.copyTo(donor, mask, rgb)
    cv2.copyTo(donor_labels, mask, labels)


def change_light(rng: np.random.Generator, recipe: AugmentRecipe, rgb: Image) -> Image:
    """Change colour, light, shadows, blur, noise and compression at random."""
    if rng.random() < recipe.colour:
        rgb = _bytes(cv2.transform(rgb, _colour_matrix(rng)))
    if rng.random() < recipe.shadow:
        rgb = _uneven_light(rng, rgb)
    if rng.random() < recipe.light:
        rgb = _bytes(cv2.LUT(rgb, _light_curve(rng)))
    if rng.random() < recipe.blur:
        rgb = _blur(rng, rgb)
    if rng.random() < recipe.noise:
        rgb = _grain(rng, rgb)
    if rng.random() < recipe.jpeg:
        rgb = _compress(rng, rgb)
    return rgb


def _bytes(image: Any) -> Image:
    """Type an OpenCV result as uint8."""
    return np.asarray(image, np.uint8)


def _colour_matrix(rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Saturation, and hue as a rotation about the grey axis."""
    saturation = 0.0 if rng.random() < 0.06 else float(np.exp(rng.uniform(np.log(0.4), np.log(1.7))))
    angle = rng.uniform(-0.3, 0.3)
    axis = np.full(3, 1 / np.sqrt(3))
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    hue = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    grey = np.tile(LUMA, (3, 1))
    return np.asarray((grey + saturation * (np.eye(3) - grey)) @ hue, np.float32)


def _light_curve(rng: np.random.Generator) -> Image:
    """One lookup table (256, 1, 3): gamma, contrast, brightness, and a white balance for each channel."""
    gamma = np.exp(rng.uniform(-0.5, 0.5))
    contrast = rng.uniform(0.6, 1.4)
    brightness = rng.uniform(-0.12, 0.12)
    balance = np.exp(rng.normal(0, 0.09, 3)).astype(np.float32)
    curve = (RAMP**gamma - 0.45) * contrast + 0.45 + brightness
    return np.asarray(np.clip(curve[:, None] * balance * 255, 0, 255), np.uint8)[:, None, :]


def _uneven_light(rng: np.random.Generator, rgb: Image) -> Image:
    """A shadow with an edge, or light that changes slowly over the picture."""
    h, w = rgb.shape[:2]
    if rng.random() < 0.5:
        sharp = np.full((h, w), 255, np.uint8)
        corners = rng.uniform(-0.2, 1.2, (int(rng.integers(3, 6)), 2)) * (w, h)
        cv2.fillPoly(sharp, [cv2.convexHull(corners.astype(np.int32))], int(rng.integers(90, 205)))
        field = _bytes(cv2.blur(sharp, (5, 5)))
    else:
        coarse = rng.uniform(110, 255, (3, 4)).astype(np.uint8)
        field = _bytes(cv2.resize(coarse, (w, h), interpolation=cv2.INTER_CUBIC))
    return _bytes(cv2.multiply(rgb, cv2.merge([field, field, field]), scale=1 / 235))


def _blur(rng: np.random.Generator, rgb: Image) -> Image:
    """Out of focus, or upscaled from a smaller picture."""
    if rng.random() < 0.6:
        return _bytes(cv2.GaussianBlur(rgb, (0, 0), rng.uniform(0.5, 1.6)))
    h, w = rgb.shape[:2]
    factor = rng.uniform(0.4, 0.8)
    small = cv2.resize(rgb, (int(w * factor), int(h * factor)), interpolation=cv2.INTER_AREA)
    return _bytes(cv2.resize(small, (w, h), interpolation=cv2.INTER_LINEAR))


def _grain(rng: np.random.Generator, rgb: Image) -> Image:
    grain = np.empty(rgb.shape, np.int16)
    cv2.setRNGSeed(int(rng.integers(2**31)))  # OpenCV keeps one generator for each thread
    cv2.randn(grain, np.zeros(3), np.full(3, rng.uniform(2, 12)))
    return _bytes(cv2.add(rgb, grain, dtype=cv2.CV_8U))


def _compress(rng: np.random.Generator, rgb: Image) -> Image:
    quality = int(rng.integers(25, 80))
    coded = cv2.imencode(".jpg", rgb, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return _bytes(cv2.imdecode(coded, cv2.IMREAD_COLOR))
