"""The drawn street as a real H.264 file, made once for each user."""

from __future__ import annotations

import os
import tempfile
from fractions import Fraction
from pathlib import Path

import av

from streamseg.demo.scene import SEED, draw_scene
from streamseg.demo.view import DEMO_SIZE
from streamseg.errors import SourceError

DEMO_FPS = 30
DEMO_SECONDS = 10
_DRAWING = 1  # to be raised when the picture changes, so that no old clip is found


def demo_clip() -> Path:
    """The clip's path; draws it first if need be (a few seconds).

    It lies in $XDG_CACHE_HOME/streamseg or ~/.cache/streamseg, or among the temporary files where that cannot
    be written. It appears there whole or not at all. Raises SourceError when it can be written nowhere.
    """
    name = f"street-{SEED}-{_DRAWING}.mp4"
    refused: list[str] = []
    for folder in _folders():
        path = folder / name
        if path.is_file():
            return path
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_clip(path, DEMO_SECONDS)
        except OSError as error:
            refused.append(f"{folder} ({error.strerror or error})")
            continue
        return path
    raise SourceError(f"demo: the clip cannot be written to {' or '.join(refused)}; set XDG_CACHE_HOME")


def write_clip(path: Path, seconds: float) -> None:
    """Draw the street into an MP4 file; `path` appears whole or not at all. Raises OSError."""
    handle, unfinished = tempfile.mkstemp(suffix=".mp4", prefix=".street-", dir=path.parent)
    os.close(handle)
    try:
        _encode(Path(unfinished), round(seconds * DEMO_FPS))
        Path(unfinished).chmod(0o644)
        os.replace(unfinished, path)
    finally:
        Path(unfinished).unlink(missing_ok=True)


def _encode(path: Path, count: int) -> None:
    height, width = DEMO_SIZE
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=DEMO_FPS)
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        video.time_base = Fraction(1, DEMO_FPS)
        video.options = {"preset": "superfast", "crf": "21", "g": "30", "threads": "1"}
        for i in range(count):
            rgb, _ = draw_scene(i / DEMO_FPS)
            image = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            image.pts, image.time_base = i, Fraction(1, DEMO_FPS)
            container.mux(video.encode(image))
        container.mux(video.encode())


def _folders() -> list[Path]:
    cache = os.environ.get("XDG_CACHE_HOME", "")
    try:
        first = Path(cache) if os.path.isabs(cache) else Path.home() / ".cache"
    except RuntimeError:  # no home
        first = Path(tempfile.gettempdir())
    return [first / "streamseg", Path(tempfile.gettempdir()) / f"streamseg-{os.getuid()}"]
