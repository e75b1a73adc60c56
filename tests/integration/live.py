"""What the tests of live sources share: a real RTSP server to hurt, and a player that is watched."""

from __future__ import annotations

import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from streamseg.config import StreamConfig
from streamseg.sources import Disconnected, SourceEvent
from streamseg.sources.live import frames
from streamseg.types import Frame
from tests.waiting import LIMIT_S

SYSTEM_PYTHON = "/usr/bin/python3"
PACKAGES = (
    "python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-base gstreamer1.0-plugins-good "
    "gstreamer1.0-plugins-bad gstreamer1.0-plugins-ugly"
)


def require_rtsp_server() -> None:
    """Skip the test, with the way out, where GStreamer's RTSP server is not installed."""
    probe = (
        "import gi; gi.require_version('GstRtspServer', '1.0'); "
        "from gi.repository import Gst, GstRtspServer; "
        "Gst.init(None); assert all(map(Gst.ElementFactory.find, ('x264enc', 'rtph264pay', 'videotestsrc')))"
    )
    try:
        done = subprocess.run([SYSTEM_PYTHON, "-c", probe], capture_output=True, timeout=LIMIT_S, check=False)
    except OSError:
        pytest.skip(f"no {SYSTEM_PYTHON}")
    if done.returncode:
        pytest.skip(f"no GStreamer RTSP server here: apt-get install {PACKAGES}")


class RtspServer:
    """Runs rtsp_server.py; stays on its port when restarted."""

    def __init__(self) -> None:
        self.port = 0
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        script = Path(__file__).with_name("rtsp_server.py")
        self._process = subprocess.Popen(
            [SYSTEM_PYTHON, str(script), str(self.port)], stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        readable, _, _ = select.select([self._process.stdout], [], [], LIMIT_S)
        assert readable, "the RTSP server did not start"
        word, port = self._process.stdout.readline().split()
        assert word == "ready"
        self.port = int(port)

    def url(self, path: str, login: str = "") -> str:
        return f"rtsp://{login}127.0.0.1:{self.port}{path}"

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def freeze(self) -> None:
        """Keep the connections open and send nothing any more."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(LIMIT_S)
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None


class Watched:
    """Plays a source in a thread of its own and keeps what came; a context manager that stops it."""

    def __init__(self, config: StreamConfig) -> None:
        self.stop = threading.Event()
        self.events: list[SourceEvent] = []
        self.frames: list[Frame] = []
        self.error: BaseException | None = None
        self._changed = threading.Condition()  # guards events and frames
        self._thread = threading.Thread(target=self._play, args=(config,), daemon=True)

    def __enter__(self) -> Watched:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop.set()
        self._thread.join(LIMIT_S)

    def _play(self, config: StreamConfig) -> None:
        try:
            for frame in frames(config, "gate", self.stop, self._on_event):
                with self._changed:
                    self.frames.append(frame)
                    self._changed.notify_all()
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            self.error = error
        with self._changed:
            self._changed.notify_all()

    def _on_event(self, event: SourceEvent) -> None:
        with self._changed:
            self.events.append(event)
            self._changed.notify_all()

    def wait(self, until: Callable[[], bool], limit_s: float = LIMIT_S) -> None:
        with self._changed:
            assert self._changed.wait_for(until, limit_s), (self.events, len(self.frames), self.error)

    def wait_frames(self, count: int, epoch: int = 0, limit_s: float = LIMIT_S) -> None:
        self.wait(lambda: sum(f.epoch == epoch for f in self.frames) >= count, limit_s)

    def wait_more(self, count: int) -> int:
        """Wait until so many frames of one epoch have come from now on; its number."""
        begun = len(self.frames)

        def came() -> bool:
            new = self.frames[begun:]
            return len(new) >= count and new[-count].epoch == new[-1].epoch

        self.wait(came)
        return self.frames[-1].epoch

    def losses(self) -> int:
        """How often the source was lost."""
        return sum(isinstance(event, Disconnected) for event in self.events)

    def wait_event(self, kind: type[SourceEvent], count: int = 1) -> SourceEvent:
        def found() -> list[SourceEvent]:
            return [e for e in self.events if isinstance(e, kind)]

        self.wait(lambda: len(found()) >= count)
        return found()[count - 1]

    def seconds_to_stop(self) -> float:
        """Set the stop flag and say how long the thread took to end."""
        begun = time.monotonic()
        self.stop.set()
        self._thread.join(LIMIT_S)
        assert not self._thread.is_alive()
        return time.monotonic() - begun


@pytest.fixture
def rtsp() -> Iterator[RtspServer]:
    require_rtsp_server()
    server = RtspServer()
    server.start()
    yield server
    server.kill()
