"""Counters of streams, publisher and control socket as the wire's status documents."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

import msgspec

from streamseg.analytics.zones import shares_of
from streamseg.config import StreamConfig
from streamseg.config.engines import DEFAULT
from streamseg.config.redact import redact
from streamseg.config.tables import tables_of
from streamseg.daemon.control import ControlServer
from streamseg.daemon.kept_zones import KeptZones
from streamseg.live.pipeline import Pipeline
from streamseg.publish import Publisher
from streamseg.runtime.counters import State, StreamStats
from streamseg.sources.target import shown
from streamseg.wire.control import ControlStatus, PublisherStatus
from streamseg.wire.status import Histogram, StreamStatus
from streamseg.wire.zones import ZoneMark, ZoneShares

_MAX_TEXT = 1000  # characters of a source or an error, far below what a status may hold


def stream_statuses(pipeline: Pipeline, *, histograms: bool) -> Iterator[StreamStatus]:
    """The status of each stream now."""
    configs, states, stats = pipeline.streams.configs(), pipeline.streams.states(), pipeline.stats.all()
    for name, config in configs.items():
        if name in states and name in stats:
            yield _stream_status(name, config, states[name], stats[name], histograms)


def waiting_status(name: str, config: StreamConfig) -> StreamStatus:
    """The status of a stream that has not been started yet, because the engine is being loaded."""
    return StreamStatus(
        stream=name,
        source=shown(config.source),
        state="connecting",
        max_age_ms=config.max_age_ms,
        engine=config.engine or DEFAULT,
    )


class ZoneMarks:
    """Which zones and events the streams have: worked out when they change. Belongs to one thread."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[StreamConfig, str]] = {}

    def of(self, configs: Mapping[str, StreamConfig], kept: KeptZones) -> dict[str, ZoneMark]:
        """By stream; those without zones and events are left out."""
        known = {name: self._revision(name, config) for name, config in configs.items()}
        self._known = {name: (configs[name], revision) for name, revision in known.items()}
        marks = {name: ZoneMark(revision, kept.kept(name)) for name, revision in known.items()}
        return {name: mark for name, mark in marks.items() if mark != ZoneMark()}

    def _revision(self, name: str, config: StreamConfig) -> str:
        before, revision = self._known.get(name, (None, ""))
        return revision if before is config else tables_of(config).revision


def zone_shares(pipeline: Pipeline) -> dict[str, ZoneShares]:
    """What was counted last, by stream; from now on it is kept up to date for a while."""
    now_s, answers = time.monotonic(), pipeline.answers
    return {
        name: ZoneShares(
            age_s=max(0.0, now_s - last.monotonic_s),
            classes=list(last.counts.label_set.names),
            zones=shares_of(last.counts),
            dropped=answers.dropped[name],
        )
        for name, last in answers.counted().items()
    }


def publisher_status(publisher: Publisher) -> PublisherStatus:
    stats = publisher.stats
    return PublisherStatus(
        run=publisher.run,
        endpoint=publisher.endpoint,
        snapshot_endpoint=publisher.snapshot_endpoint,
        subscribers=stats.subscribers,
        connections=stats.connections,
        published=stats.published,
        refined=stats.refined,
        messages=stats.messages,
        snapshots=stats.snapshots,
        refused=stats.refused,
        denied=stats.denied,
        hung_up=stats.disconnected,
    )


def control_status(control: ControlServer | None) -> ControlStatus:
    if control is None:
        return ControlStatus(endpoint="")
    stats = control.stats
    return ControlStatus(
        endpoint=control.endpoint,
        connections=stats.connections,
        requests=stats.requests,
        refused=stats.refused,
        dropped=stats.dropped,
        denied=stats.denied,
        hung_up=stats.disconnected,
    )


def _stream_status(
    name: str, config: StreamConfig, state: State, stats: StreamStats, histograms: bool
) -> StreamStatus:
    now_s = time.monotonic()
    gated = config.gate != "none" or stats.unchanged > 0
    return StreamStatus(
        stream=name,
        source=shown(config.source)[:_MAX_TEXT],
        state=state,
        error=redact(stats.error)[:_MAX_TEXT],
        size=stats.size,
        source_fps=stats.source_fps,
        fps=stats.fps(now_s),
        age_ms=stats.age_ms,
        silent_s=stats.silent_s(now_s),
        engine=config.engine or DEFAULT,
        max_age_ms=config.max_age_ms,
        epoch=stats.epoch,
        decoded=stats.decoded,
        published=stats.published,
        unchanged=stats.unchanged if gated else msgspec.UNSET,
        unchanged_share=stats.unchanged_share() if gated else msgspec.UNSET,
        refined=stats.refined,
        drops=dict(stats.drops),
        unrefined=dict(stats.unrefined),
        connects=stats.connects,
        reconnects=max(0, stats.connects - 1),
        stage_us=stats.stage_medians_us(),
        histograms=_histograms(stats) if histograms else {},
    )


def _histograms(stats: StreamStats) -> dict[str, Histogram]:
    return {
        stage: Histogram(counts=list(times.counts), sum_us=times.sum_us)
        for stage, times in dict(stats.times).items()
    }
