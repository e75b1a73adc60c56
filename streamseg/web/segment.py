"""POST /segment: one picture through the daemon's network, as a PNG of labels, as JSON or as an overlay.

This process has no network, and loads none: the daemon runs the picture as one more stream's frame (0008).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Literal, get_args

import msgspec
from aiohttp import web

from streamseg.errors import ControlError, SourceError
from streamseg.types import U8, LabelSet, Mask
from streamseg.web.guard import need_own_page
from streamseg.web.link import Link

Format = Literal["json", "png", "overlay"]
FORMATS: tuple[Format, ...] = get_args(Format)
TYPES: dict[str, Format] = {"application/json": "json", "image/png": "png", "image/jpeg": "overlay"}

MAX_BODY = 32 << 20
MAX_NAME = 256  # of an engine
MAX_PIXELS = 1 << 25  # 8K, and a little
BODY_WITHIN_S = 20.0
ANSWER_WITHIN_S = 15.0  # that the daemon has
MAX_WAITING = 4  # pictures that come in or wait, so four bodies and one decoded picture are held at most
SHARE = 0.25  # of the network's time that pictures may take; the rest is the streams'


class Segmenter:
    """Answers POST /segment, one picture after another. Belongs to one event loop."""

    def __init__(self, control: str) -> None:
        self._link = Link(control, timeout_s=ANSWER_WITHIN_S, remote=False)
        self._waiting = 0
        self._turn = asyncio.Lock()  # guards _free_s, and that one picture is decoded and run at a time
        self._free_s = 0.0  # when the network may have the next one; the loop's time

    async def answer(self, request: web.Request) -> web.Response:
        need_own_page(request)
        wanted = format_of(request.query.get("format"), request.headers.get("Accept", ""))
        engine = request.query.get("engine", "")[:MAX_NAME]
        if self._waiting >= MAX_WAITING:
            raise _later(web.HTTPTooManyRequests, f"{MAX_WAITING} pictures wait already", self._pause_s())
        self._waiting += 1
        try:
            data = await _body(request)
            async with self._turn:
                return await self._segment(data, wanted, engine)
        finally:
            self._waiting -= 1

    async def close(self) -> None:
        await self._link.close()

    async def _segment(self, data: bytes, wanted: Format, engine: str) -> web.Response:
        from streamseg.runtime.picture_file import TooLarge, read_rgb  # late: most consoles never need them

        try:
            rgb = await asyncio.to_thread(read_rgb, data, MAX_PIXELS)
        except TooLarge as error:
            raise web.HTTPRequestEntityTooLarge(MAX_BODY, len(data), text=f"the picture {error}\n") from error
        except SourceError as error:
            raise web.HTTPUnsupportedMediaType(text=f"the picture {error}\n") from error
        await asyncio.sleep(self._pause_s())
        try:
            mask, labels = await self._link.ask(lambda daemon: daemon.segment(rgb, engine))
        except ControlError as error:
            if engine and error.code == "bad settings":
                raise web.HTTPBadRequest(text=f"{error}\n") from error
            raise _later(web.HTTPServiceUnavailable, str(error), 5.0) from error
        took_s = sum(mask.stage_us.get(stage, 0) for stage in ("preprocess", "infer")) / 1e6
        self._free_s = asyncio.get_running_loop().time() + took_s * (1 / SHARE - 1)
        body, content_type = await asyncio.to_thread(_made, wanted, rgb, mask, labels)
        return web.Response(body=body, content_type=content_type)

    def _pause_s(self) -> float:
        return max(0.0, self._free_s - asyncio.get_running_loop().time())


def format_of(query: str | None, accept: str) -> Format:
    """What is wanted: by ?format=, else by the Accept header, else JSON; raises 400 and 406."""
    if query is not None:
        for one in FORMATS:
            if query == one:
                return one
        raise web.HTTPBadRequest(text=f"format: must be one of {', '.join(FORMATS)}; is {query[:40]!a}\n")
    weighed: list[tuple[float, str]] = []
    for part in accept[:1000].split(","):
        kind, *parameters = (word.strip().lower() for word in part.split(";"))
        weight = next((word[2:] for word in parameters if word.startswith("q=")), "1")
        try:
            weighed.append((float(weight), kind))
        except ValueError:
            continue
    named = [(weight, TYPES[kind]) for weight, kind in weighed if kind in TYPES and weight > 0]
    if named:
        return max(named, key=lambda one: one[0])[1]
    ranges = {kind for weight, kind in weighed if weight > 0} & {"", "*/*", "application/*", "image/*"}
    if not ranges:
        raise web.HTTPNotAcceptable(text=f"Accept: must allow one of {', '.join(TYPES)}\n")
    return "png" if ranges == {"image/*"} else "json"


async def _body(request: web.Request) -> bytes:
    """The request's body; raises 400, 408, 413 and 415."""
    if request.content_type.startswith("multipart/"):
        text = "send the picture itself as the body: curl --data-binary @FILE; a form is not read\n"
        raise web.HTTPUnsupportedMediaType(text=text)
    data = bytearray()
    try:
        async with asyncio.timeout(BODY_WITHIN_S):
            if (request.content_length or 0) <= MAX_BODY:
                async for chunk in request.content.iter_any():
                    data += chunk
                    if len(data) > MAX_BODY:
                        break
    except TimeoutError:
        raise web.HTTPRequestTimeout(text=f"the picture must come within {BODY_WITHIN_S:g} s\n") from None
    except (ValueError, web.RequestPayloadError):
        raise web.HTTPBadRequest(text="the body is not formed as HTTP has it\n") from None
    size = max(len(data), request.content_length or 0)
    if size > MAX_BODY:
        text = f"the picture must have at most {MAX_BODY >> 20} MiB\n"
        raise web.HTTPRequestEntityTooLarge(MAX_BODY, size, text=text)
    return bytes(data)


def _made(wanted: Format, rgb: U8, mask: Mask, labels: LabelSet | None) -> tuple[bytes, str]:
    """The body of an answer, and what it is."""
    from streamseg.outputs.one_picture import document_of, overlay_jpeg
    from streamseg.outputs.png import indexed_png

    label_set = labels or LabelSet(mask.label_set, ())
    if wanted == "png":
        return indexed_png(mask.labels, label_set.palette()), "image/png"
    if wanted == "overlay":
        return overlay_jpeg(rgb, mask.labels, label_set), "image/jpeg"
    document = document_of(mask.labels, mask.confidence, label_set, mask.engine)
    return msgspec.json.encode(document | {"stage_us": mask.stage_us}) + b"\n", "application/json"


def _later(kind: Callable[..., web.HTTPException], problem: str, pause_s: float) -> web.HTTPException:
    """An answer that says when to try again."""
    return kind(text=f"{problem}\n", headers={"Retry-After": str(max(1, math.ceil(pause_s)))})
