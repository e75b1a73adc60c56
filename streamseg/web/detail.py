"""GET /streams/NAME/detail.jpg: a picture of a camera's large stream, which the daemon opens for it."""

from __future__ import annotations

import asyncio

from aiohttp import web

from streamseg.errors import ControlError
from streamseg.web.guard import need_own_page
from streamseg.web.link import Link

AT_ONCE = 2  # as many as the daemon opens
MAX_WAITING = 8
LATER_S = "5"


class DetailPictures:
    """Answers GET /streams/NAME/detail.jpg, and asks the daemon for AT_ONCE. Belongs to one event loop."""

    def __init__(self, control: str) -> None:
        self._links = [Link(control) for _ in range(AT_ONCE)]
        self._free = list(self._links)
        self._turn = asyncio.Semaphore(AT_ONCE)
        self._waiting = 0

    async def answer(self, request: web.Request) -> web.Response:
        need_own_page(request)  # a picture of another site's page would open the camera
        stream = request.match_info["stream"]
        if self._waiting >= MAX_WAITING:
            text = f"{MAX_WAITING} detailed pictures wait already\n"
            raise web.HTTPTooManyRequests(text=text, headers={"Retry-After": LATER_S})
        self._waiting += 1
        try:
            async with self._turn:
                link = self._free.pop()
                try:
                    picture = await link.ask(lambda daemon: daemon.picture(stream))
                finally:
                    self._free.append(link)
        except ControlError as error:
            if error.code in ("unknown stream", "bad state"):
                raise web.HTTPNotFound(text=f"{error}\n") from error
            raise web.HTTPServiceUnavailable(text=f"{error}\n", headers={"Retry-After": LATER_S}) from error
        finally:
            self._waiting -= 1
        name = f"{stream}-{picture.captured_unix_ns // 1_000_000}.jpg"
        return web.Response(
            body=picture.jpeg,
            content_type="image/jpeg",
            headers={
                "Content-Disposition": f'inline; filename="{name}"',
                "Captured-Unix-Ns": str(picture.captured_unix_ns),
                "Clock": picture.clock,
            },
        )

    async def close(self) -> None:
        await asyncio.gather(*(link.close() for link in self._links))
