"""CPU time of work that threads do at the same time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from streamseg.runtime.stage import Stage

MOST_S = 4.0  # of work whose single call takes long


@dataclass(frozen=True, slots=True)
class Spent:
    """What some calls of one kind took."""

    calls: int
    cpu_ms: float  # of one
    wall_ms: float  # of one; the lower quartile, which other programs disturb least


def side_by_side(works: Sequence[Callable[[], object]], seconds: float, least: int = 2) -> Spent:
    """Call each of these again and again in a thread of its own, all at once; raises what one of them does.

    Each has been called once before. They are called so often at least, as far as MOST_S goes.
    """
    walls: list[float] = []  # list.append is atomic
    for work in works:
        work()
    begun_s = time.monotonic()

    def run(work: Callable[[], object]) -> None:
        while True:
            before_s = time.monotonic()
            work()
            now_s = time.monotonic()
            walls.append(now_s - before_s)
            if now_s - begun_s >= (seconds if len(walls) >= least * len(works) else MOST_S):
                return

    cpu_s = time.process_time()
    stages = [Stage(f"measure-{i}", partial(run, work), lambda _: None) for i, work in enumerate(works)]
    for stage in stages:
        stage.start()
    for stage in stages:
        stage.join()
        if stage.error is not None:
            raise stage.error
    cpu_s = time.process_time() - cpu_s
    return Spent(len(walls), 1000 * cpu_s / len(walls), 1000 * float(np.percentile(walls, 25)))
