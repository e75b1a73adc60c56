"""Small clips that tests draw themselves, as real files."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

RED, GREEN, BLUE, GREY = (255, 0, 0), (0, 255, 0), (0, 0, 255), (128, 128, 128)


def picture(size: tuple[int, int], share: float, colour: tuple[int, int, int] = RED) -> npt.NDArray[np.uint8]:
    """Grey, with the left `share` of it in a colour that the tiny engine knows."""
    rgb = np.empty((*size, 3), np.uint8)
    rgb[:] = GREY
    rgb[:, : round(size[1] * share)] = colour
    return rgb


def draw_clip(
    path: Path, frames: int = 20, size: tuple[int, int] = (48, 64), fps: int = 25, codec: str = "libx264"
) -> Path:
    """Write a clip whose i-th frame is red from the left up to (i + 1) / frames of its width."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps)
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        stream.time_base = Fraction(1, fps)
        for i in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(size, (i + 1) / frames), format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
