"""Labels as people want them: the engine's classes → the classes that are published.

The network decides between its own classes: a pixel's label is the class of the highest logit, and only then
looked up in a table. The confidence of a merged class is the sum of its members' probabilities, since a pixel
that is a car or a truck is a vehicle in both cases; that of what is not published is 0.
docs/design/0017-labels.md has the reasons.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from streamseg.config.labels import LabelsConfig
from streamseg.errors import ConfigError, nearest
from streamseg.inference.holes import cover
from streamseg.runtime.native import load_library
from streamseg.types import IGNORE, U8, AnswerKind, ClassInfo, LabelSet

_MOST_NAMES = 40  # of classes in a message
_MOST_VIEWS = 1024  # that are remembered


@dataclass(frozen=True, slots=True, eq=False)
class LabelView:
    """What becomes of the labels of an engine; can be sent to another process."""

    label_set: LabelSet  # of the result
    table: U8  # (256,), the published class of each of the engine's, IGNORE where it has none
    maps: bool = False  # a class is published as another, or not at all
    merges: bool = False  # some classes become one
    least: int = 0  # of the confidence in 1/255, for a label to be kept; 0: any
    min_region: int = 0  # pixels

    @property
    def changes(self) -> bool:
        """Whether any label can become another."""
        return self.maps or self.least > 0 or self.min_region > 1

    def of(self, labels: U8) -> U8:
        """The published classes of the engine's, whatever their confidence and regions."""
        return np.asarray(cv2.LUT(labels, self.table), np.uint8)


def view_of(
    classes: LabelSet,
    config: LabelsConfig,
    kind: AnswerKind = "logits",
    key: Callable[[str], str] = "labels.{}".format,
) -> LabelView:
    """How labels of these classes are published; raises ConfigError with every problem, by its key."""
    problems = [*_merge_problems(classes.names, config.merge, key("merge"))]
    if not problems:
        problems += _choice_problems(classes.names, config, key)
    if config.min_confidence and kind == "labels":
        problems.append(
            f"{key('min_confidence')}: this engine gives class ids without probabilities; leave it out"
        )
    if problems:
        raise ConfigError(*problems)
    published = {name: to for to, names in config.merge.items() for name in names}
    groups: dict[str, list[int]] = {}  # engine's ids by the name that they are published under, in order
    for i, name in enumerate(classes.names):
        to = published.get(name, name)
        if config.only is None or to in config.only:
            groups.setdefault(to, []).append(i)
    table = np.full(256, IGNORE, np.uint8)
    for id_, members in enumerate(groups.values()):
        table[members] = id_
    made = tuple(
        _merged(
            name, [classes.classes[i] for i in _in_list(members, config.merge.get(name), classes)], config
        )
        for name, members in groups.items()
    )
    return LabelView(
        classes if made == classes.classes else LabelSet(_id_of(classes.id, made), made),
        table,
        not np.array_equal(table[: len(classes.names)], np.arange(len(classes.names))),
        any(len(members) > 1 for members in groups.values()),
        math.ceil(255 * (config.min_confidence or 0.0) - 1e-6),
        config.min_region or 0,
    )


def drop_small(labels: U8, confidence: U8 | None, least: int) -> tuple[U8, U8 | None]:
    """Labels (H, W) without the connected regions of fewer pixels, and their confidence; in place.

    Pixels of one label are connected by an edge; those between them that meet at a corner alone are not.
    """
    if least <= 1:
        return labels, confidence
    try:
        library = load_library("_upsample")
    except OSError:
        return drop_small_fallback(labels, confidence, least)
    code = library.streamseg_drop_small(
        labels.ctypes.data_as(ctypes.c_void_p),
        None if confidence is None else confidence.ctypes.data_as(ctypes.c_void_p),
        *labels.shape,
        least,
    )
    if code == 2:
        raise MemoryError(f"regions of labels {labels.shape}")
    if code:
        raise ValueError(f"regions of labels {labels.shape}: must have 1 to 2^31 - 1 pixels")
    return labels, confidence


