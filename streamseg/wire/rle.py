"""Label masks ⇄ COCO's run lengths in their compressed string form, as pycocotools writes and reads them.

Pixels are counted down the columns, the first column first. Counts alternate between pixels outside and
inside, beginning outside. From the fourth on, each is written as its difference to the count two before it;
then in groups of five bits, lowest first, bit 5 set when more follow and bit 4 of the last being the sign; 48
is added to each.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from streamseg.errors import WireError
from streamseg.types import IGNORE, U8, Size
from streamseg.wire.codec import check_size

Counts = npt.NDArray[np.int64]

_LONGEST = 7  # groups of five bits that one count may take: 35 bits, far above MAX_PIXELS


def encode_labels(labels: U8) -> Iterator[tuple[int, int, str]]:
    """Yield (class id, pixels, counts) for each class in an (H, W) label mask, IGNORE left out."""
    height, width = labels.shape
    # Where a pixel differs from the one above it, or from the foot of the column before.
    above, column = np.divmod(np.flatnonzero(labels[1:] != labels[:-1]), width)
    wrap = np.flatnonzero(labels[0, 1:] != labels[-1, :-1]) + 1
    starts = np.sort(np.concatenate(([0], column * height + above + 1, wrap * height)))
    ends = np.append(starts[1:], labels.size)
    values = labels[starts % height, starts // height]
    for value in np.unique(values):
        if value == IGNORE:
            continue
        inside = values == value
        first, last = starts[inside], ends[inside]
        bounds = np.stack([first, last], axis=1).reshape(-1)  # outside … first, inside … last
        counts = np.diff(bounds, prepend=0)
        if last[-1] < labels.size:
            counts = np.append(counts, labels.size - last[-1])
        yield int(value), int((last - first).sum()), counts_to_string(counts)


def encode_mask(inside: npt.NDArray[np.bool_], at: tuple[int, int], size: Size) -> str:
    """The counts of the pixels `inside`, a part of a picture of `size` that begins at row and column `at`."""
    height = size[0]
    edges = np.diff(inside.T.astype(np.int8), axis=1, prepend=0, append=0)  # down the columns
    bounds = []
    for step in (1, -1):
        column, row = np.nonzero(edges == step)
        bounds.append((column + at[1]) * height + row + at[0])
    first, last = bounds
    if not first.size:
        return counts_to_string(np.array([height * size[1]]))
    apart = (
        first[1:] != last[:-1]
    )  # a run that ends at the foot of a column may go on at the head of the next
    first, last = first[np.append(True, apart)], last[np.append(apart, True)]
    counts = np.diff(np.stack([first, last], axis=1).reshape(-1), prepend=0)
    if last[-1] < height * size[1]:
        counts = np.append(counts, height * size[1] - last[-1])
    return counts_to_string(counts)


def decode_labels(segments: Iterable[tuple[int, str]], size: Size) -> U8:
    """Paint (class id, counts) into an (H, W) label mask, IGNORE elsewhere; raises WireError.

    Two classes on one pixel are refused, so that there is one reading of every message.
    """
    height, width = check_size(*size)
    found = []  # (start, end, class) of each run, (3, R)
    for value, text in segments:
        bounds = np.cumsum(string_to_counts(text, height * width))
        ends = bounds[1::2]
        found.append(np.stack([bounds[0::2][: ends.size], ends, np.full(ends.size, value)]))
    runs = np.concatenate(found, axis=1) if found else np.zeros((3, 0), np.int64)
    start, end, value_of = runs[:, np.lexsort((runs[1], runs[0]))]
    if (start[1:] < end[:-1]).any():
        raise WireError("segments: two classes lie on one pixel")
    # Between two runs, and before the first and behind the last, lies what no class has.
    gaps = np.diff(np.stack([start, end], axis=1).reshape(-1), prepend=0, append=height * width)
    colours = np.full(gaps.size, IGNORE, np.uint8)
    colours[1::2] = value_of
    labels: U8 = np.ascontiguousarray(np.repeat(colours, gaps).reshape(width, height).T)
    labels.flags.writeable = False
    return labels


def counts_to_string(counts: Counts) -> str:
    """Write run lengths in the compressed form."""
    left = counts.astype(np.int64)
    left[3:] -= counts[1:-2]
    groups = np.zeros((left.size, _LONGEST), np.uint8)
    used = np.zeros((left.size, _LONGEST), bool)
    more = np.ones(left.size, bool)
    for k in range(_LONGEST):
        group = left & 0x1F
        left >>= 5
        used[:, k] = more
        more = more & np.where(group & 0x10, left != -1, left != 0)
        groups[:, k] = group + 0x20 * more + 48
    return groups[used].tobytes().decode("ascii")


def string_to_counts(text: str, pixels: int) -> Counts:
    """Read run lengths that must add up to `pixels`; raises WireError."""
    try:
        groups = np.frombuffer(text.encode("ascii"), np.uint8).astype(np.int64) - 48
    except UnicodeEncodeError as error:
        raise WireError("counts: has a character outside '0' to 'o'") from error
    if not groups.size or groups.min() < 0 or groups.max() > 63:
        raise WireError("counts: is empty or has a character outside '0' to 'o'")
    ends = np.flatnonzero(groups < 0x20)
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts + 1
    if not ends.size or ends[-1] != groups.size - 1 or lengths.max() > _LONGEST:
        raise WireError("counts: a number is cut off or too long")
    place = np.arange(groups.size) - np.repeat(starts, lengths)
    numbers = np.add.reduceat((groups & 0x1F) << (5 * place), starts)
    numbers -= np.where(groups[ends] & 0x10, np.int64(1) << (5 * lengths), 0)
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    if numbers.min() < 0 or int(numbers.sum()) != pixels:
        raise WireError(f"counts: must be lengths that add up to {pixels}")
    return numbers
