"""The console's HTTP application."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from typing import Any

import msgspec
import numpy as np
from aiohttp import WSMsgType, web

from streamseg.client.control import ControlClient
from streamseg.errors import ConfigError, ControlError, StreamsegError, one_line
from streamseg.net.curve_keys import ClientKeys
from streamseg.outputs.png import indexed_png
from streamseg.runtime.counters import ProgressWatch
from streamseg.types import U8, LabelSet
from streamseg.web.access import Access
from streamseg.web.answers import Answers, shares_message
from streamseg.web.detail import DetailPictures
from streamseg.web.engines import Fetcher, choices, is_to_be_fetched
from streamseg.web.feed import Feed
from streamseg.web.frames import Shown
from streamseg.web.guard import Guard, need_own_page
from streamseg.web.link import Link
from streamseg.web.metrics import exposition, unhealthy, unready
from streamseg.web.pages import Pages
from streamseg.web.segment import Segmenter
from streamseg.web.setup import MaskEndpoints, WebSetup, host_and_port, trusts_its_network
from streamseg.web.viewer import Do, Drawn, Ping, Slow, Viewer, Watch, parse_page_message
from streamseg.wire.control import Status
from streamseg.wire.zones import ZonesDocument

log = logging.getLogger(__name__)

STATUS_EVERY_S = 1.0
MAX_VIEWERS = 64
MAX_BODY = 64 << 10  # bytes of a request's body
MAX_MESSAGE = 512 << 10  # of one message from a page: all zones of a stream are 300 KB
LOADING_TIMEOUT_S = 30.0  # without a sign of life from a daemon whose cores load a network
SEND_TIMEOUT_S = 20.0  # a browser that takes nothing for this long is disconnected


class Console:
    """The HTTP application and what it holds: the feed, the control socket, the viewers."""

    def __init__(self, setup: WebSetup) -> None:
        self._pages = Pages()
        self._access = Access(setup.token, trusts_its_network(setup), host_and_port(setup.listen)[1])
        guard = Guard(self._access, self._pages)
        guard.by_any_name = (self._healthz, self._readyz)  # they answer with one word
        guard.without_token = (*guard.by_any_name, guard.login, self._static)
        self._link = Link(setup.control)  # for what pages ask; waits while the daemon is busy with it
        self._health = Link(setup.control)  # for the status alone, so that nobody waits for a page
        self._segmenter = Segmenter(setup.control)
        self._details = DetailPictures(setup.control)
        self._loading = Link(setup.control, timeout_s=LOADING_TIMEOUT_S)  # nobody else waits for networks
        self._fetcher = Fetcher()
        self._progress = ProgressWatch()
        self._viewers: set[Viewer] = set()
        self._answers = Answers(self._link, self._viewers)
        self._tasks: set[asyncio.Task[None]] = set()  # that wait for a network
        self._feed: Feed | None = None
        self.app = web.Application(middlewares=[guard.check], client_max_size=MAX_BODY)
        self.app.on_response_prepare.append(guard.protect)
        self.app.cleanup_ctx.append(self._life)
        self.app.add_routes(
            [
                web.get("/", self._page),
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._metrics),
                web.get("/link", self._browser),
                web.post("/link", self._may_connect),
                web.post("/login", guard.login),
                web.post("/logout", guard.logout),
                web.get("/streams/{stream}/mask.png", self._mask),
                web.get("/streams/{stream}/detail.jpg", self._details.answer),
                web.post("/segment", self._segmenter.answer),
                web.get("/static/{name}", self._static),
            ]
        )

    def connect(self, endpoints: MaskEndpoints) -> None:
        """Receive masks from these endpoints; called once, when the application has started."""
        keys = None
        if endpoints.keys is not None:
            keys = ClientKeys(endpoints.keys.server.encode(), endpoints.keys.secret.encode())
        self.feed.connect(endpoints.masks, endpoints.snapshots, keys)

    @property
    def feed(self) -> Feed:
        assert self._feed is not None, "made when the application starts"
        return self._feed

    async def _life(self, _: web.Application) -> Any:
        self._feed = Feed(self._show, self._send_labels, self._show_shares, self._answers.take_event)
        polling = asyncio.create_task(self._poll())
        yield
        for task in (polling, *self._tasks):
            task.cancel()
        await asyncio.gather(polling, *self._tasks, return_exceptions=True)
        self._fetcher.close()
        await self._feed.close()
        await self._answers.close()
        await self._link.close()
        await self._health.close()
        await self._loading.close()
        await self._segmenter.close()
        await self._details.close()

    async def _page(self, request: web.Request) -> web.StreamResponse:
        return self._pages.answer(request, "index.html")

    async def _static(self, request: web.Request) -> web.StreamResponse:
        return self._pages.answer(request, request.match_info["name"])

    async def _healthz(self, _: web.Request) -> web.Response:
        """200 while the daemon answers and its route moves."""
        try:
            wrong = unhealthy(await self._health.status(STATUS_EVERY_S), self._progress)
        except ControlError as error:
            wrong = f"the daemon does not answer: {error}" if error.code == "no answer" else str(error)
        return web.Response(text=f"{wrong or 'ok'}\n", status=503 if wrong else 200)

    async def _readyz(self, _: web.Request) -> web.Response:
        """200 when the engine is loaded and masks are published."""
        try:
            wrong = unready(await self._health.status(STATUS_EVERY_S))
        except ControlError as error:
            wrong = str(error)
        return web.Response(text=f"{wrong or 'ok'}\n", status=503 if wrong else 200)

    async def _metrics(self, request: web.Request) -> web.Response:
        try:
            status: Status | None = await self._health.status(STATUS_EVERY_S)
        except ControlError:
            status = None
        body, content_type = exposition(status, request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def _mask(self, request: web.Request) -> web.Response:
        """The last mask of a stream as an indexed PNG, in the colours of its classes."""
        stream = request.match_info["stream"]
        refined = request.query.get("refined") == "1"
        try:
            mask, labels = await self._link.ask(lambda daemon: daemon.snapshot(stream, refined=refined))
        except ControlError as error:
            raise web.HTTPNotFound(text=f"{stream}: {error}\n") from error
        palette = labels.palette() if labels is not None else _greys()
        body = await asyncio.to_thread(indexed_png, mask.labels, palette)
        name = f"{stream}-{mask.epoch}-{mask.seq}.png"
        return web.Response(
            body=body,
            content_type="image/png",
            headers={"Content-Disposition": f'attachment; filename="{name}"'},
        )

    async def _may_connect(self, request: web.Request) -> web.Response:
        """Whether a page may connect: a browser does not show it why its WebSocket was refused."""
        need_own_page(request)
        if len(self._viewers) >= MAX_VIEWERS:
            raise web.HTTPServiceUnavailable(text=f"{MAX_VIEWERS} pages are open already\n")
        return web.Response(status=204)

    async def _browser(self, request: web.Request) -> web.WebSocketResponse:
        await self._may_connect(request)
        sock = web.WebSocketResponse(heartbeat=10.0, max_msg_size=MAX_MESSAGE, compress=False)
        try:
            upgrade = sock.can_prepare(request).ok
        except ValueError:  # its key is no ASCII
            upgrade = False
        if not upgrade:
            raise web.HTTPBadRequest(text="not a WebSocket; a proxy in between must pass Upgrade on\n")
        await sock.prepare(request)
        viewer = Viewer(self.feed)
        self._viewers.add(viewer)
        sending = asyncio.create_task(_send(sock, viewer))
        try:
            viewer.send(
                {
                    "type": "console",
                    "host": socket.gethostname(),
                    "login": self._access.token != "",
                    "unix_ms": time.time() * 1000,
                }
            )
            for labels in self.feed.label_sets.values():
                viewer.send(_labels(labels))
            self._answers.greet(viewer)
            await self._send_status({viewer})
            async for message in sock:
                if message.type is WSMsgType.TEXT:
                    await self._receive(viewer, message.data)
        except (Slow, msgspec.MsgspecError) as error:
            log.debug("console: a page was disconnected: %r", error)
        finally:
            self._viewers.discard(viewer)
            viewer.close()
            self._watch_events()
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            await sock.close()
        return sock

    async def _receive(self, viewer: Viewer, text: str) -> None:
        match parse_page_message(text):
            case Watch() as watch:
                was_hidden = viewer.hidden
                viewer.watch(watch)
                self._watch_events()
                if was_hidden and not viewer.hidden:
                    await self._send_status({viewer})
            case Drawn() as drawn:
                viewer.drawn(drawn)
            case Ping(at=at):
                viewer.send({"type": "pong", "at": at, "unix_ms": time.time() * 1000})
            case Do(what="engine" | "engines") as do:  # takes long: the page is answered meanwhile
                task = asyncio.create_task(self._do(viewer, do))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            case Do() as do:
                await self._do(viewer, do)

    async def _do(self, viewer: Viewer, do: Do) -> None:
        def ask(daemon: ControlClient) -> None:
            if do.what == "add":
                daemon.add(do.stream, **do.settings)
            else:
                getattr(daemon, do.what)(do.stream)

        problems, found = do.problems(), {}
        if not problems:
            try:
                if do.what in ("zones", "toml"):
                    found = await self._answers.do(do)
                elif do.what == "engines":
                    found = {"engines": await asyncio.to_thread(choices, await self._health.status(1.0))}
                elif do.what == "engine":
                    engine, status = do.settings["engine"], await self._health.status(0.0)
                    if do.stream in status.streams and is_to_be_fetched(engine, status):
                        await self._fetcher.fetch(engine)
                    await self._loading.ask(lambda daemon: daemon.engine(do.stream, engine))
                else:
                    await self._link.ask(ask)
            except (ControlError, ConfigError) as error:
                problems = list(error.problems)
            except StreamsegError as error:  # a network that cannot be fetched
                problems = [str(error)]
            except OSError as error:
                problems = [one_line(error)]
        with contextlib.suppress(Slow):  # it is disconnected by its sending task
            viewer.send({"type": "done", "id": do.id, "problems": problems, **found})
        await self._send_status(self._viewers, max_age_s=0.0)

    async def _poll(self) -> None:
        """Send the status to the pages that are in the foreground."""
        while True:
            await asyncio.sleep(STATUS_EVERY_S)
            await self._send_status({viewer for viewer in self._viewers if not viewer.hidden})

    async def _send_status(self, viewers: set[Viewer], max_age_s: float = 0.5) -> None:
        if not viewers:
            return
        try:
            status = await self._health.status(max_age_s)
            message = _status(status)
            self._answers.take_status(status)
        except ControlError as error:
            message = {"type": "no daemon", "problems": list(error.problems)}
        for viewer in list(viewers):
            with contextlib.suppress(Slow):  # it is disconnected by its sending task
                viewer.send(message)

    def _show(self, stream: str, shown: Shown) -> None:
        for viewer in self._viewers:
            viewer.show(stream, shown)

    def _show_shares(self, counted: ZonesDocument) -> None:
        for viewer in self._viewers:
            viewer.show_shares(counted.stream, shares_message(counted))

    def _watch_events(self) -> None:
        """Receive events while a page is looked at."""
        wanted = any(not viewer.hidden for viewer in self._viewers)
        self.feed.watch_events(wanted)
        if not wanted:
            self._answers.forget_events()

    def _send_labels(self, labels: LabelSet) -> None:
        for viewer in list(self._viewers):
            with contextlib.suppress(Slow):
                viewer.send(_labels(labels))


async def _send(sock: web.WebSocketResponse, viewer: Viewer) -> None:
    """Send what the viewer has, as fast as the browser takes it."""
    try:
        while True:
            what = await viewer.next()
            async with asyncio.timeout(SEND_TIMEOUT_S):
                if isinstance(what, str):
                    await sock.send_str(what)
                else:
                    for message in what:
                        await sock.send_bytes(message)
    except (TimeoutError, ConnectionError):
        await sock.close()


def _greys() -> U8:
    return np.repeat(np.arange(256, dtype=np.uint8), 3).reshape(256, 3)


def _labels(labels: LabelSet) -> dict[str, Any]:
    classes = [{"name": c.name, "colour": c.colour} for c in labels.classes]
    return {"type": "labels", "id": labels.id, "classes": classes}


def _status(status: Status) -> dict[str, Any]:
    """The part of the daemon's status that a page needs."""
    streams = []
    for name, one in status.streams.items():
        known = msgspec.structs.asdict(one)  # but what an older daemon, or one without a gate, leaves out
        fields = {key: value for key, value in known.items() if value is not msgspec.UNSET}
        del fields["histograms"]
        streams.append(fields | {"stream": name, "detail": name in status.details})
    return {
        "type": "status",
        "version": status.streamseg,
        "state": status.state,
        "started_unix_ns": str(status.started_unix_ns),
        "engine": msgspec.structs.asdict(status.engine),
        "engines": [msgspec.structs.asdict(engine) for engine in status.engines.values()],
        "memory_bytes": status.memory_bytes,
        "subscribers": status.publisher.subscribers if status.publisher else 0,
        "crf_restarts": status.crf_restarts,
        "streams": streams,
    }
