"""The mistakes that people make, each provoked for real; docs/operating.md has a row for each."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import struct
import subprocess
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest
import zmq

from streamseg import wire
from streamseg.config import EngineConfig, PublishConfig, load_config
from streamseg.daemon import Daemon
from streamseg.net.curve_keys import make_keys
from streamseg.publish import Publisher
from streamseg.recorded import ProcessConfig, process_files
from streamseg.sources.explain import explain
from streamseg.sources.target import resolve
from streamseg.types import Size
from streamseg.web.access import Access, page_problem
from tests.cameras import RtspCamera
from tests.engines import write_constant_engine, write_tiny_engine
from tests.integration.daemons import in_thread
from tests.masks import STREET, make_mask
from tests.media import draw_clip, write_audio
from tests.ports import free_port
from tests.waiting import LIMIT_S, until
from tests.web import Quiet, http_server

Words = list[str]


@dataclass
class Place:
    """A scratch folder, the tiny engine, and what must be closed when the mistake has been made."""

    folder: Path
    engine: Path
    owned: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def file(self, name: str, text: str | bytes = "") -> Path:
        path = self.folder / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    def clip(self, name: str = "ok.mp4") -> Path:
        return draw_clip(self.folder / name)

    def run(self, *words: object) -> Words:
        """streamseg run … with the tiny engine, at a free port."""
        given = [str(word) for word in words]
        if "--endpoint" not in given:
            given += ["--endpoint", "tcp://127.0.0.1:0"]
        return ["run", "--engine", str(self.engine), *given]

    def source(self, source: object) -> Words:
        return self.run("--source", source)

    def tiny(self) -> Words:
        """The option for the tiny engine."""
        return ["--engine", str(self.engine)]

    def config(self, text: str) -> Words:
        self.file("site.toml", text)
        return ["run", "site.toml"]

    def copied_engine(self, **replaced: str) -> Path:
        """The tiny engine once more, with words in its engine.toml replaced."""
        folder = write_tiny_engine(self.folder / "mine")
        toml = (folder / "engine.toml").read_text()
        for before, after in replaced.items():
            toml = toml.replace(before, after)
        (folder / "engine.toml").write_text(toml)
        return folder

    def with_engine(self, before: str, after: str) -> Words:
        """Run the demo clip with the tiny engine, of which a piece of engine.toml is another."""
        return ["run", "--source", "demo:", "--engine", str(self.copied_engine(**{before: after}))]

    def asked(self, *words: str) -> Words:
        """streamseg ctl … of a running daemon with the stream gate, over its control.endpoint."""
        endpoint = f"ipc://{self.folder}/control"
        self.config(
            f'[publish]\nendpoint = "tcp://127.0.0.1:0"\n[control]\nendpoint = "{endpoint}"\n[engine]\n'
            f'name = "{self.engine}"\nbackend = "onnx"\n{GATE}realtime = true\nloop = true\n'
        )
        daemon = Daemon(load_config(self.folder / "site.toml"))
        self.owned.enter_context(in_thread(daemon))
        until(daemon.ready.is_set)
        return ["ctl", "--timeout", str(LIMIT_S), "--endpoint", endpoint, *words]

    def keys(self, name: str) -> tuple[Path, Path]:
        return make_keys(self.folder / name)

    def site(self, *, secured: bool, allowed: bool = True) -> str:
        """A running publisher's endpoint; with keys, `robot` is allowed or not."""
        config = PublishConfig(endpoint="tcp://127.0.0.1:*")
        if secured:
            secret, _ = self.keys("site")
            _, robot = self.keys("robot")
            clients = self.folder / "clients"
            clients.mkdir()
            if allowed:
                (clients / "robot.pub").write_text(robot.read_text())
            config = msgspec.structs.replace(
                config, curve_secret_key_file=str(secret), allowed_clients=str(clients)
            )
        publisher = self.owned.enter_context(Publisher(config, [STREET]))
        publisher.put(make_mask())
        return publisher.endpoint

    def http(self, status: int) -> str:
        """HOST:PORT of a server that answers everything with this status."""

        class Answer(Quiet):
            def do_GET(self) -> None:
                self.send_response(status)
                self.send_header("WWW-Authenticate", 'Basic realm="camera"')
                self.end_headers()

        return self.owned.enter_context(http_server(Answer))

    def camera(self, **offers: Any) -> str:
        """The address of an RTSP camera without pictures."""
        return self.owned.enter_context(RtspCamera([], **offers)).url

    def port(self, *, answers: bool) -> int:
        """A port where nobody listens, or where connections are taken and nothing is ever said."""
        if not answers:
            return free_port()
        listening = self.owned.enter_context(socket.create_server(("127.0.0.1", 0)))
        number: int = listening.getsockname()[1]
        return number


