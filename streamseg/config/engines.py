"""The settings of a network and how it is run."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from streamseg.config.labels import LabelsConfig
from streamseg.config.settings import Settings

BackendName = Literal["auto", "onnx", "openvino", "torch", "aoti", "tensorrt", "tensorrt-rtx"]
Precision = Literal["fp32", "fp16", "bf16", "int8"]


class EngineConfig(Settings, frozen=True):
    """The network and how it is run."""

    name: Annotated[
        str, Meta(min_length=1, description="An engine's name (streamseg engine list) or its folder.")
    ] = "camvid-slim"
    backend: Annotated[
        BackendName,
        Meta(description="What runs the network; auto takes the best that works here, and says why."),
    ] = "auto"
    precision: Annotated[
        Precision,
        Meta(
            description="Arithmetic of the network. On a CPU int8 is about twice as fast as fp32, and bf16 "
            "where the processor has it; fp16 is for GPUs."
        ),
    ] = "fp32"
    input_size: Annotated[
        tuple[Annotated[int, Meta(ge=32, le=8192)], Annotated[int, Meta(ge=32, le=8192)]] | None,
        Meta(description="[height, width] that frames are scaled to fit into; unset takes the engine's own."),
    ] = None
    threads: Annotated[
        int, Meta(ge=0, le=256, description="CPU threads of the network; 0 takes one for each core.")
    ] = 0
    replicas: Annotated[
        int,
        Meta(
            ge=1,
            le=64,
            description="Engines side by side for live streams, each with its share of the threads: on a CPU "
            "more masks/s, each of them later; 1 on a GPU.",
        ),
    ] = 1
    max_batch: Annotated[
        int, Meta(ge=1, le=64, description="Frames of different streams run at once, at most.")
    ] = 4
    labels: LabelsConfig = LabelsConfig()
