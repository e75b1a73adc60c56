"""One input on its way to its results."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace

import msgspec

from streamseg.errors import OutputError, SourceError, StreamsegError, UsageError
from streamseg.inference.engine import Engine
from streamseg.recorded.cluster import Cluster
from streamseg.recorded.content import Content, read_content, states_of
from streamseg.recorded.earlier import (
    FinishedLabels,
    FinishedRoute,
    added,
    finished_labels,
    same_labels,
    with_outputs,
)
from streamseg.recorded.encode import SegmentMaker
from streamseg.recorded.events import Event, Finished, Progressed, Started
from streamseg.recorded.finish import Finish
from streamseg.recorded.inputs import Input, fetched
from streamseg.recorded.manifest import Identity, Manifest, differences, identify
from streamseg.recorded.opening import Recording, probe
from streamseg.recorded.results import ResultFolder
from streamseg.recorded.route import Route
from streamseg.recorded.segment_plan import PlannedSegment, plan_segments
from streamseg.recorded.segments import keep_leading, keep_segment, read_frames, whole_segments
from streamseg.recorded.settings import ProcessConfig


class FileStop(threading.Event):
    """Set when this input's work ends early, by itself or with the whole job."""

    def __init__(self, job: threading.Event) -> None:
        super().__init__()
        self.job = job

    def is_set(self) -> bool:
        return super().is_set() or self.job.is_set()


@dataclass(slots=True, eq=False)
class Plan:
    """What is to be made of one input, and of what."""

    recording: Recording
    content: Content
    identity: Identity
    reasons: list[str] = field(default_factory=list)  # why results that are there do not do
    finished: Manifest | None = None  # they do
    earlier: Manifest | None = None  # their labels may do
    more: list[str] = field(default_factory=list)  # what is made of them


