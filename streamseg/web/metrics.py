"""The daemon's status for monitoring: whether it is healthy and ready, and Prometheus metrics."""

from __future__ import annotations

import functools
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping

import msgspec
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder

from streamseg.runtime.counters import BOUNDS_US, STATES, ProgressWatch
from streamseg.wire.control import Status
from streamseg.wire.status import Histogram, StreamStatus
from streamseg.wire.zones import ZoneShares

log = logging.getLogger(__name__)

STUCK_AFTER_S = 10.0
SHARES_KEPT_S = 60.0  # shares of a stream whose last mask was counted longer ago are not shown
MOST_SHARES = 4096  # series of zones, over all streams; a zone that would go beyond is left out


def unhealthy(status: Status, watch: ProgressWatch) -> str:
    """What is wrong with the route; empty when frames leave it, or when it has nothing to do."""
    if watch.moves(status.streams.values()) or watch.stuck_s <= STUCK_AFTER_S:
        return ""
    return f"frames wait, and none was published for {watch.stuck_s:.0f} s"


def unready(status: Status) -> str:
    """Why there are no masks yet or any more; empty when the engine is loaded and the sockets are bound."""
    if status.state != "running":
        return f"{status.state}: engine {status.engine.id} {status.engine.state}"
    return "" if status.publisher is not None else "the sockets are not bound"


def exposition(status: Status | None, accept: str) -> tuple[bytes, str]:
    """(body, content type) for a scraper's Accept header; without a status only that the daemon is down."""
    encode, content_type = choose_encoder(accept)
    return encode(_Families(status)), content_type


class _Families:
    """What prometheus_client takes for a registry."""

    def __init__(self, status: Status | None) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        yield _gauge("up", "1 when the daemon answers.", self._status is not None)
        if self._status is not None:
            yield from _process(self._status)
            yield from _publisher(self._status)
            yield from _streams(self._status.streams)
            yield from _zones(self._status.shares)


def _process(status: Status) -> Iterator[Metric]:
    engine = status.engine
    info = {"version": status.streamseg, "engine": engine.id, "device": engine.device}
    yield InfoMetricFamily("streamseg", "The daemon and its engine.", value=info)
    engines = [([name, one.id, one.device], float(one.threads)) for name, one in status.engines.items()]
    yield _gauge(
        "engine_threads", "CPU threads of each network's replicas.", engines, ["engine", "id", "device"]
    )
    yield _gauge("ready", "1 when masks are published.", status.state == "running")
    yield _gauge("uptime_seconds", "Since the daemon was started.", status.uptime_s)
    yield _gauge("resident_memory_bytes", "Memory of the daemon's process.", status.memory_bytes)
    yield _counter("cpu_seconds", "CPU time of the daemon's process.", status.cpu_s)
    yield _gauge("threads", "Threads of the daemon's process.", status.threads)
    yield _gauge("open_files", "File descriptors of the daemon's process.", status.open_files)
    yield _counter("crf_restarts", "Times the CRF's process died or hung.", status.crf_restarts)
    yield _counter("web_restarts", "Times the console's process died.", status.web_restarts)


def _publisher(status: Status) -> Iterator[Metric]:
    publisher = status.publisher
    if publisher is None:
        return
    yield _gauge("subscribers", "Connections to the mask socket.", publisher.subscribers)
    yield _gauge("connections", "Connections to the mask and snapshot sockets.", publisher.connections)
    yield _counter("messages_sent", "Messages sent, over all kinds.", publisher.messages)
    yield _counter("snapshots", "Snapshot requests answered.", publisher.snapshots)
    yield _counter("connections_denied", "Connections with keys that are not listed.", publisher.denied)
    yield _counter("connections_hung_up", "Connections that the daemon closed.", publisher.hung_up)


