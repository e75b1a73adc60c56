"""Two engines side by side on the same pictures: where they agree, which is right, how fast, how large."""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from streamseg.bench.summary import Spread, spread_of
from streamseg.config import EngineConfig
from streamseg.daemon.machine import memory_bytes
from streamseg.errors import EngineError, TrainingError, UsageError
from streamseg.evaluation.dataset import (
    FRAMES_APART,
    LabelledFolder,
    picture_files,
    read_picture,
    video_frames,
)
from streamseg.evaluation.engines import picture_frame, segment
from streamseg.evaluation.metrics import Matrix, confusion_matrix, mean, percent
from streamseg.inference.engine import Engine
from streamseg.inference.infer import infer
from streamseg.inference.plans.load import load_engine
from streamseg.inference.scaling import labels_of
from streamseg.types import IGNORE, U8, Size

MOST_CONFUSED = 8


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """One of the two engines."""

    engine: str
    label_set: str
    classes: tuple[str, ...]
    input_size: Size  # of the first picture
    threads: int
    miou: float | None  # in per cent, over those of `scored` that occur in the labels
    time: Spread  # of one picture: scaled, run, upsampled to labels
    memory_mb: float | None  # that a process takes more with this engine loaded and run once; with libraries


class ClassRow(msgspec.Struct, frozen=True, kw_only=True):
    """One class that both engines have; in per cent, null where there was nothing to score."""

    name: str
    agreement: float | None  # IoU of the two engines' pixels
    share_a: float  # of all pixels
    share_b: float
    iou_a: float | None = None  # against the labels; of classes that occur in them
    iou_b: float | None = None


