"""Surfaces → network input on their device, in torch: NV12 or P010 planes, scaled, as upright RGB.

Gives what decode and make_batch give: within one level of OpenCV's conversion and three of swscale's, but
for about three values in 10 000, colours outside RGB, which they clip before scaling and this clips after.
Scaling is linear and separable, so each plane is multiplied by one matrix from the left and one from the
right, and everything after that is of the network's size.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from streamseg.sources.surface import Surface
from streamseg.types import Size
from streamseg.types.picture import shrinks_much


def make_device_batch(surfaces: Sequence[Surface], size: Size) -> Tensor:
    """Scale surfaces to one size → (N, h, w, 3) uint8 RGB, contiguous, on their device.

    As make_batch: area averaging where a picture shrinks to less than half, else bilinear.
    """
    with torch.inference_mode():
        return torch.stack([device_picture(surface, size) for surface in surfaces])


def device_picture(surface: Surface, size: Size) -> Tensor:
    """One surface as upright RGB of this size, (h, w, 3) uint8, contiguous."""
    transpose, left_right, top_bottom = surface.turn
    height, width = size[::-1] if transpose else size
    # The capsule, not the plane: PyAV's planes take no stream, and torch would pass one. None is needed:
    # FFmpeg works on CUDA's default stream, and so does torch in this thread.
    luma, chroma = (from_dlpack(plane.__dlpack__()) for plane in surface.planes)
    area = shrinks_much((luma.shape[0], luma.shape[1]), (height, width))
    device = str(luma.device)
    rows = [
        _weights(luma.shape[0], height, area, count, device) for count in (luma.shape[0], chroma.shape[0])
    ]
    columns = [
        _weights(luma.shape[1], width, area, count, device) for count in (luma.shape[1], chroma.shape[1])
    ]
    y = rows[0] @ luma.float() @ columns[0].T  # (h, w)
    uv = rows[1] @ chroma.float().permute(2, 0, 1) @ columns[1].T  # (2, h, w)
    matrix, offset = _to_rgb(surface.luma_of_red_and_blue, surface.full_range, luma.dtype, device)
    levels = torch.cat([y[None], uv]).flatten(1)  # (3, h · w)
    rgb = torch.addmm(offset, matrix, levels).round_().clamp_(0, 255).to(torch.uint8).view(3, height, width)
    if transpose:
        rgb = rgb.transpose(1, 2)
    flips = [axis for axis, wanted in ((2, left_right), (1, top_bottom)) if wanted]
    return (rgb.flip(flips) if flips else rgb).permute(1, 2, 0).contiguous()


@functools.lru_cache(maxsize=64)
def _weights(source: int, target: int, area: bool, samples: int, device: str) -> Tensor:
    """(target, samples) float32: the weight of each sample of a plane in each pixel after scaling.

    The plane stands for `source` pixels, each with the value of its sample: where there are fewer samples,
    two pixels share one, and an odd last pixel takes the last one, as in OpenCV's chroma.
    """
    step = source / target
    weights = np.zeros((target, source))
    if area:
        edges = np.arange(target + 1) * step
        pixels = np.arange(source)
        shared = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
        weights = np.maximum(shared, 0) / step
    else:
        at = np.clip((np.arange(target) + 0.5) * step - 0.5, 0, source - 1)
        first = np.minimum(at.astype(int), max(source - 2, 0))
        weights[np.arange(target), first] = 1 - (at - first)
        weights[np.arange(target), np.minimum(first + 1, source - 1)] += at - first
    if samples != source:
        shared_by = np.zeros((samples, target))
        np.add.at(shared_by, np.minimum(np.arange(source) // 2, samples - 1), weights.T)
        weights = shared_by.T
    return torch.from_numpy(weights.astype(np.float32)).to(device)


@functools.lru_cache(maxsize=64)
def _to_rgb(
    luma_of_red_and_blue: tuple[float, float], full_range: bool, dtype: torch.dtype, device: str
) -> tuple[Tensor, Tensor]:
    """From the planes' (Y, U, V) to RGB in 0..255: a matrix (3, 3) and an offset (3, 1)."""
    red, blue = luma_of_red_and_blue
    green = 1 - red - blue
    bits, unit = (8, 1) if dtype == torch.uint8 else (10, 64)  # P010: ten bits at the top of sixteen
    more = 2 ** (bits - 8)
    black, white, chroma = (
        (0, 2**bits - 1, 2**bits - 1) if full_range else (16 * more, 235 * more, 224 * more)
    )
    ycc = np.array(
        [
            [1, 0, 2 * (1 - red)],
            [1, -2 * blue * (1 - blue) / green, -2 * red * (1 - red) / green],
            [1, 2 * (1 - blue), 0],
        ]
    )
    matrix = 255 * ycc / np.array([white - black, chroma, chroma])
    offset = -matrix @ np.array([[black], [128 * more], [128 * more]])
    as_tensor = functools.partial(torch.tensor, dtype=torch.float32, device=device)
    return as_tensor((matrix / unit).tolist()), as_tensor(offset.tolist())