def _streams(streams: Mapping[str, StreamStatus]) -> Iterator[Metric]:
    def of(name: str) -> list[tuple[list[str], float]]:
        values = {stream: getattr(one, name) for stream, one in streams.items()}
        return [([s], value) for s, value in values.items() if value not in (None, msgspec.UNSET)]

    yield _gauge("stream_fps", "Masks published a second, over the last 5 s.", of("fps"), ["stream"])
    age = [([s], one.age_ms / 1000) for s, one in streams.items() if one.age_ms is not None]
    yield _gauge("mask_age_seconds", "Age of the last mask when it was published.", age, ["stream"])
    yield _gauge("mask_silent_seconds", "Since the last mask was published.", of("silent_s"), ["stream"])
    engines = [([s, str(one.engine)], 1.0) for s, one in streams.items() if one.engine is not msgspec.UNSET]
    yield _gauge(
        "stream_engine", "1 for the network that the stream is run on.", engines, ["stream", "engine"]
    )
    states = [([s, state], one.state == state) for s, one in streams.items() for state in STATES]
    yield _gauge("stream_state", "1 for what the stream does now.", states, ["stream", "state"])
    yield _counter("frames_decoded", "Frames decoded.", of("decoded"), ["stream"])
    yield _counter("masks_published", "Masks of revision 0 published.", of("published"), ["stream"])
    yield _counter("masks_unchanged", "Of these, without the network.", of("unchanged"), ["stream"])
    drops = [([s, cause], count) for s, one in streams.items() for cause, count in one.drops.items()]
    yield _counter("frames_dropped", "Frames without a mask, by cause.", drops, ["stream", "cause"])
    yield _counter("keyframes_refined", "Keyframes refined by the CRF.", of("refined"), ["stream"])
    left = [([s, cause], count) for s, one in streams.items() for cause, count in one.unrefined.items()]
    yield _counter("keyframes_unrefined", "Keyframes left out by the CRF.", left, ["stream", "cause"])
    yield _counter("connects", "Times the source was opened.", of("connects"), ["stream"])
    yield _counter("reconnects", "Times the source was opened again.", of("reconnects"), ["stream"])
    yield _times("stage_seconds", "Time of each stage.", streams, lambda stage: stage != "age")
    yield _times("published_age_seconds", "Age of masks when published.", streams, lambda s: s == "age")


def _zones(shares: Mapping[str, ZoneShares]) -> Iterator[Metric]:
    """What was counted last, unless that is long ago: a camera that is silent has no share."""
    labels = ["stream", "zone", "class"]
    share = GaugeMetricFamily(
        "streamseg_zone_share", "Pixels of the class / pixels of the zone.", labels=labels
    )
    area = GaugeMetricFamily("streamseg_zone_square_metres", "The class's area on the ground.", labels=labels)
    unknown = GaugeMetricFamily(
        "streamseg_zone_unknown", "Unknown pixels / pixels of the zone.", labels=labels[:2]
    )
    ages, dropped, series, left_out = [], [], 0, 0
    for stream, one in shares.items():
        ages.append(([stream], one.age_s))
        dropped.append(([stream], one.dropped))
        if one.age_s > SHARES_KEPT_S:
            continue
        for zone in one.zones:
            if not zone.pixels:
                continue
            on_ground = zone.square_m is not None
            series += (len(set(one.classes)) + 1) * (1 + on_ground)
            if series > MOST_SHARES:
                left_out += 1
                continue
            unknown.add_metric([stream, zone.zone], zone.unknown / zone.pixels)
            pixels = Counter(dict.fromkeys(one.classes, 0))
            metres = dict.fromkeys(one.classes, 0.0)
            for found in zone.classes:
                if found.name is not None:
                    pixels[found.name] += found.pixels
                    metres[found.name] = metres.get(found.name, 0.0) + (found.square_m or 0.0)
            for name, count in pixels.items():
                share.add_metric([stream, zone.zone, name], count / zone.pixels)
            for name, square_m in metres.items() if on_ground else ():
                area.add_metric([stream, zone.zone, name], square_m)
    if left_out:
        _say_once(f"metrics: the shares of {left_out} zones are left out, more than {MOST_SHARES} series")
    yield from (share, area, unknown)
    yield _gauge("zone_age_seconds", "Since the shares of the stream were counted.", ages, ["stream"])
    yield _counter("masks_uncounted", "Masks not counted because others waited.", dropped, ["stream"])


@functools.cache
def _say_once(text: str) -> None:
    log.warning("%s", text)


def _times(name: str, text: str, streams: Mapping[str, StreamStatus], which: Callable[[str], bool]) -> Metric:
    family = HistogramMetricFamily(f"streamseg_{name}", text, labels=["stream", "stage"])
    for stream, one in streams.items():
        for stage, histogram in one.histograms.items():
            if which(stage):
                family.add_metric([stream, stage], list(_buckets(histogram)), histogram.sum_us / 1e6)
    return family


def _buckets(histogram: Histogram) -> Iterator[tuple[str, float]]:
    """Cumulative, by their upper bound in seconds."""
    total = 0
    bounds = [*(f"{bound / 1e6:g}" for bound in BOUNDS_US), "+Inf"]
    for bound, count in zip(bounds, histogram.counts, strict=True):
        total += count
        yield bound, total


_Samples = Iterable[tuple[list[str], float]]


def _gauge(name: str, text: str, value: float | _Samples, labels: list[str] | None = None) -> Metric:
    return _filled(GaugeMetricFamily(f"streamseg_{name}", text, labels=labels or []), value)


def _counter(name: str, text: str, value: float | _Samples, labels: list[str] | None = None) -> Metric:
    return _filled(CounterMetricFamily(f"streamseg_{name}", text, labels=labels or []), value)


def _filled(family: GaugeMetricFamily | CounterMetricFamily, value: float | _Samples) -> Metric:
    for labels, number in [([], value)] if isinstance(value, (int, float)) else value:
        family.add_metric(labels, float(number))
    return family
