"""The whole job: every input through the engine into its results, one after the other."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import msgspec

from streamseg.engine import Engine, load_engine
from streamseg.errors import OutputError, SourceError, StreamsegError, UsageError
from streamseg.recorded.ahead import Ahead
from streamseg.recorded.finish import Finish
from streamseg.recorded.inputs import Input, find_inputs
from streamseg.recorded.manifest import Identity, Manifest, identify
from streamseg.recorded.opening import content_digest, open_input
from streamseg.recorded.parts import finished_parts, read_frames
from streamseg.recorded.place import FolderError, Place, folder_error, open_folder
from streamseg.recorded.route import Facts, PartEnd, Route, facts_of
from streamseg.recorded.settings import ProcessConfig
from streamseg.recorded.timeline import Timeline
from streamseg.recorded.work import Work
from streamseg.types import Mask

MAX_ENGINES = 4


@dataclass(frozen=True, slots=True)
class Started:
    """A file is begun, or gone on with: `done` of about `frames` masks are there (None: nobody knows)."""

    input: str
    frames: int | None
    done: int
    why: str  # what is to be said about it; may be empty


@dataclass(frozen=True, slots=True)
class Progressed:
    """One more mask is there."""

    input: str
    done: int


@dataclass(frozen=True, slots=True)
class Finished:
    """A file's results are whole; `again`: they had been before."""

    input: str
    manifest: Manifest
    path: Path  # of the manifest
    took_s: float
    again: bool


@dataclass(frozen=True, slots=True)
class Failed:
    """A file has no results."""

    input: str
    error: StreamsegError


Event = Started | Progressed | Finished | Failed


@dataclass(slots=True, eq=False)
class JobResult:
    """What came of each input, in their order."""

    finished: list[Finished] = field(default_factory=list)
    failed: list[Failed] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        """Every input has results, and nothing was missing from any of them."""
        return not self.failed and all(f.manifest.damage is None for f in self.finished)


@contextmanager
def process_file(path: str | Path, config: ProcessConfig | None = None) -> Iterator[Iterator[Mask]]:
    """Give the masks of a file, exactly one for each frame taken, in order; n and seq are the frame's number.

    Decoding and inference run ahead in threads, which end on leaving. Raises SourceError, EngineError.
    """
    config = config or ProcessConfig()
    found = find_inputs([str(path)])
    if len(found) != 1:
        raise UsageError(f"{path}: holds {len(found)} videos; use process_files, or name one of them")
    one = found[0]
    with _engines(config) as engines:
        route = Route(one, config, engines)
        with (
            closing(Ahead("decode", route.frames())) as frames,
            closing(Ahead("infer", route.scores(iter(frames)))) as scores,
            closing(Ahead("fuse", route.masks(iter(scores)))) as segmented,
        ):
            try:
                yield (item.mask for item in segmented if not isinstance(item, PartEnd))
            finally:
                route.stop.set()


