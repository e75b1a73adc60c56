"""Which classes a graph tells apart: by name from a file, a data set, metadata, or their number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from streamseg.config.text_file import read_text
from streamseg.errors import EngineError, UsageError
from streamseg.inference.labels import read_labels, voc_colour
from streamseg.inference.spec import MOST_CLASSES, ClassEntry
from streamseg.models.weights.datasets import (
    BACKGROUND,
    classes_of,
    dataset_of,
    dataset_of_count,
    named,
)
from streamseg.models.weights.onnx_answer import Answer
from streamseg.models.weights.onnx_hints import Guess, Hints, json_names

Classes = tuple[ClassEntry, ...]


def name_classes(
    what: str, name: str, answer: Answer, *, given: dict[str, Any], hints: Hints
) -> tuple[Classes, str, Guess]:
    """The classes, the id of their set, and where they are from; raises EngineError, UsageError."""
    binary = answer.output == "binary"
    wanted = None if answer.channels is None else answer.channels + binary
    if wanted is not None and wanted > MOST_CLASSES:
        raise EngineError(f"{what} gives {wanted} classes; at most {MOST_CLASSES} are supported")
    entries, source = _known(wanted, given, hints)
    if entries is None and wanted is None:
        raise EngineError(
            f"{what} gives class ids, and nothing says which classes they are; name them with --dataset, or "
            "--labels FILE"
        )
    if entries is None:
        entries = tuple(ClassEntry(name=f"class {i}", colour=voc_colour(i)) for i in range(wanted or 0))
        if binary:
            entries = (BACKGROUND, *entries[1:])
        source = "their number; name them with --labels FILE, or --dataset"
    if binary and len(entries) == answer.channels:
        entries = (BACKGROUND, *(entry for entry in entries if entry.name != BACKGROUND.name))
    count = len(entries)
    remedy = "give theirs with --labels FILE, or --dataset"
    if wanted is not None and count != wanted:
        raise EngineError(f"{what} gives {wanted} classes, but {source} names {count}; {remedy}")
    if answer.most >= count:
        raise EngineError(
            f"{what} gives the class id {answer.most}, but {source} names {count}, from 0 on; {remedy}"
        )
    if count < 2:
        raise EngineError(f"{what} tells one class apart; at least 2 are needed")
    names = tuple(entry.name for entry in entries)
    shown = f"{count}: {', '.join(names[:6])}{', …' if count > 6 else ''}"
    label_set = f"{given.get('dataset') or dataset_of(names) or name}-{count}"
    return entries, label_set, Guess("classes", shown, source)


def _known(wanted: int | None, given: dict[str, Any], hints: Hints) -> tuple[Classes | None, str]:
    if {"labels", "dataset"} <= set(given):
        raise UsageError("--dataset: --labels names the classes already; give one of them")
    if "labels" in given:
        path = Path(given["labels"])
        return read_names(path), path.name
    if "dataset" in given:
        return classes_of(given["dataset"]), f"--dataset {given['dataset']}"
    if "names" in hints:
        names, source = hints["names"]
        if len(names) > MOST_CLASSES:
            raise EngineError(f"{source}: has {len(names)} classes; at most {MOST_CLASSES} are supported")
        return named(names), source
    if wanted and (dataset := dataset_of_count(wanted)):
        return classes_of(dataset), f"as many as {dataset} has; others: --dataset, --labels FILE"
    return None, ""


def read_names(path: Path) -> Classes:
    """--labels: a class a line, or JSON: names, ids with their names, or a HuggingFace config.json."""
    try:
        json = path.suffix.lower() == ".json" or read_text(path).lstrip().startswith(("{", "["))
    except (OSError, UnicodeError):
        json = False  # and read_labels says why
    if not json:
        return read_labels(path, least=1)  # and the background
    return named(json_names(path))
