"""One run of one form of benchmarks/hd.py, in a process of its own: python -m benchmarks.hd_run ORDER."""

from __future__ import annotations

import subprocess
import sys
import time

import msgspec

from benchmarks.usual import Clock, Network, plain, threads
from streamseg.bench.pipeline import running_daemon
from streamseg.config import Config, EngineConfig, build_settings
from streamseg.runtime.counters import Stats
from streamseg.runtime.import_path import module_command, python_environment
from streamseg.types import Size


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What to run. graph and size: of the network, for the loops."""

    form: str
    source: str
    streams: int
    seconds: float
    warm_up_s: float
    engine: EngineConfig
    graph: str
    size: Size


class Ran(msgspec.Struct, frozen=True, kw_only=True):
    """One run of one form."""

    fps: float  # of all streams
    cpu_ms: float  # of the process, of a frame
    steps_ms: dict[str, float] = {}


def run(order: Order) -> Ran:
    if order.form in ("plain", "threads"):
        return _usual(order)
    return _streamseg(order, order.form.rpartition(" ")[2])


def run_apart(order: Order) -> Ran:
    """The same in a new process, so that no form finds the threads and the memory of another."""
    command = module_command("benchmarks.hd_run", msgspec.json.encode(order).decode())
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, env=python_environment())
    return msgspec.json.decode(done.stdout, type=Ran)


class _Window:
    """Begins to count after the warm-up, and says when the time is over."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._first_s = time.monotonic()
        self._begun: tuple[float, float, int] | None = None  # wall, CPU, frames
        self.ran: Ran | None = None

    def __call__(self, clock: Clock) -> bool:
        now_s = time.monotonic()
        if self._begun is None:
            if now_s - self._first_s >= self._order.warm_up_s and clock.frames:
                self._begun = now_s, time.process_time(), clock.frames
                clock.cpu_s.clear()
            return False
        wall_s, cpu_s, before = self._begun
        frames = clock.frames - before
        if now_s - wall_s < self._order.seconds or not frames:
            return False
        self.ran = Ran(
            fps=frames / (now_s - wall_s),
            cpu_ms=1000 * (time.process_time() - cpu_s) / frames,
            steps_ms={step: 1000 * taken / frames for step, taken in clock.cpu_s.items()},
        )
        return True


def _usual(order: Order) -> Ran:
    window, network = _Window(order), Network(order.graph, order.size)
    (plain if order.form == "plain" else threads)(order.source, order.streams, network, window)
    assert window.ran is not None, "it ends when the time is over"
    return window.ran


def _streamseg(order: Order, mask_size: str) -> Ran:
    """The daemon on files as fast as it goes; the subscriber is another process, and its CPU not counted."""
    stream = {"source": order.source, "loop": True, "mask_size": mask_size}
    tree = {
        "streams": {f"s{i}": stream for i in range(order.streams)},
        "engine": msgspec.to_builtins(order.engine),
        "publish": {"endpoint": "tcp://127.0.0.1:0"},
    }
    with running_daemon(build_settings(Config, tree)) as daemon:
        assert daemon.pipeline is not None
        stats = daemon.pipeline.stats
        numbers = (str(order.seconds + 2 * order.warm_up_s + 60), "0.0", "0.0")
        command = module_command("streamseg.bench.pipeline", daemon.endpoint, *numbers)
        subscriber = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=python_environment())
        try:
            while not daemon.publisher or not daemon.publisher.wants("mask", "s0"):
                time.sleep(0.05)
            time.sleep(order.warm_up_s)
            before, wall_s, cpu_s = _published(stats), time.monotonic(), time.process_time()
            time.sleep(order.seconds)
            frames = max(1, _published(stats) - before)
            wall_s, cpu_s = time.monotonic() - wall_s, time.process_time() - cpu_s
        finally:
            subscriber.kill()
            subscriber.wait()
    return Ran(fps=frames / wall_s, cpu_ms=1000 * cpu_s / frames)


def _published(stats: Stats) -> int:
    return sum(stream.published for stream in stats.all().values())


if __name__ == "__main__":
    sys.stdout.buffer.write(msgspec.json.encode(run(msgspec.json.decode(sys.argv[1], type=Order))))
