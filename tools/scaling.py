"""How many cameras a box holds, and what a site of many boxes needs: python tools/scaling.py [--json].

A simulation of one box by its rules (one waiting frame a camera, the camera unserved longest first, batches,
max_age_ms), fed with stage times as `streamseg bench` measures them; and the arithmetic around it. It gives
the same numbers every time. Its assumptions are those of docs/scaling.md.
"""

from __future__ import annotations

import json
import random
import sys
from dataclasses import asdict, dataclass

SECONDS = 5.0  # simulated
HELD_SHARE = 0.9  # of a camera's frames must become masks that are young enough


@dataclass(frozen=True, slots=True)
class Box:
    """A machine, by the times of one frame on it (ms)."""

    name: str
    decode_ms: float  # of one core
    infer_ms: float  # of the engine: the part that each frame of a batch adds
    call_ms: float  # of the engine: the part that each batch costs
    after_ms: float  # fuse, encode, publish; of one core
    cores: int  # besides the engine's
    engines: int = 1  # that run at once
    max_batch: int = 4
    streams: int = 1 << 30  # that the machine's decoder takes at once, where it is not the cores


@dataclass(frozen=True, slots=True)
class Camera:
    fps: float = 8.0
    max_age_ms: float = 250.0
    mbit: float = 2.0  # of H.264 in
    mask_kb: float = 4.0  # of a mask out, zstd


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one simulated box."""

    cameras: int
    held: int
    served_share: float  # of all frames
    age_p95_ms: float
    engine_busy: float


# Two cores: docs/benchmarks.md, int8. The GPU is a reckoning: nothing of it has been measured.
CPU_BOX = Box("2 cores, int8", decode_ms=0.3, infer_ms=6.0, call_ms=0.3, after_ms=0.6, cores=1)
CPU_16 = Box("16 cores, int8", decode_ms=0.3, infer_ms=6.0, call_ms=0.3, after_ms=0.6, cores=2, engines=7)
GPU_BOX = Box(
    "one GPU (assumed)", decode_ms=0.1, infer_ms=0.8, call_ms=0.6, after_ms=0.6, cores=8, max_batch=16
)
BOXES = (CPU_BOX, CPU_16, GPU_BOX)


def simulate(box: Box, camera: Camera, cameras: int, seed: int = 1) -> Outcome:
    """Play SECONDS of so many cameras on a box."""
    rng = random.Random(seed)
    period_ms = 1000 / camera.fps
    # Decoding and what comes behind the engine share the cores; what they need beyond them slows all.
    cpu_share = cameras * camera.fps * (box.decode_ms + box.after_ms) / 1000 / box.cores
    slow = max(1.0, cpu_share)
    phase = [rng.uniform(0, period_ms) for _ in range(cameras)]
    arrivals = sorted(
        (phase[c] + k * period_ms * rng.uniform(0.999, 1.001), c)
        for c in range(cameras)
        for k in range(int(SECONDS * camera.fps))
    )
    waiting: dict[int, float] = {}
    served_at = dict.fromkeys(range(cameras), -1.0)
    good = dict.fromkeys(range(cameras), 0)
    ages: list[float] = []
    free_at = [0.0] * box.engines
    busy_ms, at = 0.0, 0
    while at < len(arrivals) or waiting:
        engine = min(range(box.engines), key=lambda e: free_at[e])
        now = free_at[engine]
        if not waiting:
            now = max(now, arrivals[at][0])
        while at < len(arrivals) and arrivals[at][0] <= now:
            waiting[arrivals[at][1]] = arrivals[at][0]  # the newest frame of a camera replaces the one before
            at += 1
        batch = sorted(waiting, key=lambda c: served_at[c])[: box.max_batch]
        fresh = []
        for one in batch:
            captured = waiting.pop(one)
            if now - captured <= camera.max_age_ms:
                fresh.append((one, captured))
        took = (box.call_ms + box.infer_ms * len(fresh)) if fresh else 0.0
        busy_ms += took
        free_at[engine] = done = now + took
        for one, captured in fresh:
            served_at[one] = now
            age = done - captured + (box.decode_ms + box.after_ms) * slow
            if age <= camera.max_age_ms:
                good[one] += 1
                ages.append(age)
    frames = int(SECONDS * camera.fps)
    ages.sort()
    return Outcome(
        cameras=cameras,
        held=sum(count / slow >= HELD_SHARE * frames for count in good.values()),
        served_share=round(sum(good.values()) / slow / (frames * cameras), 3),
        age_p95_ms=round(ages[int(0.95 * len(ages))], 1) if ages else 0.0,
        engine_busy=round(min(1.0, busy_ms / (1000 * SECONDS * box.engines)), 3),
    )


def most_held(box: Box, camera: Camera) -> Outcome:
    """The outcome with the most cameras of which all are held."""
    low, high = 0, min(box.streams, int(1.2 * box.engines * 1000 / box.infer_ms / camera.fps) + 1)
    while low < high:
        middle = (low + high + 1) // 2
        if simulate(box, camera, middle).held == middle:
            low = middle
        else:
            high = middle - 1
    return simulate(box, camera, max(1, low))


def site(box: Box, camera: Camera, cameras: int, subscribers: int, reserve: float = 0.7) -> dict[str, float]:
    """What so many cameras need, boxes filled to `reserve` of what they hold; rates in Mbit/s."""
    each = max(1, int(most_held(box, camera).cameras * reserve))
    masks_mbit = cameras * camera.fps * camera.mask_kb * 8 / 1000
    return {
        "cameras_a_box": each,
        "boxes": -(-cameras // each),
        "video_into_a_box_mbit": round(each * camera.mbit, 1),
        "masks_out_mbit": round(masks_mbit, 1),
        "relay_out_mbit": round(masks_mbit * subscribers, 1),
        "relay_messages_a_second": round(cameras * camera.fps * (1 + subscribers)),
    }


def main() -> None:
    camera = Camera()
    rows = [
        {"box": box.name, **asdict(most_held(box, camera)), **site(box, camera, 1000, 10)} for box in BOXES
    ]
    if "--json" in sys.argv[1:]:
        print(json.dumps(rows, indent=1))
        return
    for row in rows:
        print(
            f"{row['box']:18} {row['cameras']:5} cameras held, age p95 {row['age_p95_ms']} ms, engine "
            f"{row['engine_busy']:.0%} busy; 1000 cameras: {row['boxes']} boxes of {row['cameras_a_box']}, "
            f"{row['video_into_a_box_mbit']} Mbit/s into each"
        )
    print(
        f"masks of 1000 cameras: {rows[0]['masks_out_mbit']} Mbit/s; ten subscribers to all: "
        f"{rows[0]['relay_out_mbit']} Mbit/s and {rows[0]['relay_messages_a_second']} messages/s"
    )


if __name__ == "__main__":
    main()