@dataclass(slots=True, eq=False)
class FileJob:
    """One input on its way to its results."""

    input: Input
    results: ResultFolder
    config: ProcessConfig
    engines: Sequence[Engine]
    on_event: Callable[[Event], None]
    overwrite: bool
    stop: threading.Event
    cluster: Cluster | None = None  # makes the segments, if not this process
    done: int = 0

    def run(self) -> Finished | None:
        """Returns None when stopped. Raises SourceError, OutputError."""
        begun = time.monotonic()
        try:
            with fetched(self.input) as one:
                states = states_of(one)
                recording = probe(one, self.config, self.engines, FileStop(self.stop))
                content = read_content(one, states)
                plan = self._plan(recording, content)
                again = plan.finished is not None
                manifest = plan.finished or self._locked(plan)
        except Exception as error:
            if isinstance(error, StreamsegError):
                raise
            raise self.results.explained(error, self.input.shown) from error
        if manifest is None:
            return None
        took_s = time.monotonic() - begun
        return Finished(self.input.shown, manifest, self.results.manifest_shown, took_s, again)

    def _plan(self, recording: Recording, content: Content) -> Plan:
        """What is to be made, with the outputs that are there or begun. Raises OutputError."""
        engine = self.engines[0]
        identity = identify(content.sha256, content.bytes, engine, self.config)
        if self.overwrite:
            return Plan(recording, content, identity)
        self.results.check_owner(identity)
        manifest, unfinished = self.results.manifest_there(), self.results.unfinished()
        config = self.config
        if manifest is not None and same_labels(manifest.identity, identity):
            config = with_outputs(config, manifest.identity.settings, manifest.not_made)
        if unfinished is not None and same_labels(unfinished, identity):
            config = with_outputs(config, unfinished.settings)
        identity = identify(content.sha256, content.bytes, engine, config)
        plan = Plan(replace(recording, config=config), content, identity)
        if manifest is None:
            return plan
        now = msgspec.structs.replace(identity, versions=manifest.identity.versions)
        broken = self.results.broken(manifest)
        plan.reasons = differences(manifest.identity, now) + broken
        if not plan.reasons:
            plan.finished = manifest
        elif same_labels(manifest.identity, identity):
            plan.earlier = manifest
            plan.more = added(manifest.identity.settings, config) + broken
        return plan

    def _locked(self, plan: Plan) -> Manifest | None:
        if not self.overwrite and (others := self.results.in_the_way()):
            raise OutputError(
                f"{self.results.shown}/{others[0]}: exists already, without a manifest of "
                "streamseg; move it away, choose another folder, or use --overwrite"
            )
        config = plan.recording.config
        with self.results.locked(), finished_labels(self.results, plan.earlier, config) as labels:
            if labels is not None:
                plan.identity = msgspec.structs.replace(plan.identity, versions=labels.versions)
            return self._make(plan, labels)

    def _make(self, plan: Plan, labels: FinishedLabels | None) -> Manifest | None:
        folder, recording, content, identity = (
            self.results.segments,
            plan.recording,
            plan.content,
            plan.identity,
        )
        reasons = plan.reasons + self.results.begin(identity, self.input.shown)
        existing = whole_segments(folder)
        cluster = self.cluster if labels is None else None
        if cluster is None:
            existing = keep_leading(folder, existing)
        self.done = sum(tail.frames for tail in existing.values())
        why = "; ".join(reasons)
        if self.done:
            why = f"continues from frame {self.done}"
        elif labels is not None:
            why = f"from its finished labels: {', '.join(plan.more)}"
        elif why:
            why = f"starts again: {why}"
        elif missing := recording.input.missing:
            images = recording.input.images
            why = f"{len(images)} images, {images[0].name} to {images[-1].name}; {len(missing)} missing"
        self.on_event(Started(self.input.shown, expected_frames(recording), self.done, why))
        count = len(existing)
        if count == 0 or sorted(existing) != list(range(count)) or not existing[count - 1].last:
            if cluster is None:
                route = (
                    Route(recording, count)
                    if labels is None
                    else FinishedRoute(recording, count, finished=labels, skip_frames=self.done)
                )
                count = self._make_segments(route, content)
            else:
                count = self._spread(cluster, recording, content, identity, existing)
            if recording.stop.is_set():
                return None
        if not self.done:
            self.results.abandon()
            raise UsageError(f"{self.input.shown}: has no frame between start_s and end_s")
        if content.changed(recording.input):
            raise self._changing()
        missing = recording.input.missing + content.missing
        return Finish(recording, self.results, count, identity, missing).run()

    def _make_segments(self, route: Route, content: Content) -> int:
        """Make the segments behind those that the route skips, in this process → the number of all."""
        timeline = route.recording.timeline()
        for record in read_frames(self.results.segments, route.skip_segments):
            timeline(record.pts)

        def committed(index: int) -> None:
            if content.grown():
                raise self._changing()
            self.results.committed(index)

        return SegmentMaker(
            route,
            self.results.segments,
            timeline,
            on_frame=lambda: self._add(1),
            on_segment=committed,
        ).run()

    def _spread(
        self,
        cluster: Cluster,
        recording: Recording,
        content: Content,
        identity: Identity,
        existing: Collection[int],
    ) -> int:
        """Let the cluster make the segments that are missing → the number of all."""
        count = 0

        def missing() -> Iterator[PlannedSegment]:
            nonlocal count
            for planned in plan_segments(recording):
                count += bool(planned.seqs)
                if planned.seqs and planned.index not in existing:
                    yield planned

        for index, data in cluster.segments(recording, identity, missing()):
            if content.grown():
                raise self._changing()
            tail = keep_segment(self.results.segments, index, data)
            self.results.committed(index)
            self._add(tail.frames)
        return count

    def _changing(self) -> SourceError:
        """The input is not what the masks are of; the work on it is of no use."""
        self.results.abandon()
        path = self.input.path
        there = path is None or self.input.images or path.exists()
        what, when = ("still being written", "complete") if there else ("removed", "back")
        return SourceError(
            f"{self.input.shown}: was {what} while it was processed; "
            f"run the same command again when it is {when}"
        )

    def _add(self, masks: int) -> None:
        self.done += masks
        self.on_event(Progressed(self.input.shown, self.done))


def expected_frames(recording: Recording) -> int | None:
    """About how many masks there will be; None where the container does not say."""
    facts, config = recording.facts, recording.config
    fps = float(facts.fps) if facts.fps else None
    frames = facts.frames_hint or (
        round(facts.duration_s * fps) if facts.duration_s is not None and fps else None
    )
    if frames is None or fps is None:
        return frames
    seconds = frames / fps
    seconds = max(0.0, min(seconds, config.end_s or seconds) - config.start_s)
    rate = fps / config.every
    if config.max_fps is not None:
        rate = min(rate, config.max_fps)
    return max(1, round(seconds * rate))
