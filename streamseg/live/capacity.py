"""How much of a machine live streams take, and how many it holds: arithmetic on stage times."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import msgspec

USABLE = 0.8
"""Of the CPU: what the stages get before masks come too late. The rest goes to handing frames from thread to
thread, to caches that they share, and to waiting: a mask was measured to cost 1.1 to 1.3 times its stages."""

Stage = str
DECODE, GATE, SCALE = "decoding", "the gate", "scaling"
NETWORK, LABELS, PACK = "the network", "labels", "packing"
STAGES = (DECODE, GATE, SCALE, NETWORK, LABELS, PACK)


class StreamCost(msgspec.Struct, frozen=True, kw_only=True):
    """What one stream costs: milliseconds of CPU of each picture that is sent, and of a mask."""

    source_fps: float
    masks_fps: float
    decode_ms: float
    scale_ms: float
    network_ms: float
    labels_ms: float
    pack_ms: float
    gate_ms: float = 0.0
    network_share: float = 1.0  # of the masks; a gate gives the others the labels of before
    network_wall_ms: float = 0.0  # of a device; 0 where the network runs on the CPU
    memory_mb: float = 0.0

    def cpu_ms(self) -> dict[Stage, float]:
        """CPU milliseconds of each second, by stage."""
        of_mask = {SCALE: self.scale_ms, NETWORK: self.network_ms, LABELS: self.labels_ms, PACK: self.pack_ms}
        looked = {DECODE: self.source_fps * self.decode_ms, GATE: self.masks_fps * self.gate_ms}
        return looked | {stage: self.network_fps * ms for stage, ms in of_mask.items()}

    @property
    def network_fps(self) -> float:
        return self.masks_fps * self.network_share


class Room(msgspec.Struct, frozen=True, kw_only=True):
    """What there is for streams."""

    cores: float
    replicas: int = 1
    threads: int = 1  # of each replica
    memory_mb: float | None = None  # None: not looked at


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What streams take of a Room, as shares: above 1 is more than there is."""

    cpu: float
    by_stage: dict[Stage, float]  # of the CPU that streams take
    thread: str  # that is busiest of those that all streams share
    thread_share: float
    memory: float

    @property
    def most(self) -> float:
        return max(self.cpu, self.thread_share, self.memory)

    @property
    def limit(self) -> str:
        """What limits, in words."""
        if self.most == self.memory:
            return "memory"
        if self.most == self.thread_share:
            return f"{self.thread}, which one thread does for all streams"
        first, *_ = sorted(self.by_stage, key=lambda stage: -self.by_stage[stage])
        return f"{first}, {self.by_stage[first]:.0%} of the CPU time"


def load_of(streams: Iterable[tuple[StreamCost, int]], room: Room) -> Load:
    """What so many streams of each kind take together."""
    stages = dict.fromkeys(STAGES, 0.0)
    infer_ms = memory_mb = 0.0
    for cost, count in streams:
        for stage, ms in cost.cpu_ms().items():
            stages[stage] += count * ms
        wall_ms = cost.network_wall_ms or cost.network_ms / room.threads
        infer_ms += count * cost.network_fps * (cost.scale_ms + wall_ms)
        memory_mb += count * cost.memory_mb
    whole_ms = sum(stages.values())
    threads = {
        "scaling and the network": infer_ms / room.replicas,
        LABELS: stages[LABELS],
        PACK: stages[PACK],
    }
    thread = max(threads, key=lambda name: threads[name])
    return Load(
        cpu=whole_ms / (1000 * room.cores * USABLE) if room.cores > 0 else math.inf,
        by_stage={stage: ms / whole_ms if whole_ms else 0.0 for stage, ms in stages.items()},
        thread=thread,
        thread_share=threads[thread] / 1000,
        memory=memory_mb / room.memory_mb if room.memory_mb else 0.0,
    )


def held(streams: Sequence[tuple[StreamCost, int]], room: Room) -> float:
    """How many streams the machine holds, of these kinds in these proportions, with parts of one.

    0 where a single stream is more than its own thread does, which decodes and looks whether anything moves.
    """
    if any(cost.source_fps * cost.decode_ms + cost.masks_fps * cost.gate_ms > 1000 for cost, _ in streams):
        return 0.0
    most = load_of(streams, room).most
    return sum(count for _, count in streams) / most if most else 0.0


def fitting_fps(streams: Sequence[tuple[StreamCost, int]], room: Room) -> float | None:
    """The highest max_fps with which all of these streams are held; None where decoding alone is too much."""

    def fits(fps: float) -> bool:
        thinned = [
            (msgspec.structs.replace(cost, masks_fps=min(fps, cost.masks_fps)), n) for cost, n in streams
        ]
        return load_of(thinned, room).most <= 1

    low, high = 0.0, max(cost.masks_fps for cost, _ in streams)
    if fits(high):
        return high
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return math.floor(10 * low) / 10 or None
