"""Whether this machine computes a convolution and its gradients right; a child process, since it may crash.

`python -m streamseg.training.kernels` reads Jobs from its standard input, one a line, and prints a line for
each case: the largest relative error of output, gradient of the input and gradient of the weights.
"""

from __future__ import annotations

import sys
from typing import Literal

import msgspec
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamseg.models.convolution import Convolution
from streamseg.models.depthwise import Depthwise

STARTED = "started"


class Case(msgspec.Struct, frozen=True):
    """A convolution as a network has it, and the size of its input."""

    kind: Literal["Conv2d", "Convolution", "Depthwise"]
    inputs: int
    outputs: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    batch: int
    height: int
    width: int


class Job(msgspec.Struct):
    """What to check, in this order."""

    cases: list[Case]
    bf16: bool  # else in fp32
    device: str
    threads: int


def main() -> None:
    """Check the jobs on standard input until it closes."""
    for line in sys.stdin:
        job = msgspec.json.decode(line, type=Job)
        if job.threads:
            torch.set_num_threads(job.threads)
        print(STARTED, flush=True)
        for case in job.cases:
            print(error(case, job.bf16, torch.device(job.device)), flush=True)


def error(case: Case, bf16: bool, device: torch.device) -> float:
    """The largest of the three relative errors on random numbers that bf16 holds exactly; NaN or inf where
    anything is not finite."""
    generator = torch.Generator().manual_seed(1)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).bfloat16().float()

    x = random(case.batch, case.inputs, case.height, case.width)
    weight = random(case.outputs, case.inputs // case.groups, *case.kernel)
    with torch.no_grad():
        size = F.conv2d(
            torch.empty(x.shape, device="meta"), torch.empty(weight.shape, device="meta"), None,
            case.stride, case.padding, case.dilation, case.groups,
        ).shape  # fmt: skip
    gradient = random(*size)
    wanted = reference(case, x, weight, gradient)
    computed = compute(case, x.to(device), weight.to(device), gradient.to(device), bf16)
    return max(
        (_relative(c.float().cpu(), w) for c, w in zip(computed, wanted, strict=True)),
        key=lambda e: e if e == e else float("inf"),
    )


def compute(
    case: Case, x: Tensor, weight: Tensor, gradient: Tensor, bf16: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Output, gradient of `x`, gradient of `weight`, as a training step computes them."""
    layer = _layer(case).to(x.device).train()
    layer.weight.data = weight.contiguous(memory_format=torch.channels_last)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16):
        out = layer(x)
    out.backward(gradient.to(out.dtype))
    assert x.grad is not None
    assert layer.weight.grad is not None
    return out.detach(), x.grad, layer.weight.grad


def reference(case: Case, x: Tensor, weight: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same in float32 by matrix products of unfolded pictures, one picture after the other."""
    groups = case.groups
    matrix = weight.reshape(groups, case.outputs // groups, -1)  # (G, O, I·k·k)
    unfolding = {
        "kernel_size": case.kernel, "dilation": case.dilation, "padding": case.padding, "stride": case.stride,
    }  # fmt: skip
    outputs, gradients, of_weight = [], [], torch.zeros_like(matrix)
    for picture, slope in zip(x, gradient, strict=True):
        columns = F.unfold(picture[None], **unfolding).reshape(groups, matrix.shape[2], -1)
        slope = slope.reshape(groups, matrix.shape[1], -1)
        outputs.append((matrix @ columns).reshape(case.outputs, *gradient.shape[2:]))
        of_weight += slope @ columns.transpose(1, 2)
        back = (matrix.transpose(1, 2) @ slope).reshape(1, -1, slope.shape[2])
        gradients.append(F.fold(back, (case.height, case.width), **unfolding)[0])
    return torch.stack(outputs), torch.stack(gradients), of_weight.reshape(weight.shape)


def case_of(layer: nn.Conv2d, shape: torch.Size) -> Case:
    """The case of a network's layer that is given an input of `shape`."""
    kind = "Conv2d"
    if isinstance(layer, Convolution | Depthwise):
        kind = type(layer).__name__
    return msgspec.convert(
        {
            "kind": kind, "inputs": layer.in_channels, "outputs": layer.out_channels,
            "kernel": layer.kernel_size, "stride": layer.stride, "padding": layer.padding,
            "dilation": layer.dilation, "groups": layer.groups,
            "batch": shape[0], "height": shape[2], "width": shape[3],
        },
        Case,
    )  # fmt: skip


def _layer(case: Case) -> nn.Conv2d:
    if case.kind == "Depthwise":
        return Depthwise(case.inputs, case.kernel[0], case.stride[0], case.padding[0], case.dilation[0])
    kind = Convolution if case.kind == "Convolution" else nn.Conv2d
    return kind(
        case.inputs,
        case.outputs,
        case.kernel,
        case.stride,
        case.padding,
        case.dilation,
        case.groups,
        bias=False,
    )


def _relative(computed: Tensor, wanted: Tensor) -> float:
    return float((computed - wanted).norm() / wanted.norm().clamp(min=1e-12))


if __name__ == "__main__":
    main()
