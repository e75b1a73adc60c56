"""Run what the stages crf and knobs do with CUDA graphs, on the CPU: graphs and streams that do nothing.

    python -m tools.device.checks.standin crf       in Triton's interpreter, some minutes
    python -m tools.device.checks.standin knobs

It shows that the code runs; its times mean nothing.
"""

import contextlib
import os
import sys

os.environ["TRITON_INTERPRET"] = "1"
os.environ["DEVICE_DRY"] = "1"

import torch

from tests.crf_scenes import scene
from tools.device import crf, engines
from tools.device.common import CRF_CLASSES, PARTS, Part


class Stream:
    def wait_stream(self, other: object) -> None: ...

    def synchronize(self) -> None: ...


class Graph:
    def replay(self) -> None: ...


def once(work, *_: object, **__: object) -> float:
    """In place of a measurement."""
    work()
    return 1.0


def main() -> None:
    torch.cuda.Stream = Stream
    torch.cuda.current_stream = lambda *_: Stream()
    torch.cuda.stream = lambda stream: contextlib.nullcontext()
    torch.cuda.CUDAGraph = Graph
    torch.cuda.graph = lambda graph, **_: contextlib.nullcontext()
    torch.cuda.synchronize = lambda *_: None
    for module in (crf, engines):
        module.gpu_ms = module.wall_ms = once
    PARTS.mkdir(parents=True, exist_ok=True)
    part = Part(f"standin-{sys.argv[1]}")
    if sys.argv[1] == "crf":
        logits, image, _ = scene(14, 17, CRF_CLASSES)
        on_device = torch.from_numpy(logits), torch.from_numpy(image)
        loop = crf._crf_loop
        crf._crf_loop = lambda steps, terms, unary, q, iterations=1: loop(steps, terms, unary, q, 1)
        crf.DRY, crf.wait = False, lambda: None
        with part.step("parts"):
            crf._crf_parts(part, on_device, "triton")
        with part.step("blocks"):
            crf._crf_blocks(part, on_device)
    else:
        with part.step("knobs"):
            engines.knobs(part)


if __name__ == "__main__":
    main()
