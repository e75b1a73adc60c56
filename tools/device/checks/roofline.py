"""The least time of a network on a GPU, by the larger of FLOP and bytes of each layer, from shapes alone.

python tools/device/checks/roofline.py, on the CPU with meta tensors. The peaks are an H200's.
"""

import torch
from torch import Tensor, nn

from streamseg.models.slim import Slim
from streamseg.models.zoo import find_network

FLOP_S, BYTE_S = 790e12, 4.3e12
REACHED = 0.6  # of FLOP_S, by a good convolution
LAUNCH_S = 1.5e-6


def floors(name: str, network: nn.Module, size: tuple[int, int], batch: int, element: int = 2) -> None:
    network = network.eval().to("meta")
    layers: list[tuple[int, int]] = []  # FLOP, bytes
    pools: list[int] = []

    def convolution(module: nn.Conv2d, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        kernel = module.kernel_size[0] * module.kernel_size[1]
        flop = 2 * output.numel() * module.in_channels // module.groups * kernel
        layers.append((flop, (inputs[0].numel() + output.numel() + module.weight.numel()) * element))

    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(convolution)
        elif isinstance(module, nn.MaxPool2d | nn.AvgPool2d):
            module.register_forward_hook(lambda m, i, o: pools.append((i[0].numel() + o.numel()) * element))
    network(torch.empty(batch, 3, *size, device="meta"))
    floor = sum(max(flop / FLOP_S, moved / BYTE_S) for flop, moved in layers) + sum(pools) / BYTE_S
    fused = sum(max(flop / (REACHED * FLOP_S), moved / BYTE_S) for flop, moved in layers)
    fused += sum(pools) / BYTE_S + LAUNCH_S * len(layers)
    gflop = sum(flop for flop, _ in layers) / batch / 1e9
    print(
        f"{name} {size} batch {batch}: {gflop:.1f} GFLOP a frame, {len(layers)} convolutions; "
        f"floor {1e3 * floor / batch:.3f} ms a frame ({batch / floor:.0f} frames/s), "
        f"with fused bias and relu at {REACHED:.0%}: {1e3 * fused / batch:.3f} ms ({batch / fused:.0f})"
    )


def main() -> None:
    for batch in (1, 8):
        floors("deeplab-v1-largefov", find_network("deeplab-v1-largefov").build(), (321, 321), batch)
    for batch in (1, 8, 32):
        floors("camvid-slim", Slim(11).stride4(), (360, 480), batch)


if __name__ == "__main__":
    main()
