"""Does the CRF delay masks? One daemon, with a subscriber of refined masks that comes and goes.

Other load on the machine falls on both sides alike, which two runs one after the other could not promise.
"""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any

import click
import msgspec

from benchmarks import print_json, run_command
from benchmarks.subscriber import Latencies, start
from streamseg.bench.pipeline import running_daemon
from streamseg.bench.summary import Machine, Spread, spread_of, this_machine
from streamseg.cli.bench import show_table
from streamseg.cli.settings import as_json, given, options_from
from streamseg.config import Config, EngineConfig, build_settings
from streamseg.errors import StreamsegError


class RefineResult(msgspec.Struct, frozen=True, kw_only=True):
    """Latency of masks with and without a subscriber of refined masks."""

    seconds: float
    without: Spread
    refined: Spread
    p99_ratio: float  # refined / without
    noise_ratio: float  # every second turn without / the other turns without
    crf_cpu_s: float  # CPU time of the CRF's process; of the last one, if it was replaced
    refinements: int
    unrefined: dict[str, int]
    machine: Machine


def bench_refine(config: Config, seconds: float) -> RefineResult:
    """Run `config` for so many seconds; raises StreamsegError."""
    with running_daemon(config) as daemon:
        with start("turns", daemon.endpoint, seconds) as child:
            try:
                out, _ = child.communicate(timeout=seconds + 90)
            finally:
                child.kill()
        seen = msgspec.json.decode(out, type=Latencies)
        crf_cpu_s = _cpu_s(None if daemon.pipeline is None else daemon.pipeline.refinement.pid)
    halves = [list(itertools.chain(*seen.without[first::2])) for first in (0, 1)]
    with_crf = list(itertools.chain(*seen.refined))
    if not all(halves) or not with_crf or daemon.pipeline is None:
        raise StreamsegError("too few masks; try a longer --seconds or a longer source")
    without, refined = spread_of(halves[0] + halves[1]), spread_of(with_crf)
    stats = daemon.pipeline.stats.all().values()
    return RefineResult(
        seconds=seconds,
        without=without,
        refined=refined,
        p99_ratio=round(refined.p99_ms / without.p99_ms, 3),
        noise_ratio=round(spread_of(halves[1]).p99_ms / spread_of(halves[0]).p99_ms, 3),
        crf_cpu_s=round(crf_cpu_s, 2),
        refinements=sum(s.refined for s in stats),
        unrefined={why: sum(s.unrefined[why] for s in stats) for s in stats for why in s.unrefined},
        machine=this_machine("onnxruntime", "numpy"),
    )


def _cpu_s(pid: int | None) -> float:
    """CPU time of a running process, on Linux; 0 for none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@click.command()
@click.option("--source", default="demo:", help="A stream, played at its own rate.")
@click.option("--engine", "name", default=EngineConfig().name, help="An engine's name or its folder.")
@options_from(EngineConfig, "precision", "threads")
@click.option("--seconds", type=click.FloatRange(12), default=60.0, help="How long to measure.")
@as_json
def command(source: str, seconds: float, as_json: bool, **options: Any) -> None:
    """Whether the CRF delays masks: latency while refined masks are wanted and while not, by turns."""
    tree = {
        "streams": {"s0": {"source": source, "loop": True, "realtime": True}},
        "engine": given(**options),
        "publish": {"endpoint": "tcp://127.0.0.1:0"},
    }
    result = bench_refine(build_settings(Config, tree), seconds)
    if as_json:
        return print_json(result)
    rows = {"without": result.without, "refined": result.refined}
    show_table(
        ("", "p50 ms", "p95 ms", "p99 ms", "masks"),
        (
            (what, f"{t.p50_ms:.2f}", f"{t.p95_ms:.2f}", f"{t.p99_ms:.2f}", str(t.count))
            for what, t in rows.items()
        ),
    )
    left_out = ", ".join(f"{count} {why}" for why, count in result.unrefined.items()) or "none left out"
    click.echo(f"p99 ratio {result.p99_ratio}; noise, between turns without: {result.noise_ratio}")
    click.echo(f"{result.refinements} refined in {result.crf_cpu_s} s of CPU time, {left_out}")


if __name__ == "__main__":
    run_command(command)
