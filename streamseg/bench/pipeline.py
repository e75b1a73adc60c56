"""The whole daemon, measured from outside: a subscriber in its own process times every mask."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator

import msgspec

from streamseg.bench.summary import Machine, Spread, spread_of, this_machine
from streamseg.config import Config
from streamseg.config.engines import shared_threads
from streamseg.daemon import Daemon
from streamseg.daemon.arrangement import arranged, demands_of
from streamseg.daemon.wanted import wanted_engines
from streamseg.errors import StreamsegError
from streamseg.inference.plans.load import load_engine
from streamseg.runtime.counters import StreamStats
from streamseg.runtime.cpus import usable_cores
from streamseg.runtime.import_path import module_command, python_environment
from streamseg.runtime.stage import Stage


class Received(msgspec.Struct, frozen=True, kw_only=True):
    """One mask as the subscriber received it."""

    stream: str
    n: int
    revision: int
    latency_ms: float  # decoded until received and unpacked
    stage_us: dict[str, int]


class PipelineResult(msgspec.Struct, frozen=True, kw_only=True):
    """Frames per second and where the time of a frame goes."""

    sources: list[str]
    engine: str
    replicas: int
    realtime: bool
    seconds: float
    fps: float  # masks per second at the subscriber, all streams
    fps_of_stream: dict[str, float]
    refined: int | None  # refined masks received; None if not subscribed to
    lost: int  # masks that were published and not received, by gaps in n
    skipped: int  # frames a live stream skipped
    unchanged: float | None  # share of the masks, where there is a gate
    latency: Spread  # decoded frame → subscriber
    stages: dict[str, Spread]
    machine: Machine


@contextlib.contextmanager
def running_daemon(config: Config) -> Iterator[Daemon]:
    """Run a daemon in a thread and yield it when it is ready; raises the error that ended it.

    Builds the engines first, and waits until they serve, so that the build is not measured.
    """
    wanted = wanted_engines(config.streams, config.engine, config.engines)
    cores, demands = usable_cores(), demands_of(config.streams, wanted)
    for name, engine in shared_threads(wanted, cores).items():
        load_engine(arranged(engine, cores, demands[name], None).config).close()
    daemon = Daemon(config)
    thread = Stage("daemon", daemon.run, lambda _: daemon.ready.set())
    thread.start()
    daemon.ready.wait()
    try:
        if thread.error is not None:
            raise thread.error
        while thread.is_alive() and any(one.state != "running" for one in daemon.status().engines.values()):
            time.sleep(0.1)
        yield daemon
    finally:
        daemon.stop()
        thread.join()
    if thread.error is not None:
        raise thread.error


def bench_pipeline(
    config: Config, seconds: float, warm_up_s: float = 2.0, refined: bool = False
) -> PipelineResult:
    """Run `config` for so many seconds after a warm-up and measure; raises StreamsegError.

    refined: also subscribe to refined masks, so that the CRF runs; all times are of revision 0.
    """
    with running_daemon(config) as daemon:
        received = _receive(daemon.endpoint, seconds, warm_up_s, refined)
    refinements = sum(r.revision for r in received)
    received = [r for r in received if not r.revision]
    if not received:
        raise StreamsegError("bench: received no mask; try a longer --seconds or a longer source")
    streams = sorted({r.stream for r in received})
    of = {s: [r.n for r in received if r.stream == s] for s in streams}
    stages = {k for r in received for k in r.stage_us}
    pipeline = daemon.pipeline
    assert pipeline is not None
    return PipelineResult(
        sources=[s.source for s in config.streams.values()],
        engine=daemon.engine.id,
        replicas=daemon.engine.replicas,
        realtime=all(s.realtime for s in config.streams.values()),
        seconds=seconds,
        fps=round(len(received) / seconds, 2),
        refined=refinements if refined else None,
        fps_of_stream={s: round(len(n) / seconds, 2) for s, n in of.items()},
        lost=sum(max(n) - min(n) + 1 - len(set(n)) for n in of.values()),
        skipped=sum(s.drops["slow engine"] for s in pipeline.stats.all().values()),
        unchanged=_unchanged(pipeline.stats.all(), config),
        latency=spread_of([r.latency_ms for r in received]),
        stages={
            k: spread_of([r.stage_us[k] / 1000 for r in received if k in r.stage_us]) for k in sorted(stages)
        },
        machine=this_machine("onnxruntime", "av", "numpy"),
    )


def _unchanged(streams: dict[str, StreamStats], config: Config) -> float | None:
    """Of all masks since the start, the share of those that the gate kept from the network."""
    if all(stream.gate == "none" for stream in config.streams.values()):
        return None
    published = sum(stream.published for stream in streams.values())
    return round(sum(stream.unchanged for stream in streams.values()) / max(published, 1), 3)


def _receive(endpoint: str, seconds: float, warm_up_s: float, refined: bool) -> list[Received]:
    numbers = [str(float(v)) for v in (seconds, warm_up_s, refined)]
    command = module_command("streamseg.bench.pipeline", endpoint, *numbers)
    child = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        timeout=seconds + warm_up_s + 60,
        check=True,
        env=python_environment(),
    )
    return msgspec.json.decode(child.stdout, type=list[Received])


def receive(endpoint: str, seconds: float, warm_up_s: float, refined: float) -> list[Received]:
    """Subscribe to every mask for so many seconds after a warm-up that begins with the first mask."""
    from streamseg.client import subscribe

    received: list[Received] = []
    begin_s: float | None = None
    with subscribe(endpoint, refined=bool(refined), newest=False, snapshot=False, timeout_s=30.0) as masks:
        for mask in masks:
            unix_ns = time.time_ns()
            now_s = time.monotonic()
            begin_s = now_s + warm_up_s if begin_s is None else begin_s
            if now_s >= begin_s + seconds:
                break
            if now_s >= begin_s:
                latency_ms = (unix_ns - mask.captured_unix_ns) / 1e6
                received.append(
                    Received(
                        stream=mask.stream,
                        n=mask.n,
                        revision=mask.revision,
                        latency_ms=latency_ms,
                        stage_us=mask.stage_us,
                    )
                )
    return received


if __name__ == "__main__":
    sys.stdout.buffer.write(msgspec.json.encode(receive(sys.argv[1], *map(float, sys.argv[2:5]))))