BOMB = (
    b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sIIBBBBB", 13, b"IHDR", 60000, 60000, 8, 0, 0, 0, 0) + b"....IEND"
)

MISTAKES: dict[str, Callable[[Place], Words]] = {}
"""By the words of the table's first column; each gives the words of a command line that fails."""

SAID: dict[str, Callable[[Place], str]] = {}
"""The same for what cannot be had here, where the words are asked for instead."""

HEARD: dict[str, Callable[[Place], Words]] = {}
"""The same for what is only logged, because it goes on trying."""


MACHINE = (
    "a socket's folder on a full disk",
    "a socket in a folder of others",
    "a folder of others for the control socket",
    "a plan on a full disk",
    "a plan in a folder of others",
    "events on a full disk",
    "a state folder that cannot be written",
    "a state folder of another daemon",
    "a damaged journal of events",
    "too few open files allowed",
    "fewer open files allowed than connections",
    "no open file left for a connection",
    "no open file left for a camera",
    "the machine's clock is set",
    "the GPU is out of memory",
    "the machine is out of memory",
)
"""What the machine runs short of under a daemon that runs; test_shortages.py provokes these."""


def mistake(name: str) -> Callable[[Callable[[Place], Words]], Callable[[Place], Words]]:
    def keep(provoke: Callable[[Place], Words]) -> Callable[[Place], Words]:
        MISTAKES[name] = provoke
        return provoke

    return keep


def heard(name: str) -> Callable[[Callable[[Place], Words]], Callable[[Place], Words]]:
    def keep(provoke: Callable[[Place], Words]) -> Callable[[Place], Words]:
        HEARD[name] = provoke
        return provoke

    return keep


# Cameras, addresses and files

MISTAKES |= {
    "the camera's host has no such name": lambda p: p.source("rtsp://camera.invalid/h264"),
    "no server at that port": lambda p: p.source(f"rtsp://127.0.0.1:{p.port(answers=False)}/h264"),
    "a server that never answers, a firewall": lambda p: p.run(
        "--source", f"rtsp://127.0.0.1:{p.port(answers=True)}/h264", "--timeout-s", 1
    ),
    "RTSP that only comes over UDP": lambda p: p.source(p.camera(transports=("UDP",))),
    "RTSP over UDP through a firewall": lambda p: p.run(
        "--source", p.camera(transports=("UDP",)), "--rtsp-transport", "udp", "--timeout-s", 1
    ),
    "a camera that only sends sound": lambda p: p.source(p.camera(media="m=audio 0 RTP/AVP 8\r\n")),
    "a wrong password": lambda p: p.source(f"http://me:wrong@{p.http(401)}/video"),
    "no password": lambda p: p.source(f"http://{p.http(401)}/video"),
    "no right to see it": lambda p: p.source(f"http://{p.http(403)}/video"),
    "a wrong path": lambda p: p.source(f"http://{p.http(404)}/video"),
    "an address of an unknown kind": lambda p: p.source("gopher://camera/video"),
    "an address without its scheme": lambda p: p.source("127.0.0.1:8551/h264"),
    "special letters in a password": lambda p: p.source("rtsp://me:p#ssword@127.0.0.1/h264"),
    "no such camera": lambda p: p.source("/dev/video99"),
    "no such file": lambda p: p.source("street.mp4"),
    "a folder instead of a file": lambda p: p.source(p.folder),
    "an empty file": lambda p: p.source(p.file("street.mp4")),
    "not a video": lambda p: p.source(p.file("street.mp4", "hello\n")),
}
SAID |= {
    "a camera that another program uses": lambda p: explain(
        resolve("/dev/video0"), OSError(16, "Device or resource busy")
    ),
    "a camera that may not be opened": lambda p: explain(
        resolve("/dev/video0"), PermissionError(13, "Permission denied")
    ),
    "a camera that was unplugged": lambda p: explain(resolve("/dev/video0"), OSError(19, "No such device")),
}