class Confused(msgspec.Struct, frozen=True, kw_only=True):
    """Pixels that A gives one class, and B another, in per cent of those compared."""

    a: str
    b: str
    pixels: float


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Compared are the pixels to which an engine, or both, gives a class that both have by its name."""

    pictures: int
    labelled: int  # pictures with labels that were used
    note: str  # what was left out, and why; empty where nothing was
    a: Side
    b: Side
    only_a: tuple[str, ...]  # classes that the other has not
    only_b: tuple[str, ...]
    compared: float | None  # pixels, in per cent of all
    agreement: float | None  # of those compared, in per cent
    per_class: tuple[ClassRow, ...]
    scored: tuple[str, ...]  # classes of A, B and the labels
    confusion: list[
        list[int]
    ]  # pixels of A's class (row) and B's (column), as in per_class; last: others, none
    confused: tuple[Confused, ...]  # the most frequent ones

    def to_json(self) -> str:
        return msgspec.json.encode(self).decode()


class Picture(NamedTuple):
    rgb: U8
    truth: U8 | None


def compare_engines(
    a: EngineConfig,
    b: EngineConfig,
    data: Path | None,
    video: str | None,
    *,
    names: Sequence[str] = (),
    same: Mapping[str, str] | None = None,
    most: int = 200,
    measure_memory: bool = True,
    progress: Callable[[int, int | None], None] | None = None,
) -> Comparison:
    """Run both engines by turns on each picture. Raises EngineError, TrainingError, SourceError, UsageError.

    names: of the classes of labels/ in `data`; without, they are those of both engines where these have the
    same ones, and else labels are not used. same: what a name is called, too, in all three. most: pictures
    at most, of a folder evenly by name.
    """
    with contextlib.ExitStack() as owned:
        engines = [owned.enter_context(contextlib.closing(load_engine(one))) for one in (a, b)]
        sets = [engine.info.labels.names for engine in engines]
        known, note = _names_of_labels(data, sets, names)
        count, pictures = _pictures(data, video, known, most)
        run = _Run(engines, known, same or {})
        memory = [_memory_of(one) if measure_memory else None for one in (a, b)]
        for done, picture in enumerate(pictures, start=1):
            run.add(picture)
            if progress is not None:
                progress(done, count)
        if not run.pictures:
            raise TrainingError(f"{video or data}: holds no picture")
        return run.comparison(note, memory)


def _names_of_labels(
    data: Path | None, sets: Sequence[tuple[str, ...]], names: Sequence[str]
) -> tuple[tuple[str, ...], str]:
    """The names of the classes in labels/, empty where it is not used, and why."""
    if data is None or not (data / "labels").is_dir():
        if names:
            raise UsageError(f"{data or '--data'}: holds no labels/ whose classes could be named")
        return (), ""
    if names:
        return tuple(names), ""
    if _plain(sets[0]) == _plain(sets[1]):
        return sets[0], ""
    return (), (
        f"{data}/labels is not used: A and B have other classes, and its numbers could be those of either; "
        "say whose they are with --dataset or --labels"
    )


def _pictures(
    data: Path | None, video: str | None, names: Sequence[str], most: int
) -> tuple[int | None, Iterator[Picture]]:
    """How many there are, where that is known, and the pictures."""
    if data is None and video is None:
        raise UsageError("--data: is missing; give a folder of pictures, or a --video")
    found: list[Callable[[], Picture]] = []
    if data is not None and names:
        folder = LabelledFolder(data, len(names))
        found = [lambda i=i: Picture(*folder[i][1:]) for i in range(len(folder))]  # type: ignore[misc]
    elif data is not None:
        found = [lambda p=p: Picture(read_picture(p), None) for p in picture_files(data)]  # type: ignore[misc]
    chosen = sorted({len(found) * i // most for i in range(most)}) if found else []

    def all_of_them() -> Iterator[Picture]:
        for i in chosen:
            yield found[i]()
        if video is not None:
            for rgb in islice(video_frames(video), 0, most * FRAMES_APART, FRAMES_APART):
                yield Picture(rgb, None)

    return (None if video is not None else len(chosen)), all_of_them()


class _Run:
    """What was counted so far."""

    def __init__(self, engines: Sequence[Engine], labelled: Sequence[str], same: Mapping[str, str]) -> None:
        self._engines = engines
        sets = [engine.info.labels.names for engine in engines]
        plain = [_plain(names, same) for names in sets]
        self._common = [name for name in dict.fromkeys(plain[0]) if name in plain[1]]
        if len(self._common) < 2:
            raise UsageError(
                f"the two have {len(self._common)} of their classes in common; A has "
                f"{', '.join(sets[0][:6])}…, B has {', '.join(sets[1][:6])}…; say which are the same with "
                "--same NAME=OTHER"
            )
        self._shown = [sets[0][plain[0].index(name)] for name in self._common]
        self._only = [
            tuple(name for name, alike in zip(names, one, strict=True) if alike not in self._common)
            for names, one in zip(sets, plain, strict=True)
        ]
        self._tables = [_table(names, self._common, other=len(self._common)) for names in plain]
        self._both: Matrix = np.zeros((len(self._common) + 1, len(self._common) + 1), np.int64)
        self._counts = [np.zeros(256, np.int64) for _ in engines]
        truth = _plain(labelled, same)
        self._scored = [name for name in self._common if name in truth]
        if labelled and not self._scored:
            raise UsageError(
                f"no class of the labels ({', '.join(labelled[:6])}…) is one that both engines have "
                f"({', '.join(self._shown[:6])}…)"
            )
        self._truth_table = _table(truth, self._scored)
        self._score_tables = [_table(names, self._scored, other=len(self._scored)) for names in plain]
        size = len(self._scored) + 1  # the last: other classes, and none
        self._right: list[Matrix] = [np.zeros((size, size), np.int64) for _ in engines]
        self._times: list[list[float]] = [[], []]
        self._input_sizes: list[Size] = []
        self._pixels = self._labelled = 0
        self.pictures = 0

    def add(self, picture: Picture) -> None:
        if not self.pictures:
            for engine in self._engines:  # the first call of an engine is slower
                self._input_sizes.append(infer(engine, [picture_frame(picture.rgb)])[0].geometry.input_size)
        found: list[U8] = [np.zeros((0, 0), np.uint8)] * 2
        for i in (0, 1) if self.pictures % 2 == 0 else (1, 0):  # by turns, so that ratios hold
            begun = time.perf_counter()
            (answer,) = infer(self._engines[i], [picture_frame(picture.rgb)])
            found[i], _ = labels_of(answer, (picture.rgb.shape[0], picture.rgb.shape[1]))
            self._times[i].append((time.perf_counter() - begun) * 1000)
        self.pictures += 1
        self._pixels += found[0].size
        for counts, labels in zip(self._counts, found, strict=True):
            counts += np.bincount(labels.reshape(-1), minlength=256)
        ours, theirs = (table[labels] for table, labels in zip(self._tables, found, strict=True))
        self._both += confusion_matrix(ours, theirs, len(self._both))
        if picture.truth is not None:
            self._labelled += 1
            truth = self._truth_table[picture.truth]
            for matrix, table, labels in zip(self._right, self._score_tables, found, strict=True):
                matrix += confusion_matrix(truth, table[labels], len(matrix))

    def comparison(self, note: str, memory: Sequence[float | None]) -> Comparison:
        present = self._right[0].sum(1) > 0  # in the labels: the same ones for both
        ious = [
            [iou if there else None for iou, there in zip(_ious(m), present[:-1].tolist(), strict=False)]
            for m in self._right
        ]
        agreed = _ious(self._both)
        alike = int(np.trace(self._both[:-1, :-1]))
        compared = int(self._both.sum() - self._both[-1, -1])
        sides = [
            Side(
                engine=engine.info.id,
                label_set=engine.info.labels.id,
                classes=engine.info.labels.names,
                input_size=self._input_sizes[i],
                threads=engine.info.threads,
                miou=percent(mean([one for one in ious[i] if one is not None])) if self._labelled else None,
                time=spread_of(self._times[i]),
                memory_mb=memory[i],
            )
            for i, engine in enumerate(self._engines)
        ]
        shares = [
            [float(counts[table == k].sum()) / self._pixels for k in range(len(self._common))]
            for counts, table in zip(self._counts, self._tables, strict=True)
        ]
        rows = []
        for k, name in enumerate(self._shown):
            at = self._scored.index(self._common[k]) if self._common[k] in self._scored else None
            scores = [percent(one[at]) if at is not None and self._labelled else None for one in ious]
            rows.append(
                ClassRow(
                    name=name,
                    agreement=percent(agreed[k]),
                    share_a=round(100 * shares[0][k], 2),
                    share_b=round(100 * shares[1][k], 2),
                    iou_a=scores[0],
                    iou_b=scores[1],
                )
            )
        return Comparison(
            pictures=self.pictures,
            labelled=self._labelled,
            note=note,
            a=sides[0],
            b=sides[1],
            only_a=self._only[0],
            only_b=self._only[1],
            compared=percent(compared / self._pixels),
            agreement=percent(alike / compared if compared else None),
            per_class=tuple(rows),
            scored=tuple(self._shown[self._common.index(name)] for name in self._scored),
            confusion=self._both.tolist(),
            confused=self._confused(compared),
        )

    def _confused(self, compared: int) -> tuple[Confused, ...]:
        apart = self._both.copy()
        np.fill_diagonal(apart, 0)
        names = [*self._shown, "others"]
        order = np.argsort(-apart, axis=None, kind="stable")[:MOST_CONFUSED]
        pairs = [divmod(int(i), len(apart)) for i in order if apart.flat[i]]
        return tuple(
            Confused(a=names[i], b=names[k], pixels=round(100 * float(apart[i, k]) / compared, 2))
            for i, k in pairs
        )


def _plain(names: Sequence[str], same: Mapping[str, str] | None = None) -> list[str]:
    """Names as they are compared."""
    alike = {name.casefold(): other.casefold() for name, other in (same or {}).items()}
    return [alike.get(name.casefold(), name.casefold()) for name in names]


def _table(names: Sequence[str], among: Sequence[str], other: int = IGNORE) -> U8:
    """What each label is among these names; `other` for those of other names, and for none."""
    table = np.full(256, other, np.uint8)
    for number, name in enumerate(names):
        if name in among:
            table[number] = among.index(name)
    return table


def _ious(matrix: Matrix) -> list[float | None]:
    hits = np.diag(matrix)
    union = matrix.sum(0) + matrix.sum(1) - hits
    return [float(h / u) if u else None for h, u in zip(hits, union, strict=True)]


def _memory_of(config: EngineConfig) -> float | None:
    """Megabytes that a new process takes more once this engine has run a picture; None where that fails."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            return round(pool.submit(_taken, msgspec.json.encode(config)).result() / 1e6, 1)
        except (BrokenProcessPool, EngineError, OSError):
            return None  # loading it here says why


def _taken(config: bytes) -> int:
    before = memory_bytes()
    engine = load_engine(msgspec.json.decode(config, type=EngineConfig))
    try:
        height, width = engine.info.input_size
        segment(engine, np.full((height, width, 3), 128, np.uint8))
        return memory_bytes() - before
    finally:
        engine.close()