def drop_small_fallback(labels: U8, confidence: U8 | None, least: int) -> tuple[U8, U8 | None]:
    """The same in OpenCV, class by class: for installs without a compiler."""
    for id_ in np.flatnonzero(np.bincount(labels.ravel(), minlength=256)[:IGNORE]):
        _, regions, stats, _ = cv2.connectedComponentsWithStats(
            (labels == id_).view(np.uint8), connectivity=4
        )
        small = stats[:, cv2.CC_STAT_AREA] < least
        small[0] = False  # what is not of this class
        cover(labels, confidence, small[regions])
    return labels, confidence


class LabelViews:
    """The views of engines' classes and streams' settings, each made once. Used by any thread."""

    def __init__(self) -> None:
        # By identity, with what must stay alive for it. Two threads that ask at once make equal ones.
        self._made: dict[tuple[int, ...], tuple[LabelSet, tuple[LabelsConfig, ...], LabelView]] = {}

    def of(self, classes: LabelSet, *configs: LabelsConfig | None) -> LabelView:
        """The view of these classes by settings that were checked; the first that sets a field wins."""
        given = tuple(config for config in configs if config is not None)
        key = (id(classes), *map(id, given))
        found = self._made.get(key)
        if found is None:
            config = LabelsConfig()
            for one in reversed(given):
                config = one.over(config)
            if len(self._made) >= _MOST_VIEWS:
                self._made.clear()
            found = self._made[key] = (classes, given, view_of(classes, config))
        return found[2]


def _merged(name: str, members: Sequence[ClassInfo], config: LabelsConfig) -> ClassInfo:
    colour = config.colours.get(name, members[0].colour)
    return replace(members[0], name=name, colour=colour, thin=any(c.thin for c in members))


def _in_list(members: list[int], named: Iterable[str] | None, classes: LabelSet) -> list[int]:
    """The members in the order in which they are named: the first gives the colour."""
    if named is None:
        return members
    order = list(named)
    return sorted(members, key=lambda i: order.index(classes.names[i]))


def _id_of(engine_set: str, made: tuple[ClassInfo, ...]) -> str:
    """Equal for equal classes of one engine's set, whatever the run."""
    text = json.dumps([[c.name, c.colour, c.thin] for c in made], ensure_ascii=False)
    return f"{engine_set[:100]}+{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _merge_problems(names: Sequence[str], merge: Mapping[str, tuple[str, ...]], key: str) -> Iterator[str]:
    taken: dict[str, str] = {}
    for to, members in merge.items():
        if not members:
            yield f"{key}.{to}: must name at least one class; {_known(names)}"
        for name in members:
            if name not in names:
                yield f"{key}.{to}: {_unknown(name, names)}"
            elif name in taken:
                yield f"{key}.{to}: {name!r} is merged twice" + (
                    "" if taken[name] == to else f"; it is also in {taken[name]!r}"
                )
            taken.setdefault(name, to)
    for to, members in merge.items():
        if to in names and to not in members:
            yield (
                f"{key}.{to}: is also a class of the engine that is not in it; put {to!r} into the list, or "
                "choose another name"
            )


def _choice_problems(names: Sequence[str], config: LabelsConfig, key: Callable[[str], str]) -> Iterator[str]:
    inside = {name: to for to, members in config.merge.items() for name in members}
    published = list(dict.fromkeys(inside.get(name, name) for name in names))
    if config.only is not None and not config.only:
        yield f"{key('only')}: must name at least one class; leave it out to publish all"
    for field in ("only", "colours"):
        for name in getattr(config, field) or ():
            if name in published:
                continue
            if name in inside:
                yield f"{key(field)}: {name!r} is merged into {inside[name]!r}; write that"
            else:
                yield f"{key(field)}: {_unknown(name, published)}"
    if config.only is not None:
        for name in config.colours:
            if name in published and name not in config.only:
                yield f"{key('colours')}: {name!r} is not published; add it to only, or leave it out"


def _unknown(name: str, known: Sequence[str]) -> str:
    near = nearest(name, known)
    hint = f"did you mean {near!r}? " if near is not None else ""
    return f"unknown class {name!r}; {hint}{_known(known)}"


def _known(names: Sequence[str]) -> str:
    more = ", …" if len(names) > _MOST_NAMES else ""
    return f"classes: {', '.join(names[:_MOST_NAMES])}{more}"
