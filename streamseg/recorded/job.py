"""The whole job: every input through the engine into its results."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast, get_args

import msgspec

from streamseg.config import EngineConfig, Precision
from streamseg.errors import ConfigError, EngineError, OutputError, SourceError, UsageError, did_you_mean
from streamseg.inference.backends.protocol import backend_names
from streamseg.inference.backends.select import choices
from streamseg.inference.engine import Engine
from streamseg.inference.label_view import view_of
from streamseg.inference.plans.load import load_engine
from streamseg.inference.spec import find_engine
from streamseg.recorded.cluster import Cluster
from streamseg.recorded.content import check_file
from streamseg.recorded.events import Event, Failed, Finished, JobResult, Planned
from streamseg.recorded.file_job import FileJob
from streamseg.recorded.inputs import fetched, find_inputs, look_for
from streamseg.recorded.opening import probe
from streamseg.recorded.pending import Pending, Wanted
from streamseg.recorded.place import Place
from streamseg.recorded.results import FolderError, Owner
from streamseg.recorded.route import Route, SegmentEnd
from streamseg.recorded.settings import ProcessConfig
from streamseg.refinement.flow import one_thread
from streamseg.runtime.cpus import usable_cores
from streamseg.runtime.ordered import Prefetcher
from streamseg.types import Mask

MAX_ENGINES = 4
MAX_FILES = 8
"""Files that are cut into segments for a cluster at the same time."""


class FileMasks(AbstractContextManager[Iterator[Mask]]):
    """The masks of one file: `with` gives an iterator; a plain `for` over it opens and closes it as well."""

    def __init__(self, opened: AbstractContextManager[Iterator[Mask]]) -> None:
        self._opened = opened

    def __enter__(self) -> Iterator[Mask]:
        return self._opened.__enter__()

    def __exit__(self, *error: Any) -> bool | None:
        return self._opened.__exit__(*error)

    def __iter__(self) -> Iterator[Mask]:
        with self as masks:
            yield from masks


def process_file(path: str | Path, config: ProcessConfig | None = None) -> FileMasks:
    """Give the masks of a file, exactly one for each frame taken, in order; n and seq are the frame's number.

    To be used once, in a `with` statement or a `for` loop. Decoding and inference run ahead in threads, which
    end on leaving. Raises SourceError, EngineError.
    """
    return FileMasks(_process_file(path, config))


@contextmanager
def _process_file(path: str | Path, config: ProcessConfig | None) -> Iterator[Iterator[Mask]]:
    config = config or ProcessConfig()
    found = find_inputs([str(path)])
    if len(found) != 1:
        raise UsageError(f"{path}: holds {len(found)} videos; use process_files, or name one of them")
    check_file(found[0])
    with fetched(found[0]) as one, load_engines(config) as engines:
        recording = probe(one, config, engines)
        route = Route(recording)
        with (
            closing(Prefetcher("decode", route.frames())) as frames,
            closing(Prefetcher("infer", route.scores(iter(frames)))) as scores,
            closing(Prefetcher("fuse", route.masks(iter(scores)))) as masked,
        ):
            try:
                yield (item.mask for item in masked if not isinstance(item, SegmentEnd))
            finally:
                recording.stop.set()


@contextmanager
def load_engines(config: ProcessConfig, most: int = MAX_ENGINES) -> Iterator[list[Engine]]:
    """Load the engine as often as it pays: several of few threads wait for each other less than one of many.

    On two cores two engines of one thread did 1.1 (fp32) to 1.3 times (int8) as many frames as one of two
    threads, and what else the job does finds the gaps. A batch is for a GPU, which one engine keeps busy.
    OpenCV gets one thread in the whole process: its idle ones spin, 1 ms of CPU for a frame with an overlay.
    """
    one_thread()
    cores = config.engine.threads or usable_cores()
    count = 1 if config.batch > 1 else min(cores, most)
    settings = msgspec.structs.replace(config.engine, replicas=count)
    with ExitStack() as stack:
        engines = [stack.enter_context(closing(load_engine(settings)))]
        info = engines[0].info
        alike = _in_form(settings, info.precision, info.backend)
        engines += [stack.enter_context(closing(load_engine(alike))) for _ in range(count - 1)]
        view_of(info.labels, config.engine.labels, info.kind, str)
        if config.confidence and info.spec.gives == "labels":
            raise UsageError(f"confidence: engine {info.spec.name} gives class ids, which have none")
        yield engines


def process_files(
    inputs: Iterable[str | Path],
    out: str | Path,
    config: ProcessConfig | None = None,
    *,
    on_event: Callable[[Event], None] = lambda event: None,
    overwrite: bool = False,
    stop: threading.Event | None = None,
    on: str | None = None,
) -> JobResult:
    """Process files into the folder `out`, which may be an address such as s3://: results, then a manifest.

    A finished input is left as it is, an interrupted one continues where it stopped; one whose content,
    engine or settings have changed starts again. overwrite starts again in any case. An input that cannot be
    read is reported, and the others continue. `stop` ends the job; the current segment is abandoned.
    on_event is called in the calling thread. on: "ray" or "ray://HOST:PORT" spreads the segments over a Ray
    cluster, with the same results. Raises UsageError, EngineError, and OutputError when the folder cannot be
    used.
    """
    config = config or ProcessConfig()
    if config.end_s is not None and config.end_s <= config.start_s:
        raise UsageError(f"end_s: must be above start_s ({config.start_s:g}); is {config.end_s:g}")
    _check_extras(config)
    stop = stop if stop is not None else threading.Event()
    place = Place(str(out))
    found = look_for((str(i) for i in inputs), owned=place.owners(overwrite))
    if not found.inputs and not found.unreadable:
        raise UsageError("nothing to process; name at least one video")
    with ExitStack() as stack:
        if not overwrite:
            config = _as_begun(config, (place.results(one.stem).owner() for one in found.inputs))
        engines = stack.enter_context(load_engines(config, MAX_ENGINES if on is None else 1))
        config = msgspec.structs.replace(
            config, engine=msgspec.structs.replace(config.engine, precision=engines[0].info.precision)
        )  # of each worker of a cluster, too
        _check_classes(config, engines[0])
        place.open()
        cluster = None if on is None else stack.enter_context(closing(Cluster(on)))

        def job(index: int, on_event: Callable[[Event], None]) -> Finished | Failed | None:
            one = found.inputs[index]
            return _ended(
                FileJob(one, place.results(one.stem), config, engines, on_event, overwrite, stop, cluster)
            )

        asked = [(one.shown, one.stem) for one in found.inputs] + [(name, "") for name, _ in found.unreadable]
        pending = stack.enter_context(closing(Pending(place, [Wanted(*one) for one in asked])))

        def note(event: Event) -> None:
            if isinstance(event, Finished):
                pending.finished(event.input)
            elif isinstance(event, Failed):
                pending.failed(event.input, str(event.error))
            on_event(event)

        note(Planned(tuple(name for name, _ in asked), tuple(found.left_out)))
        unreadable = [Failed(name, error) for name, error in found.unreadable]
        for failed in unreadable:
            note(failed)
        run = _one_by_one if cluster is None else _side_by_side
        ends = [*unreadable, *run(job, len(found.inputs), note, stop)]
    return JobResult(
        finished=[end for end in ends if isinstance(end, Finished)],
        failed=[end for end in ends if isinstance(end, Failed)],
    )


def _as_begun(config: ProcessConfig, owners: Iterable[Owner | None]) -> ProcessConfig:
    """The settings with the form of the network that results there have: auto stays what it was for them.

    As they are where this machine cannot run that form, or its weights are others now.
    """
    _, spec = find_engine(config.engine.name)
    for owner in owners:
        if owner is None or config.engine.precision != "auto":
            continue
        name, precision, backend = [*owner.identity.engine.rsplit("/", 2), "", ""][:3]
        if name != spec.name or precision not in get_args(Precision) or backend not in backend_names():
            continue
        try:
            engine = _in_form(config.engine, cast(Precision, precision), backend)
            if choices(engine)[0].spec.weights_sha256 == owner.identity.weights_sha256:
                return msgspec.structs.replace(config, engine=engine)
        except EngineError:
            continue
    return config


def _in_form(engine: EngineConfig, precision: Precision, backend: str) -> EngineConfig:
    """The settings with what auto has become."""
    return msgspec.structs.replace(
        engine,
        precision=precision if engine.precision == "auto" else engine.precision,
        backend=backend if engine.backend == "auto" else engine.backend,
    )


def _check_extras(config: ProcessConfig) -> None:
    """Raises UsageError for a kind of result whose library is not installed."""
    tables = "parquet" in config.table_kinds and config.has_tables
    for wanted, module, extra in ((tables, "pyarrow", "parquet"), (config.zarr, "zarr", "zarr")):
        if wanted and find_spec(module) is None:
            raise UsageError(f"{extra}: needs {module}; pip install 'streamseg[{extra}]'")


def _check_classes(config: ProcessConfig, engine: Engine) -> None:
    """Raises ConfigError, a line for each class of an event that no mask has."""
    names = view_of(engine.info.labels, config.engine.labels).label_set.names
    problems = []
    for name, event in config.zones.events.items():
        for unknown in [one for one in event.classes if one not in names]:
            hint = did_you_mean(unknown, names, kind="classes")
            problems.append(
                f"events.{name}.classes: engine {engine.info.spec.name} has no class {unknown!r}; {hint}"
            )
    if problems:
        raise ConfigError(*problems)


Job = Callable[[int, Callable[[Event], None]], Finished | Failed | None]


def _ended(job: FileJob) -> Finished | Failed | None:
    """Run a file's job → how it ended; None when it was stopped. Raises what concerns all files."""
    try:
        end: Finished | Failed | None = job.run()
    except (SourceError, OutputError, UsageError) as error:
        if isinstance(error, FolderError):
            raise
        end = Failed(job.input.shown, error)
    if end is not None:
        job.on_event(end)
    return end


def _one_by_one(
    job: Job, count: int, on_event: Callable[[Event], None], stop: threading.Event
) -> list[Finished | Failed | None]:
    ends = []
    for index in range(count):
        if stop.is_set():
            break
        ends.append(job(index, on_event))
    return ends


def _side_by_side(
    job: Job, count: int, on_event: Callable[[Event], None], stop: threading.Event
) -> list[Finished | Failed | None]:
    """Run several files' jobs at once, so that short files keep a cluster busy too; in order of the files."""
    events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()

    def run(index: int) -> Finished | Failed | None:
        return None if stop.is_set() else job(index, events.put)

    with ThreadPoolExecutor(min(MAX_FILES, count), "file") as pool:
        futures: list[Future[Finished | Failed | None]] = []
        try:
            for index in range(count):
                futures.append(pool.submit(run, index))
                futures[-1].add_done_callback(lambda _: events.put(None))
            left = count
            while left:
                event = events.get()
                if event is not None:
                    on_event(event)
                    continue
                left -= 1
                for future in futures:
                    if future.done() and (error := future.exception()) is not None:
                        raise error
        except BaseException:
            stop.set()
            raise
    return [future.result() for future in futures]
