"""NVDEC without a GPU: pictures decoded by the CPU, handed on as planes by DLPack, as NVDEC's are."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import av
import pytest

from streamseg.sources.frames import FrameMaker
from streamseg.sources.reading import DecodedPicture


class OnFakeGpu:
    """A picture that says it lies on a GPU; its planes are PyAV's own, and speak DLPack by themselves."""

    format = SimpleNamespace(name="cuda", is_rgb=False)

    def __init__(self, image: av.VideoFrame, pixel_format: str = "nv12") -> None:
        self._image = image.reformat(format=pixel_format)
        self._image.pts, self._image.time_base = image.pts, image.time_base
        self.rotation, self.side_data = image.rotation, image.side_data

    @property
    def sw_format(self) -> Any:
        return self._image.format

    def __getattr__(self, name: str) -> Any:
        return getattr(self._image, name)


def leave_pictures_on_a_fake_gpu(monkeypatch: pytest.MonkeyPatch, pixel_format: str = "nv12") -> None:
    """From now on, whatever is decoded stays where NVDEC would have left it."""
    make = FrameMaker.frame

    def frame(maker: FrameMaker, picture: DecodedPicture) -> Any:
        there: Any = OnFakeGpu(picture.image, pixel_format)
        return make(maker, replace(picture, image=there))

    monkeypatch.setattr(FrameMaker, "frame", frame)
