"""One input on its way to its results."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import av

from streamseg.errors import OutputError, StreamsegError, UsageError
from streamseg.inference.engine import Engine
from streamseg.recorded.cluster import Cluster
from streamseg.recorded.encode import Work
from streamseg.recorded.events import Event, Finished, Progressed, Started
from streamseg.recorded.finish import Finish
from streamseg.recorded.inputs import Input, fetched
from streamseg.recorded.manifest import Identity, Manifest, identify
from streamseg.recorded.opening import content_digest, open_input
from streamseg.recorded.results import Place, folder_error
from streamseg.recorded.route import Facts, Route, facts_of
from streamseg.recorded.segment_plan import Stretch, stretches
from streamseg.recorded.segments import keep_part, only_first, read_frames, whole_parts
from streamseg.recorded.settings import ProcessConfig
from streamseg.recorded.timeline import Timeline


@dataclass(slots=True, eq=False)
class FileJob:
    """One input on its way to its results."""

    input: Input
    place: Place
    config: ProcessConfig
    engines: Sequence[Engine]
    on_event: Callable[[Event], None]
    overwrite: bool
    stop: threading.Event
    cluster: Cluster | None = None  # makes the parts, if not this process
    done: int = 0

    def run(self) -> Finished | None:
        """Returns None when stopped. Raises SourceError, OutputError."""
        with fetched(self.input) as self.input:
            return self._run()

    def _run(self) -> Finished | None:
        begun = time.monotonic()
        facts = self._probe()
        try:
            identity = identify(*content_digest(self.input), self.engines[0], self.config)
            manifest, reasons = (None, []) if self.overwrite else self.place.finished(identity)
            again = manifest is not None
            if manifest is None:
                if not self.overwrite and (others := self.place.in_the_way()):
                    raise OutputError(
                        f"{self.place.shown}/{others[0]}: is there already, without a manifest of streamseg; "
                        "move it away, choose another folder, or say --overwrite"
                    )
                with self.place.locked():
                    manifest = self._make(facts, identity, reasons)
        except (OSError, av.error.FFmpegError) as error:
            if isinstance(error, StreamsegError):
                raise
            raise folder_error(self.place.out, OSError(error.errno, error.strerror)) from error
        if manifest is None:
            return None
        took_s = time.monotonic() - begun
        return Finished(self.input.shown, manifest, self.place.manifest_shown, took_s, again)

    def _probe(self) -> Facts:
        """Open the source once, so that nothing is made for one that cannot be read."""
        with open_input(self.input, self.config, self.stop) as source:
            return facts_of(source)

    def _make(self, facts: Facts, identity: Identity, reasons: list[str]) -> Manifest | None:
        place = self.place
        reasons = reasons + place.begin(identity)
        there = whole_parts(place.parts)
        if self.cluster is None:
            there = only_first(place.parts, there)
        self.done = sum(tail.frames for tail in there.values())
        why = "; ".join(reasons)
        if self.done:
            why = f"goes on from frame {self.done}"
        elif why:
            why = f"begins anew: {why}"
        self.on_event(Started(self.input.shown, expected_frames(facts, self.config), self.done, why))
        parts = len(there)
        if parts == 0 or sorted(there) != list(range(parts)) or not there[parts - 1].last:
            made_by = self.cluster
            parts = self._work(parts) if made_by is None else self._spread(made_by, identity, there)
            if self.stop.is_set():
                return None
        if not self.done:
            raise UsageError(f"{self.input.shown}: has no frame between start_s and end_s")
        spec = self.engines[0].info.spec
        return Finish(place, parts, self.input, facts, identity, spec, self.config).run()

    def _work(self, parts: int) -> int:
        """Make the parts behind the first `parts`, here → the number of all."""

        def timeline(time_base: Fraction, fps: Fraction | None) -> Timeline:
            line = Timeline(time_base, fps)
            for record in read_frames(self.place.parts, parts):
                line(record.pts)
            return line

        route = Route(self.input, self.config, self.engines, self.stop, parts)
        work = Work(route, self.place.parts, timeline, lambda: self._add(1), self.place.committed)
        return work.run()

    def _spread(self, cluster: Cluster, identity: Identity, there: Collection[int]) -> int:
        """Let the cluster make the parts that are missing → the number of all."""
        count = 0

        def missing() -> Iterator[Stretch]:
            nonlocal count
            for stretch in stretches(self.input, self.config, self.stop):
                count += bool(stretch.seqs)
                if stretch.seqs and stretch.index not in there:
                    yield stretch

        for index, data in cluster.parts(self.input, self.config, identity, missing(), self.stop):
            tail = keep_part(self.place.parts, index, data)
            self.place.committed(index)
            self._add(tail.frames)
        return count

    def _add(self, masks: int) -> None:
        self.done += masks
        self.on_event(Progressed(self.input.shown, self.done))


def expected_frames(facts: Facts, config: ProcessConfig) -> int | None:
    """About how many masks there will be; None where the container does not say."""
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
