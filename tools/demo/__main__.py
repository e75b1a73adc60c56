"""Writes the drawn street as H.264 in MP4: python -m tools.demo [PATH]

PATH is the packaged clip, streamseg/sources/demo.clip, unless another is named.
"""

from __future__ import annotations

import sys
from fractions import Fraction
from pathlib import Path

import av

from streamseg.sources.target import DEMO_CLIP
from tools.demo.scene import draw_scene
from tools.demo.view import DEMO_SIZE

DEMO_FPS = 30
DEMO_SECONDS = 10
# 0.5 MB; with "superfast" and crf 21 it is 1.7 MB, and 3.0 of 255 from what is drawn, instead of 3.9.
_H264 = {"preset": "slower", "crf": "28", "g": "30", "bf": "0", "threads": "1"}


def write_clip(path: Path, seconds: float) -> None:
    """Draw the street into an MP4 file."""
    height, width = DEMO_SIZE
    with av.open(str(path), "w", format="mp4") as container:
        video = container.add_stream("libx264", rate=DEMO_FPS)
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        video.time_base = Fraction(1, DEMO_FPS)
        video.options = dict(_H264)
        for i in range(round(seconds * DEMO_FPS)):
            rgb, _ = draw_scene(i / DEMO_FPS)
            image = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            image.pts, image.time_base = i, Fraction(1, DEMO_FPS)
            container.mux(video.encode(image))
        container.mux(video.encode())


if __name__ == "__main__":
    write_clip(Path(sys.argv[1]) if len(sys.argv) > 1 else DEMO_CLIP, DEMO_SECONDS)