MISTAKES |= {
    "a picture that is none": lambda p: ["segment", str(p.file("notes.jpg", "hello\n")), *p.tiny()],
    "a picture of too many pixels": lambda p: ["segment", str(p.file("bomb.png", BOMB)), *p.tiny()],
    "a folder without a picture": lambda p: ["segment", str(p.folder), *p.tiny()],
    "two pictures to standard output": lambda p: [
        *["segment", str(p.file("a.jpg")), str(p.file("b.jpg")), "--out", "-", *p.tiny()]
    ],
    "engines that have nothing in common": lambda p: [
        *["engine", "compare", str(p.engine), "camvid-slim", "--video", str(p.clip())]
    ],
    "nothing to compare engines on": lambda p: ["engine", "compare", str(p.engine), str(p.engine)],
}


@mistake("a picture that was cut off")
def _(p: Place) -> Words:
    noise = np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)
    whole = cv2.imencode(".jpg", noise)[1].tobytes()
    return ["segment", str(p.file("cut.jpg", whole[: len(whole) // 2])), *p.tiny()]


@mistake("sound without a picture")
def _(p: Place) -> Words:
    write_audio(p.folder / "sound.m4a")
    return p.source("sound.m4a")


@mistake("a recording that was cut off")
def _(p: Place) -> Words:
    whole = p.clip().read_bytes()
    return p.source(p.file("cut.mp4", whole[: len(whole) // 2]))


@mistake("a codec that FFmpeg does not know")
def _(p: Place) -> Words:
    return p.source(p.file("odd.mp4", p.clip().read_bytes().replace(b"avc1", b"zzz9")))


# Configuration and command line


def with_answers(table: str, keys: str) -> Callable[[Place], Words]:
    """A stream with one zone or event."""
    return lambda p: p.config(f'[streams.gate]\nsource = "demo:"\n[streams.gate.{table}]\n{keys}\n')


MISTAKES |= {
    "no configuration file": lambda p: ["run", "site.toml"],
    "bad TOML": lambda p: p.config("[streams.gate\n"),
    "an unknown setting": lambda p: p.config('[streams.gate]\nsource = "demo:"\nmaxfps = 5\n'),
    "a setting of an earlier version": lambda p: p.config(
        '[streams.gate]\nsource = "demo:"\n[refine]\nbudget_s = 5\n'
    ),
    "an option of an earlier version": lambda p: ["process", "demo:", "--out", "results", "--ahead", "4"],
    "a file of another encoding": lambda p: [
        "check",
        str(p.file("site.toml", '[streams.gate]\nsource = "demo:"\n'.encode("utf-16")).relative_to(p.folder)),
    ],
    "a value of the wrong type": lambda p: p.config('[streams.gate]\nsource = "demo:"\nmax_fps = "ten"\n'),
    "a value out of range": lambda p: p.config('[streams.gate]\nsource = "demo:"\nmax_fps = -3\n'),
    "a decoder that is not known": lambda p: p.config(
        '[streams.gate]\nsource = "demo:"\nhwaccel = "vulkan"\n'
    ),
    "pictures to skip that are not known": lambda p: p.config(
        '[streams.gate]\nsource = "demo:"\nskip_frames = "most"\n'
    ),
    "a line break in a text": lambda p: p.config('[streams.gate]\nsource = "http://10.0.0.7/a\\nb"\n'),
    "no stream": lambda p: p.config("[engine]\nthreads = 1\n"),
    "a corner of a zone outside the picture": with_answers(
        "zones.ramp", "polygon = [[0.1, 0.5], [0.9, 0.5], [0.9, 1080]]"
    ),
    "a zone without an area": with_answers("zones.ramp", "polygon = [[0, 0], [0.5, 0.5], [1, 1]]"),
    "a line without a width": with_answers("zones.ramp", "line = [[0, 0], [1, 1]]"),
    "a zone called picture": with_answers("zones.picture", "polygon = [[0, 0], [1, 0], [1, 1]]"),
    "an event of a stream in a zone that is not there": with_answers(
        "events.flood", 'zone = "ramp"\nclasses = ["water"]\nabove = 0.3'
    ),
    "an event without a rule": with_answers("events.flood", 'classes = ["water"]'),
    "an invalid choice": lambda p: p.config(
        '[streams.gate]\nsource = "demo:"\n[engine]\nprecision = "fp23"\n'
    ),
    "a size of masks that is none": lambda p: p.config(
        '[streams.gate]\nsource = "demo:"\nmask_size = [1080]\n'
    ),
    "a size of masks that is none, as an option": lambda p: [
        "run",
        "--source",
        "demo:",
        "--mask-size",
        "1080p",
    ],
    "neither a file nor a source": lambda p: ["run"],
    "an option beside a file": lambda p: [*p.config('[streams.gate]\nsource = "demo:"\n'), "--loop"],
    "an unknown command": lambda p: ["rnu"],
    "an unknown option": lambda p: ["run", "--sourc", "demo:"],
}

GATE = '[streams.gate]\nsource = "demo:"\n'
YARD = GATE + '[streams.yard]\nsource = "stream:gate"\n'

MISTAKES |= {
    "a stream on a network that is not there": lambda p: p.config(
        GATE + f'engine = "fien"\n[engines.fine]\nname = "{p.engine}"\n'
    ),
    "a section called default": lambda p: p.config(GATE + "[engines.default]\nthreads = 1\n"),
    "frames of a stream that is not there": lambda p: p.config(YARD.replace("stream:gate", "stream:gat")),
    "a stream's own frames": lambda p: p.config(GATE.replace("demo:", "stream:gate")),
    "frames of a stream that decodes nothing": lambda p: p.config(
        YARD + '[streams.hall]\nsource = "stream:yard"\n'
    ),
    "a large stream that is the small one": lambda p: p.config(GATE + 'detail_source = "demo:"\n'),
    "another stream's frames for a large stream": lambda p: p.config(
        GATE + '[streams.yard]\nsource = "a.mp4"\ndetail_source = "stream:gate"\n'
    ),
    "a large stream of another stream's source": lambda p: p.config(YARD + 'detail_source = "b.mp4"\n'),
    "a file for a large stream, from elsewhere": lambda p: p.asked(
        "add", "hall", "--source", "demo:", "--detail-source", "/etc/passwd"
    ),
    "a detailed picture of a stream without one": lambda p: p.asked("picture", "gate"),
    "a setting of another stream's source": lambda p: p.config(YARD + "loop = true\n"),
}

# Engines

MISTAKES |= {
    "an unknown engine": lambda p: ["run", "--source", "demo:", "--engine", "camvid-slin"],
    "a folder that is no engine": lambda p: ["run", "--source", "demo:", "--engine", f"{p.folder}/"],
    "an engine of an older or newer streamseg": lambda p: [
        *("run", "--source", "demo:", "--engine", str(p.copied_engine(size_multiple="multiple")))
    ],
    "an engine without its label set": lambda p: [
        *("run", "--source", "demo:", "--engine", str(p.copied_engine(label_set="labels_of")))
    ],
    "a precision that the engine has not": lambda p: p.run("--source", "demo:", "--precision", "int8"),
}


LAST_CLASS = '[[classes]]\nname = "blue"\ncolour = [40, 60, 220]'

MISTAKES |= {
    "a value that cannot be": lambda p: p.with_engine("220, 40, 40", "300, 40, 40"),
    "another stride than the network's": lambda p: p.with_engine("output_stride = 4", "output_stride = 8"),
    "a class less than the network has": lambda p: p.with_engine(LAST_CLASS, ""),
}


@mistake("weights in a second file")
def _(p: Place) -> Words:
    import onnx

    engine = p.copied_engine()
    before = (engine / "tiny.onnx").read_bytes()
    model = onnx.load_from_string(before)
    onnx.save(model, engine / "tiny.onnx", save_as_external_data=True, location="tiny.data", size_threshold=0)
    toml = (engine / "engine.toml").read_text()
    old, new = (hashlib.sha256(d).hexdigest() for d in (before, (engine / "tiny.onnx").read_bytes()))
    (engine / "engine.toml").write_text(toml.replace(old, new))
    return ["run", "--source", "demo:", "--engine", str(engine)]


@mistake("two networks with one label set")
def _(p: Place) -> Words:
    odd = write_constant_engine(p.folder / "odd", 3, label_set="tiny-4")
    return p.config(
        f'[engine]\nname = "{p.engine}"\nbackend = "onnx"\n[engines.odd]\nname = "{odd}"\nbackend = "onnx"\n'
        + YARD
        + 'engine = "odd"\n'
    )


@mistake("missing weights")
def _(p: Place) -> Words:
    engine = p.copied_engine()
    (engine / "tiny.onnx").unlink()
    return ["run", "--source", "demo:", "--engine", str(engine)]


@mistake("damaged weights")
def _(p: Place) -> Words:
    engine = p.copied_engine()
    (engine / "tiny.onnx").write_bytes((engine / "tiny.onnx").read_bytes()[:-9])
    return ["run", "--source", "demo:", "--engine", str(engine)]


@mistake("weights that are no network")
def _(p: Place) -> Words:
    engine = p.copied_engine()
    before = hashlib.sha256((engine / "tiny.onnx").read_bytes()).hexdigest()
    toml = (engine / "engine.toml").read_text()
    (engine / "tiny.onnx").write_bytes(b"no network")
    (engine / "engine.toml").write_text(toml.replace(before, hashlib.sha256(b"no network").hexdigest()))
    return ["run", "--source", "demo:", "--engine", str(engine)]


@mistake("a GPU engine without a GPU")
def _(p: Place) -> Words:
    return p.config(
        '[streams.gate]\nsource = "demo:"\n[publish]\nendpoint = "tcp://127.0.0.1:0"\n'
        f'[engine]\nname = "{p.engine}"\nbackend = "tensorrt"\n'
    )


# Addresses and keys of the daemon

MISTAKES |= {
    "other machines let in without keys": lambda p: p.run("--source", "demo:", "--endpoint", "tcp://*:5570"),
    "an invalid endpoint": lambda p: p.run("--source", "demo:", "--endpoint", "5570"),
    "a folder for the socket that is missing": lambda p: p.run(
        "--source", "demo:", "--endpoint", f"ipc://{p.folder}/run/masks"
    ),
    "an address of another machine": lambda p: p.config(
        '[streams.gate]\nsource = "demo:"\n'
        f'[engine]\nname = "{p.engine}"\n'
        '[publish]\nendpoint = "tcp://192.0.2.1:5570"\ninsecure = true\n'
    ),
    "a list of clients that is missing": lambda p: p.config(
        f'[streams.gate]\nsource = "demo:"\n[engine]\nname = "{p.engine}"\n'
        '[publish]\nendpoint = "tcp://127.0.0.1:0"\nallowed_clients = "clients"\n'
        f'curve_secret_key_file = "{p.keys("site")[0]}"\n'
    ),
    "keys without a list of clients": lambda p: p.config(
        f'[streams.gate]\nsource = "demo:"\n[publish]\ncurve_secret_key_file = "{p.keys("site")[0]}"\n'
    ),
    "a key file that holds no key": lambda p: p.config(
        f'[streams.gate]\nsource = "demo:"\n[engine]\nname = "{p.engine}"\n'
        f'[publish]\nallowed_clients = "{p.keys("robot")[1]}"\n'
        f'curve_secret_key_file = "{p.file("site.key", "no key")}"\n'
    ),
    "keys that are there already": lambda p: ["keygen", "--out", str(p.keys("site")[0].with_suffix(""))],
}


@mistake("a port that is in use")
def _(p: Place) -> Words:
    return p.run("--source", "demo:", "--endpoint", f"tcp://127.0.0.1:{p.port(answers=True)}")


# Subscribers

MISTAKES |= {
    "a subscriber's invalid endpoint": lambda p: ["subscribe", "http://127.0.0.1:5570"],
    "a server key without a client key": lambda p: [
        "subscribe", "tcp://127.0.0.1:5570", "--server-key", str(p.keys("site")[1])
    ],
    "a client key that is missing": lambda p: [
        *("subscribe", "tcp://127.0.0.1:5570", "--server-key", str(p.keys("site")[1])),
        *("--client-key", "robot.key"),
    ],
}  # fmt: skip
HEARD |= {
    "no daemon there, or a closed firewall": lambda p: [f"tcp://127.0.0.1:{p.port(answers=False)}"],
    "a port of something else": lambda p: [f"tcp://127.0.0.1:{p.port(answers=True)}"],
    "the daemon asks for keys": lambda p: [p.site(secured=True)],
    "the daemon has no keys": lambda p: [
        *(p.site(secured=False), "--server-key", str(p.keys("site")[1])),
        *("--client-key", str(p.keys("robot")[0])),
    ],
    "a wrong server key": lambda p: [
        *(p.site(secured=True), "--server-key", str(p.keys("elsewhere")[1])),
        *("--client-key", str(p.folder / "robot.key")),
    ],
    "a key that is not listed": lambda p: [
        *(p.site(secured=True, allowed=False), "--server-key", str(p.folder / "site.pub")),
        *("--client-key", str(p.folder / "robot.key")),
    ],
}


@heard("the snapshot port instead of the mask port")
def _(p: Place) -> Words:
    masks = p.site(secured=False)
    host, _, port = masks.rpartition(":")
    return [f"{host}:{int(port) + 1}"]


@heard("a daemon of a newer protocol")
def _(p: Place) -> Words:
    topic, header, labels = wire.encode_mask(make_mask(), "raw")
    newer = msgspec.msgpack.encode(msgspec.msgpack.decode(header) | {"version": 2})
    context = p.owned.enter_context(zmq.Context())
    masks = p.owned.enter_context(context.socket(zmq.XPUB))
    masks.setsockopt(zmq.LINGER, 0)
    port = masks.bind_to_random_port("tcp://127.0.0.1")
    over = threading.Event()

    def send() -> None:
        while not over.wait(0.05):
            masks.send_multipart([topic, newer, labels])

    sending = threading.Thread(target=send)
    sending.start()
    p.owned.callback(sending.join)
    p.owned.callback(over.set)
    return [f"tcp://127.0.0.1:{port}"]


# Recorded files, data sets, the service

MISTAKES |= {
    "results into a file": lambda p: ["process", str(p.clip()), "--out", str(p.file("results"))],
    "results into a folder that cannot be made": lambda p: ["process", str(p.clip()), "--out", "/proc/x"],
    "nothing to verify": lambda p: ["verify", str(p.folder)],
    "no data set": lambda p: ["eval", "--engine", str(p.engine), "--data", str(p.folder)],
}


def processed(p: Place, *sources: Path, **settings: bool) -> Words:
    """Process sources into results/ → the same command for the last of them."""
    engine = EngineConfig(name=str(p.engine))
    process_files(sources, p.folder / "results", ProcessConfig(engine=engine, **settings))  # type: ignore[arg-type]
    return ["process", str(sources[-1]), "--out", "results", "--engine", str(p.engine)]


@mistake("another recording where results are")
def _(p: Place) -> Words:
    command = processed(p, p.clip())
    draw_clip(p.folder / "ok.mp4", frames=3)
    return command


@mistake("a file of somebody else where a result goes")
def _(p: Place) -> Words:
    command = processed(p, p.clip())
    p.file("results/ok.areas.csv", "mine")
    return [*command, "--areas"]


@mistake("a pipe for a recording")
def _(p: Place) -> Words:
    os.mkfifo(p.folder / "pipe.mp4")
    return ["process", str(p.folder / "pipe.mp4"), "--out", "results", "--engine", str(p.engine)]


@mistake("a number missing in a sequence")
def _(p: Place) -> Words:
    import cv2

    for number in (1, 2, 4, 5):
        cv2.imwrite(str(p.folder / f"i{number:02d}.png"), np.zeros((48, 64, 3), np.uint8))
    return ["process", str(p.folder / "i%02d.png"), "--out", "results", "--engine", str(p.engine)]


@mistake("an empty name")
def _(p: Place) -> Words:
    return ["process", "", "--out", "results", "--engine", str(p.engine)]


def with_zones(text: str | None, name: str = "zones.toml") -> Callable[[Place], Words]:
    """`process --zones` with a file of this text."""

    def words(p: Place) -> Words:
        if text is not None:
            p.file("zones.toml", text)
        return ["process", str(p.clip()), "--out", "results", "--engine", str(p.engine), "--zones", name]

    return words


_RAMP = "zones.ramp]\npolygon = [[0, 0], [1, 0], [1, 1]]\n"
MISTAKES |= {
    "no file of zones": with_zones(None),
    "a file of zones without any": with_zones("# later\n"),
    "a zone twice": with_zones(f"[{_RAMP}[{_RAMP}"),
    "an unknown setting of a zone": with_zones(f"[{_RAMP}colour = 3\n"),
    "an event in a zone that is not there": with_zones(
        '[events.flood]\nzone = "ramp"\nclasses = ["red"]\nabove = 0.3\n'
    ),
    "an event of a class that the engine does not have": with_zones(
        '[events.flood]\nclasses = ["rad"]\nabove = 0.3\n'
    ),
    "zones of several streams": with_zones(f"[streams.gate.{_RAMP}[streams.yard.{_RAMP}"),
    "zones of a stream that is not there": with_zones(f"[streams.gate.{_RAMP}", "zones.toml#gat"),
}


def setting_zones(text: str | None, *more: str) -> Callable[[Place], Words]:
    """`ctl zones --set` with a file of this text."""

    def words(p: Place) -> Words:
        if text is not None:
            p.file("zones.toml", text)
        return ["ctl", "zones", "gate", "--set", "zones.toml", *more]

    return words


MISTAKES |= {
    "no file of zones to set": setting_zones(None),
    "zones to set, of another stream": setting_zones(f"[streams.yard.{_RAMP}"),
    "an unknown table among zones to set": setting_zones("[zone.ramp]\n"),
    "zones both to set and to clear": setting_zones("", "--clear"),
    "shares and events at once": lambda p: ["subscribe", "--zones", "--events"],
}


@mistake("an input that failed, later")
def _(p: Place) -> Words:
    processed(p, p.clip(), p.folder / "none.mp4")
    return ["verify", "results"]


@mistake("results that were changed")
def _(p: Place) -> Words:
    process_files([p.clip()], p.folder / "results", ProcessConfig(engine=EngineConfig(name=str(p.engine))))
    masks = p.folder / "results/ok.labels.mp4"
    data = bytearray(masks.read_bytes())
    data[len(data) // 2] ^= 0xFF
    masks.write_bytes(data)
    return ["verify", "results"]


def evaluated(p: Place, *sizes: Size, labels: Size | None = None, label: int = 0) -> Words:
    """Score black images of these sizes, labelled all over."""
    import cv2

    for kind in ("images", "labels"):
        (p.folder / kind).mkdir()
    for name, size in zip("abc", sizes, strict=False):
        cv2.imwrite(str(p.folder / f"images/{name}.png"), np.zeros((*size, 3), np.uint8))
        cv2.imwrite(str(p.folder / f"labels/{name}.png"), np.full(labels or size, label, np.uint8))
    return ["eval", "--engine", str(p.engine), "--data", str(p.folder)]


MISTAKES |= {
    "labels of another set": lambda p: evaluated(p, (48, 64), label=9),
    "a label image of another size": lambda p: evaluated(p, (48, 64), labels=(40, 64)),
    "a sequence of keyframes alone": lambda p: [*evaluated(p, (48, 64)), "--sequence", "--every", "1"],
    "a sequence of one image": lambda p: [*evaluated(p, (48, 64)), "--sequence"],
    "a sequence of several sizes": lambda p: [*evaluated(p, (48, 64), (24, 32)), "--sequence"],
    "a sequence of tiny images": lambda p: [*evaluated(p, (6, 8), (6, 8)), "--sequence"],
    "a search for CRF parameters without boundaries": lambda p: [*evaluated(p, (48, 64)), "--tune-crf"],
}


def trained(p: Place, *labels: int, recipe: str = "", words: Words | None = None) -> Words:
    """Train on a picture whose columns have these labels."""
    pytest.importorskip("torch")
    import cv2

    for kind in ("images", "labels"):
        (p.folder / kind).mkdir()
    columns = np.tile(np.repeat(np.array(labels, np.uint8), 24), (64, 1))
    cv2.imwrite(str(p.folder / "images/a.png"), np.dstack([columns] * 3))
    cv2.imwrite(str(p.folder / "labels/a.png"), columns)
    p.file("recipe.toml", f"{recipe or 'width = 12'}\n{SMALL_RUN}")
    return ["train", "--recipe", "recipe.toml", "--data", str(p.folder), "--out", "run", *(words or [])]


SMALL_RUN = """
epochs = 1
batch_size = 1
input_size = [64, 96]
device = "cpu"
arithmetic = "fp32"
augment = { crop_size = [64, 96] }
classes = [
    { name = "ground", colour = [1, 2, 3] },
    { name = "sky", colour = [4, 5, 6] },
    { name = "post", colour = [7, 8, 9] },
]
"""


def checkpoint(p: Place, width: int) -> Path:
    """What a run with another width has left in run/."""
    from streamseg.training.checkpoint import save_checkpoint
    from streamseg.training.networks import build_network
    from streamseg.training.recipe import load_recipe

    p.file("before.toml", f"width = {width}\nseed = 7\n{SMALL_RUN}")
    recipe = load_recipe(p.folder / "before.toml")
    (p.folder / "run").mkdir()
    content = {"recipe": msgspec.to_builtins(recipe), "ema": build_network(recipe).state_dict()}
    save_checkpoint(p.folder / "run/last.pt", content)
    return p.folder / "run/last.pt"


@mistake("a run resumed with another recipe")
def _(p: Place) -> Words:
    words = trained(p, 0, 1, 1, 2, words=["--resume"])
    checkpoint(p, 12)
    return words


@mistake("a new run where one is")
def _(p: Place) -> Words:
    words = trained(p, 0, 1, 1, 2)
    checkpoint(p, 12)
    return words


@mistake("weights of another network to start from")
def _(p: Place) -> Words:
    words = trained(p, 0, 1, 1, 2)
    checkpoint(p, 24).rename(p.folder / "wide.pt")
    return [*words, "--init", "wide.pt"]


MISTAKES |= {
    "masks of 0 and 255": lambda p: trained(p, 0, 255, 0, 255),
    "labels of one class alone": lambda p: trained(p, 0, 0, 0, 0),
    "labels that begin at 1": lambda p: trained(p, 1, 2, 3, 2),
    "a palette in a label file": lambda p: palette(p, trained(p, 0, 1, 1, 2)),
    "a width that a network has not": lambda p: trained(p, 0, 1, 1, 2, recipe="width = 100"),
    "values of a recipe that do not go together": lambda p: trained(
        p, 0, 1, 1, 2, recipe='network = "lite0"'
    ),
    "no file of weights to start from": lambda p: trained(p, 0, 1, 1, 2, words=["--init", "lite7"]),
    "no file of weights at all": lambda p: trained(
        p, 0, 1, 1, 2, words=["--init", p.file("mine.pth", "hello").name]
    ),
}


def palette(p: Place, words: Words) -> Words:
    """The label file once more, as a PNG with a palette."""
    label = (p.folder / "labels/a.png").read_bytes()
    header = label[12:25] + b"\3" + label[26:29]  # IHDR with another colour type
    colours = b"PLTE" + bytes(range(9))
    chunks = [label[:12], header, struct.pack(">I", zlib.crc32(header))]
    chunks += [struct.pack(">I", 9), colours, struct.pack(">I", zlib.crc32(colours)), label[33:]]
    (p.folder / "labels/a.png").write_bytes(b"".join(chunks))
    return words


@contextlib.contextmanager
def full_disk(place: Place) -> Iterator[Path | None]:
    """A disk of 64 KiB; None where none can be mounted."""
    folder = place.folder / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=False)


SAID |= {
    "a name for a console without a token": lambda p: Access("").host_problem("box.example:5580"),
    "a proxy that keeps the Host header to itself": lambda p: page_problem(
        {"Origin": "https://box.example", "Host": "127.0.0.1:5580"}
    ),
}
