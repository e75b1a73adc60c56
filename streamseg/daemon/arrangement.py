"""How many engines side by side run a network: by what its streams bring, where the settings leave it open.

One engine on all its threads makes each mask young; several of fewer threads each make more masks, since they
wait for each other less.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import NamedTuple

import msgspec

from streamseg.config import EngineConfig, StreamConfig
from streamseg.config.engines import DEFAULT
from streamseg.config.sharing import shared_with
from streamseg.errors import SourceError
from streamseg.inference.backends.device import cuda_missing
from streamseg.sources import is_live

MOST_REPLICAS = 4
"""Each has its own copy of the weights."""
BUSY = 0.6
"""Share of its time: above it, frames wait for one engine so long that younger masks are none."""
USUAL_FPS = 25.0
"""Of a live stream without max_fps, before its first frame."""


class Arrangement(NamedTuple):
    """Settings with the number of replicas, and why it is this one; empty where it was set."""

    config: EngineConfig
    why: str


def demands_of(streams: Mapping[str, StreamConfig], engines: Collection[str]) -> dict[str, float]:
    """Frames a second that the streams of each of these engines bring.

    Infinite with a file that is played as fast as it goes.
    """
    found = dict.fromkeys(engines, 0.0)
    for config in streams.values():
        name = config.engine if config.engine in found else DEFAULT
        source = streams.get(shared_with(config), config)
        found[name] = found.get(name, 0.0) + _fps(config, source)
    return found


def arranged(config: EngineConfig, cores: int, demand_fps: float, alone_s: float | None) -> Arrangement:
    """The settings with replicas chosen, if they are not set.

    config: with its share of the cores. alone_s: a picture in one engine on all its threads; None: not known.
    """
    if config.replicas:
        return Arrangement(config, "")
    threads = config.threads or cores
    if threads == 1 or not (config.backend in ("onnx", "openvino") or cuda_missing()):
        return Arrangement(msgspec.structs.replace(config, replicas=1), "")
    several = msgspec.structs.replace(config, replicas=min(threads, MOST_REPLICAS))
    if math.isinf(demand_fps):
        return Arrangement(several, "for more masks: a file is played as fast as it goes")
    one = msgspec.structs.replace(config, replicas=1)
    if alone_s is None:
        return Arrangement(one, "")
    makes = f"its streams bring up to {demand_fps:g} frames/s, and one engine on {threads} threads makes "
    makes += f"{1 / alone_s:.0f}"
    if demand_fps * alone_s > BUSY:
        return Arrangement(several, f"for more masks: {makes}")
    return Arrangement(one, f"for younger masks: {makes}")


def _fps(config: StreamConfig, source: StreamConfig) -> float:
    try:
        live = is_live(source)
    except SourceError:  # its own thread reports it
        live = True
    return config.max_fps or USUAL_FPS if live else math.inf