@contextmanager
def _engines(config: ProcessConfig) -> Iterator[list[Engine]]:
    """Load the engine as often as it pays: several of few threads wait for each other less than one of many.

    On two cores two engines of one thread did about 1.1 times as many frames as one of two threads, and
    what else the job does finds the gaps. A batch is for a GPU, which one engine keeps busy.
    """
    cores = config.engine.threads or len(os.sched_getaffinity(0))
    count = 1 if config.batch > 1 else min(cores, MAX_ENGINES)
    settings = msgspec.structs.replace(config.engine, threads=max(1, cores // count))
    with ExitStack() as stack:
        yield [stack.enter_context(closing(load_engine(settings))) for _ in range(count)]


def process_files(
    inputs: Iterable[str | Path],
    out: str | Path,
    config: ProcessConfig | None = None,
    *,
    on_event: Callable[[Event], None] = lambda event: None,
    overwrite: bool = False,
    stop: threading.Event | None = None,
) -> JobResult:
    """Process files into the folder `out`: their results, then a manifest for each.

    A finished input is left as it is, an interrupted one goes on where it stopped; one whose content, engine
    or settings are others begins anew. overwrite begins anew whatever lies there. An input that cannot be
    read is reported, and the others go on. `stop` ends it after the part that is at hand is abandoned.
    on_event is called in the calling thread. Raises UsageError, EngineError, and OutputError when the folder
    cannot be used.
    """
    config = config or ProcessConfig()
    found = find_inputs(str(i) for i in inputs)
    if not found:
        raise UsageError("there is nothing to process; name at least one video")
    if config.end_s is not None and config.end_s <= config.start_s:
        raise UsageError(f"end_s: must be above start_s ({config.start_s:g}), is {config.end_s:g}")
    out = Path(out).expanduser()
    stop = stop if stop is not None else threading.Event()
    result = JobResult()
    with _engines(config) as engines:
        open_folder(out)
        for one in found:
            if stop.is_set():
                break
            job = _FileJob(one, Place(out, one.stem), config, engines, on_event, overwrite, stop)
            try:
                finished = job.run()
            except (SourceError, OutputError, UsageError) as error:
                if isinstance(error, FolderError):
                    raise
                result.failed.append(Failed(one.shown, error))
                on_event(result.failed[-1])
                continue
            if finished is not None:
                result.finished.append(finished)
                on_event(finished)
    return result


@dataclass(slots=True, eq=False)
class _FileJob:
    """One input on its way to its results."""

    input: Input
    place: Place
    config: ProcessConfig
    engines: list[Engine]
    on_event: Callable[[Event], None]
    overwrite: bool
    stop: threading.Event
    done: int = 0

    def run(self) -> Finished | None:
        """Returns None when stopped. Raises SourceError, OutputError."""
        begun = time.monotonic()
        facts = self._probe()
        try:
            identity = identify(*content_digest(self.input), self.engines[0], self.config)
            manifest, reasons = (None, []) if self.overwrite else self.place.finished(identity)
            again = manifest is not None
            if manifest is None:
                if not self.overwrite and (others := self.place.in_the_way()):
                    raise OutputError(
                        f"{self.place.out / others[0]}: is there already, without a manifest of streamseg; "
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
        return Finished(self.input.shown, manifest, self.place.manifest, took_s, again)

    def _probe(self) -> Facts:
        """Open the source once, so that nothing is made for one that cannot be read."""
        with open_input(self.input, self.config, self.stop) as source:
            return facts_of(source)

    def _make(self, facts: Facts, identity: Identity, reasons: list[str]) -> Manifest | None:
        place = self.place
        reasons = reasons + place.begin(identity)
        parts, tail = finished_parts(place.parts)
        self.done = sum(1 for _ in read_frames(place.parts, parts))
        why = "; ".join(reasons)
        if self.done:
            why = f"goes on from frame {self.done}"
        elif why:
            why = f"begins anew: {why}"
        self.on_event(Started(self.input.shown, expected_frames(facts, self.config), self.done, why))
        if tail is None or not tail.last:
            parts = self._work(parts)
            if self.stop.is_set():
                return None
        if not self.done:
            raise UsageError(f"{self.input.shown}: has no frame between start_s and end_s")
        spec = self.engines[0].info.spec
        return Finish(place, parts, self.input, facts, identity, spec, self.config).run()

    def _work(self, parts: int) -> int:
        def timeline(time_base: Fraction, fps: Fraction | None) -> Timeline:
            line = Timeline(time_base, fps)
            for record in read_frames(self.place.parts, parts):
                line(record.pts)
            return line

        def on_frame() -> None:
            self.done += 1
            self.on_event(Progressed(self.input.shown, self.done))

        route = Route(self.input, self.config, self.engines, self.stop, parts)
        return Work(route, self.place.parts, timeline, on_frame).run()


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
