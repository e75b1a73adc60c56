"""Depthwise convolution whose backward pass in bf16 on a CPU avoids the slow kernels of oneDNN."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Depthwise(nn.Conv2d):
    """A convolution of each channel with its own kernel, without bias."""

    def __init__(
        self, channels: int, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1
    ) -> None:
        super().__init__(channels, channels, kernel, stride, padding, dilation, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or not torch.is_autocast_enabled("cpu") or not torch.is_grad_enabled():
            return super().forward(x)
        x = x.to(torch.get_autocast_dtype("cpu"))
        out: Tensor = _DepthwiseOnCpu.apply(  # type: ignore[no-untyped-call]
            x, self.weight, self.stride[0], int(self.padding[0]), self.dilation[0]
        )
        return out


class _DepthwiseOnCpu(torch.autograd.Function):
    """The gradient of the input as a convolution of its own, with stride 1, of the spread-out gradient.

    In bf16 oneDNN's own is slow for strides and dilations: a step of lite0 takes half the time. So is its
    gradient of 5x5 weights, which is computed in float32. In float32 nothing is gained.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, padding: int, dilation: int) -> Tensor:
        weight = weight.to(x.dtype)
        ctx.save_for_backward(x, weight)
        ctx.geometry = stride, padding, dilation
        return F.conv2d(x, weight, None, stride, padding, dilation, x.shape[1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, None, None, None]:
        (gradient,) = gradients
        x, weight = ctx.saved_tensors
        stride, padding, dilation = ctx.geometry
        channels, kernel = x.shape[1], weight.shape[2]
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        of_input = None
        if ctx.needs_input_grad[0]:
            spread = (
                gradient if stride == 1 else _spread(gradient, x, stride, padding, dilation * (kernel - 1))
            )
            mirrored = weight.flip(2, 3)
            edge = dilation * (kernel - 1) - padding
            of_input = F.conv2d(spread, mirrored, None, 1, edge, dilation, channels)
        if kernel > 3:
            x, gradient, weight = x.float(), gradient.float(), weight.float()
        of_weight = torch.ops.aten.convolution_backward(
            gradient, x, weight, None, [stride] * 2, [padding] * 2, [dilation] * 2, False, [0, 0], channels,
            [False, True, False],
        )[1]  # fmt: skip
        return of_input, of_weight.float(), None, None, None


def _spread(gradient: Tensor, x: Tensor, stride: int, padding: int, reach: int) -> Tensor:
    """`gradient` (N, C, h, w) with zeros between its values, of the size that stride 1 would have given."""
    less = reach - 2 * padding
    size = (x.shape[0], x.shape[1], x.shape[2] - less, x.shape[3] - less)
    spread = torch.zeros(size, dtype=gradient.dtype).contiguous(memory_format=torch.channels_last)
    rows, columns = ((side - 1) * stride + 1 for side in gradient.shape[2:])
    spread[:, :, :rows:stride, :columns:stride] = gradient
    return spread
