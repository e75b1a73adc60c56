"""The classes of public data sets, with their colours: a text file each in classes/."""

from __future__ import annotations

from pathlib import Path

from streamseg.inference.labels import read_labels, voc_colour
from streamseg.inference.spec import ClassEntry

_FOLDER = Path(__file__).parent / "classes"

DATASETS = tuple(sorted(path.stem for path in _FOLDER.glob("*.txt")))
BACKGROUND = ClassEntry(name="background", colour=(0, 0, 0))


def classes_of(dataset: str) -> tuple[ClassEntry, ...]:
    """The classes of one of DATASETS, in the order of their ids."""
    return read_labels(_FOLDER / f"{dataset}.txt")


def dataset_of(names: tuple[str, ...]) -> str:
    """The data set with these names, for its colours; empty where there is none."""
    for dataset in DATASETS:
        if tuple(entry.name for entry in classes_of(dataset)) == names:
            return dataset
    return ""


def dataset_of_count(count: int) -> str:
    """The data set with as many classes, empty where there is none."""
    return next((dataset for dataset in DATASETS if len(classes_of(dataset)) == count), "")


def named(names: tuple[str, ...]) -> tuple[ClassEntry, ...]:
    """Classes of these names: in their data set's colours, else in those of PASCAL VOC's map."""
    if dataset := dataset_of(names):
        return classes_of(dataset)
    return tuple(ClassEntry(name=name, colour=voc_colour(i)) for i, name in enumerate(names))
