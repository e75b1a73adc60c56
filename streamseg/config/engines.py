"""The settings of networks, how they are run, and which of them a stream is run on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from streamseg.config.labels import LabelsConfig
from streamseg.config.settings import Settings

BackendName = Literal[
    "auto", "onnx", "onnx-cuda", "onnx-tensorrt", "openvino", "torch", "aoti", "tensorrt", "tensorrt-rtx"
]
Precision = Literal["fp32", "fp16", "bf16", "int8"]
PrecisionSetting = Literal["auto", Precision]


class EngineConfig(Settings, frozen=True):
    """The network and how it is run."""

    name: Annotated[
        str, Meta(min_length=1, description="An engine's name (streamseg engine list) or its folder.")
    ] = "camvid-lite"
    backend: Annotated[
        BackendName,
        Meta(description="What runs the network; auto takes the best that works here, and says why."),
    ] = "auto"
    precision: Annotated[
        PrecisionSetting,
        Meta(
            description="Arithmetic of the network. auto: the fastest that this machine has instructions for "
            "(int8 or bf16 on a CPU, bf16 or fp16 on a GPU) and whose labels were found to be as in fp32, "
            "which is looked at once."
        ),
    ] = "auto"
    input_size: Annotated[
        tuple[Annotated[int, Meta(ge=32, le=8192)], Annotated[int, Meta(ge=32, le=8192)]] | None,
        Meta(description="[height, width] that frames are scaled to fit into; unset takes the engine's own."),
    ] = None
    threads: Annotated[
        int,
        Meta(
            ge=0,
            le=256,
            description="CPU threads of the network; 0 takes one for each core, and of several networks each "
            "takes an equal share of the cores that the others' settings leave, at least one.",
        ),
    ] = 0
    replicas: Annotated[
        int,
        Meta(
            ge=0,
            le=64,
            description="Engines side by side for live streams, each with its share of the threads: on a CPU "
            "more masks/s, each of them later. 0 takes 1 where that keeps up with the streams, else up to 4; "
            "1 on a GPU.",
        ),
    ] = 0
    max_batch: Annotated[
        int, Meta(ge=1, le=64, description="Frames of different streams run at once, at most.")
    ] = 4
    labels: LabelsConfig = LabelsConfig()


DEFAULT = "default"
"""What [engine] is called where a stream or a request names it."""


def engine_settings(
    name: str, default: EngineConfig, sections: Mapping[str, EngineConfig]
) -> tuple[str, EngineConfig]:
    """The name by which an engine is known in a daemon, and its settings.

    name: of a section, `default` or empty for [engine], or of any engine, which is then run as
    [engine] would be without other settings.
    """
    if name in ("", DEFAULT):
        return DEFAULT, default
    if name in sections:
        return name, sections[name]
    config = EngineConfig(name=name)
    return (DEFAULT, default) if config == default else (name, config)


def section_conflicts(sections: Mapping[str, EngineConfig]) -> Iterator[str]:
    if DEFAULT in sections:
        yield f"engines.{DEFAULT}: is the name of [engine]; choose another one"


def shared_threads(engines: Mapping[str, EngineConfig], cores: int) -> dict[str, EngineConfig]:
    """The settings with each engine's CPU threads, of all its replicas: the cores shared fairly.

    One engine alone is left as it is. An engine with `threads` set has them; each other one has an equal
    share of the cores that are left, and at least one.
    """
    if len(engines) < 2:
        return dict(engines)
    free = [name for name, config in engines.items() if not config.threads]
    left = cores - sum(config.threads for config in engines.values())
    share = max(1, left // len(free)) if free else 0
    return {
        name: msgspec.structs.replace(config, threads=share) if name in free else config
        for name, config in engines.items()
    }
