"""What a site of many boxes needs: python tools/scaling.py [--cameras N] CAPACITY.json …

Each file is what `streamseg capacity --json` printed: the stage times of one kind of camera on one machine.
How many a box holds is that command's own arithmetic (streamseg/live/capacity.py); how old masks are comes
from a simulation of a box by the daemon's rules: one waiting frame a camera, the camera unserved longest
first, max_age_ms. It gives the same numbers every time. Its assumptions are those of docs/scaling.md.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import dataclass
from pathlib import Path

import msgspec

from streamseg.bench.capacity import CapacityResult, Group
from streamseg.live.capacity import Room, StreamCost, held, load_of

SECONDS = 5.0  # simulated
FILLED = 0.7  # of what a box holds
SUBSCRIBERS = 10
MBIT_A_PIXEL = 2e-6  # of H.264 in, for each pixel of a picture and frame/s 25: 4 Mbit/s at 1080p
MASK_KB = {True: 10.0, False: 4.0}  # of a mask out, zstd: full HD, and smaller
LARGER = 16  # cores of the box that is reckoned with besides


@dataclass(frozen=True, slots=True)
class Site:
    """One kind of camera on one kind of box."""

    kind: str
    cores: int
    cameras: int  # held
    age_p95_ms: float
    boxes: int  # for all cameras of the site
    video_mbit: float  # into each box
    masks_mbit: float  # of all cameras


def cost_of(group: Group) -> StreamCost:
    times = group.times
    return StreamCost(
        source_fps=group.source_fps,
        masks_fps=group.masks_fps,
        decode_ms=times.decode,
        gate_ms=times.gate if group.network_share < 1 else 0.0,
        scale_ms=times.scale,
        network_ms=times.network,
        labels_ms=times.labels,
        pack_ms=times.pack,
        network_share=group.network_share,
        network_wall_ms=times.network_wall if times.on_device else 0.0,
    )


def age_p95_ms(cost: StreamCost, room: Room, cameras: int, max_age_ms: float = 250.0, seed: int = 1) -> float:
    """Play SECONDS of so many cameras on a box → the age below which 95 % of the masks are."""
    rng = random.Random(seed)
    period_ms = 1000 / cost.masks_fps
    beside = load_of([(cost, cameras)], room)
    others = 1 - beside.by_stage["the network"] - beside.by_stage["scaling"]
    # A core that also decodes and packs has that much less time for the network.
    stretch = 1 / max(0.1, 1 - min(0.9, beside.cpu * others))
    call_ms = stretch * (cost.scale_ms + (cost.network_wall_ms or cost.network_ms / room.threads))
    phase = [rng.uniform(0, period_ms) for _ in range(cameras)]
    arrivals = sorted(
        (phase[c] + k * period_ms * rng.uniform(0.999, 1.001), c)
        for c in range(cameras)
        for k in range(int(SECONDS * cost.masks_fps))
    )
    waiting: dict[int, float] = {}
    served_at = dict.fromkeys(range(cameras), -1.0)
    free_at = [0.0] * room.replicas
    ages: list[float] = []
    at = 0
    while at < len(arrivals) or waiting:
        engine = min(range(room.replicas), key=lambda e: free_at[e])
        now = free_at[engine] if waiting else max(free_at[engine], arrivals[at][0])
        while at < len(arrivals) and arrivals[at][0] <= now:
            waiting[arrivals[at][1]] = arrivals[at][0]  # the newest frame of a camera replaces the one before
            at += 1
        one = min(waiting, key=lambda c: served_at[c])
        captured = waiting.pop(one)
        if now - captured > max_age_ms:
            continue
        free_at[engine] = done = now + call_ms
        served_at[one] = now
        ages.append(done - captured + stretch * (cost.decode_ms + cost.labels_ms + cost.pack_ms))
    ages.sort()
    return round(ages[int(0.95 * len(ages))], 1) if ages else 0.0


def sites(result: CapacityResult, cameras: int) -> list[Site]:
    """Of the first kind in a file: on that machine, and on one with more cores like its own."""
    group = result.groups[0]
    cost = cost_of(group)
    found = []
    for cores in dict.fromkeys((int(result.cores), LARGER)):
        room = Room(cores=cores, replicas=cores, threads=1)
        most = max(1, int(held([(cost, 1)], room)))
        each = max(1, int(FILLED * most))
        height, width = group.size
        found.append(
            Site(
                kind=f"{width}x{height} {group.codec}, masks: {group.mask_size}",
                cores=cores,
                cameras=most,
                age_p95_ms=age_p95_ms(cost, room, most),
                boxes=-(-cameras // each),
                video_mbit=round(each * MBIT_A_PIXEL * height * width, 1),
                masks_mbit=round(
                    cameras
                    * group.masks_fps
                    * MASK_KB[group.mask_size == "frame" and height * width > 1e6]
                    * 8
                    / 1000,
                    1,
                ),
            )
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="What a site of many boxes needs.")
    parser.add_argument("--cameras", type=int, default=1000)
    parser.add_argument("files", nargs="+", type=Path, metavar="CAPACITY.json")
    given = parser.parse_args()
    for path in given.files:
        result = msgspec.json.decode(path.read_bytes(), type=CapacityResult)
        for site in sites(result, given.cameras):
            print(
                f"{site.kind}: {site.cameras} held on {site.cores} cores, age p95 {site.age_p95_ms} ms; "
                f"{given.cameras} cameras: {site.boxes} boxes, {site.video_mbit} Mbit/s into each; masks "
                f"{site.masks_mbit} Mbit/s, {SUBSCRIBERS} subscribers: {SUBSCRIBERS * site.masks_mbit:g}"
            )


if __name__ == "__main__":
    main()
