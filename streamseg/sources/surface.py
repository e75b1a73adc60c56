"""A decoded picture that stays in device memory: NV12 or P010 on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol

from streamseg.types import U8, Size
from streamseg.types.picture import Picture

Turn = tuple[bool, bool, bool]
"""(transpose, then mirror left-right, then mirror top-bottom)"""

UPRIGHT: Turn = (False, False, False)

DeviceKind = Literal["cpu", "cuda"]

_KINDS: dict[int, DeviceKind] = {1: "cpu", 2: "cuda"}  # as DLPack numbers them


class Plane(Protocol):
    """An array on some device that speaks DLPack, such as av.VideoPlane."""

    def __dlpack__(self) -> Any: ...

    def __dlpack_device__(self) -> tuple[int, int]: ...


class Surface:
    """A picture's two planes in device memory, what makes RGB of them, and how to copy them to the host.

    It owns its planes: what FFmpeg hands out of NVDEC is a copy on the GPU already, from a pool that grows,
    and none of the decoder's few surfaces. So it may be kept, as any frame; its memory goes back when it is
    dropped. Any thread may use it.
    """

    def __init__(
        self,
        luma: Plane,
        chroma: Plane,
        coded_size: Size,
        bring: Callable[[], Picture],
        *,
        turn: Turn = UPRIGHT,
        luma_of_red_and_blue: tuple[float, float] = (0.299, 0.114),
        full_range: bool = False,
    ) -> None:
        """luma is (H, W), chroma (H/2, W/2, 2); uint8 (NV12), or uint16 with ten bits at the top (P010).

        coded_size: before it is turned. bring: copies the picture to the host, in any thread.
        """
        devices = {plane.__dlpack_device__() for plane in (luma, chroma)}
        if len(devices) != 1 or next(iter(devices))[0] not in _KINDS:
            raise ValueError(f"Surface: its planes must be on one CPU or CUDA device; are on {devices}")
        self.planes = luma, chroma
        self.device: DeviceKind = _KINDS[devices.pop()[0]]
        self.coded_size = coded_size
        self.turn = turn
        self.luma_of_red_and_blue = luma_of_red_and_blue
        self.full_range = full_range
        self._bring = bring
        self._host: Picture | None = None  # two threads that ask at once copy it twice

    @property
    def size(self) -> Size:
        height, width = self.coded_size
        return (width, height) if self.turn[0] else (height, width)

    def brought(self) -> Picture:
        """The picture on the host, upright: what decoding on the CPU would have given."""
        if self._host is None:
            self._host = self._bring()
        return self._host

    def rgb(self) -> U8:
        return self.brought().rgb()

    def scaled(self, size: Size) -> U8:
        """On the host; engines on its device scale its planes there."""
        return self.brought().scaled(size)

    def luma(self, size: Size) -> U8:
        return self.brought().luma(size)
