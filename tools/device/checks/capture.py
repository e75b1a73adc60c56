"""Print the operations of each network that a CUDA graph cannot record: host data, waits, dynamic sizes.

python tools/device/checks/capture.py, on the CPU.
"""

import collections
import tempfile
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from streamseg.inference.backends.torch_graph import GraphModule
from streamseg.inference.spec import read_spec
from streamseg.inference.weights import read_weights
from streamseg.models.export import write_engine
from tests.narrow import NARROW, narrow_network

UNSAFE = (
    "lift_fresh", "_local_scalar_dense", "nonzero", "masked_select", "item", "index.Tensor", "unique",
    "scalar_tensor", "arange", "full", "zeros", "empty",
)  # fmt: skip


class Watch(TorchDispatchMode):
    """Counts the operations, and those that may be unsafe."""

    def __init__(self) -> None:
        super().__init__()
        self.unsafe: collections.Counter[str] = collections.Counter()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        if any(name in str(func) for name in UNSAFE):
            self.unsafe[str(func)] += 1
        return func(*args, **(kwargs or {}))


def main() -> None:
    for name in [*NARROW, "camvid-slim"]:
        folder = Path("engines/camvid-slim")
        if name != "camvid-slim":
            folder = Path(tempfile.mkdtemp())
            write_engine(narrow_network(name, classes=21), name, folder)
        spec = read_spec(folder)
        side = spec.size_multiple
        for dtype in (torch.float32, torch.bfloat16):
            module = GraphModule(read_weights(folder, spec, "fp32"), dtype).eval()
            module = module.to(memory_format=torch.channels_last)
            with torch.inference_mode(), Watch() as watch:
                module(torch.zeros(2, 8 * side, 12 * side, 3, dtype=torch.uint8)).contiguous()
            print(name, dtype, dict(watch.unsafe), "of", watch.count, "operations", flush=True)


if __name__ == "__main__":
    main()
