"""Check that a CUDA graph can record each network: no data of the host, no waits, no sizes out of data.

    python -m tools.device.checks.capture [NETWORK...]

Networks are run on tensors without memory, in place of a GPU's: what asks for their numbers fails, and every
operation on a tensor of the CPU, which a GPU would have to be given, is refused. Ends with 1 if there is one.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from streamseg.config import EngineConfig
from streamseg.inference.backends.aoti import traced
from streamseg.inference.backends.protocol import build_spec
from streamseg.inference.backends.torch_graph import GraphModule
from streamseg.inference.spec import read_spec
from streamseg.inference.weights import read_weights

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class OnTheGpu(TorchDispatchMode):
    """Refuses operations that read or make a tensor of the host."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations += 1
        result = func(*args, **(kwargs or {}))
        for one in tree_leaves((args, kwargs, result)):
            if isinstance(one, Tensor) and one.device.type != "meta":
                raise RuntimeError(f"{func}: a tensor {tuple(one.shape)} of the host")
        return result


def operations_of(run: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> int:
    """Run on a batch without memory; the number of operations. Raises what a recording could not hold."""
    image = torch.empty(shape, dtype=torch.uint8, device="meta")
    seen = OnTheGpu()
    with torch.inference_mode(), seen:
        run(image).contiguous()
    return seen.operations


def check(folder: Path, precision: str, exported: bool) -> int:
    """The operations of an engine's network as torch runs it, or as AOTInductor and TensorRT are given it."""
    spec = read_spec(folder)
    module: Any = GraphModule(read_weights(folder, spec, "fp32"), PRECISIONS[precision]).eval()
    module = module.to("meta", memory_format=torch.channels_last)
    shape = (2, 8 * spec.size_multiple, 12 * spec.size_multiple, 3)
    if not exported:
        return operations_of(module, shape)
    config = EngineConfig(name=str(folder), input_size=shape[1:3], max_batch=4)
    return operations_of(traced(module, build_spec(config, folder, spec, "fp32"), "meta").module(), shape)


def main() -> int:
    from tests.narrow import NARROW, narrow_engine

    failed = 0
    for name in sys.argv[1:] or [*NARROW, "camvid-slim"]:
        folder = Path("engines/camvid-slim") if name == "camvid-slim" else narrow_engine(name)
        for precision in PRECISIONS:
            for exported in (False, True):
                form = f"{name} {precision}{', exported' if exported else ''}"
                try:
                    print(f"{form}: {check(folder, precision, exported)} operations", flush=True)
                except RuntimeError as error:
                    failed += 1
                    print(f"{form}: CANNOT BE RECORDED: {' '.join(str(error).split())}", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
