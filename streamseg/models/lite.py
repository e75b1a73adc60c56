"""lite0, lite1 and lite2: EfficientNet-Lite with a light pyramid and skips at 1/8 and 1/4.

The backbone (Tan and Le, 2019, in Google's form without attention and with ReLU6) has released ImageNet
weights. It is dilated to an output stride of 16 or 8 as in DeepLab v3 (Chen et al., 2017); the pyramid and
the decoder are depthwise separable as in v3+ (Chen et al., 2018). lite0 has 3.2 M parameters and 2.6 GMAC at
480x360.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamseg.models.backbones import divisible
from streamseg.models.depthwise import Depthwise

BN_EPS, BN_MOMENTUM = 1e-3, 0.02  # of the backbone
ASPP_RATES = (3, 6, 9)  # at 1/16
DROPOUT = 0.1
STEM = 32
SCALES = {"lite0": (1.0, 1.0), "lite1": (1.0, 1.1), "lite2": (1.1, 1.2)}  # of width and depth


class Stage(NamedTuple):
    """A row of inverted residuals; the first of them has the stride."""

    kernel: int
    stride: int
    expand: int
    outputs: int
    repeats: int


STAGES = (
    Stage(3, 1, 1, 16, 1),
    Stage(3, 2, 6, 24, 2),  # to 1/4
    Stage(5, 2, 6, 40, 2),  # to 1/8
    Stage(3, 2, 6, 80, 3),
    Stage(5, 1, 6, 112, 3),
    Stage(5, 2, 6, 192, 4),
    Stage(3, 1, 6, 320, 1),
)
QUARTER, EIGHTH = 1, 2  # the stages whose outputs the decoder uses


class PadAfter(nn.ConstantPad2d):
    """Zeros below and at the right only: as TensorFlow pads for a stride of 2, and one more for odd sizes.

    Padding moves the grid of the features. The backbone pads like this twice and evenly twice, which keeps
    every feature within 2.5 pixels of the middle of its cell, where upsampling takes it to be.
    """

    def __init__(self) -> None:
        super().__init__((0, 2, 0, 2), 0.0)


class ConvBn(nn.Sequential):
    """A convolution without bias, batch normalisation, and a nonlinearity unless it is linear."""

    def __init__(self, convolution: nn.Conv2d, act: type[nn.Module] | None, backbone: bool = False) -> None:
        eps, momentum = (BN_EPS, BN_MOMENTUM) if backbone else (1e-5, 0.05)
        norm = nn.BatchNorm2d(convolution.out_channels, eps, momentum)
        super().__init__(convolution, norm, *([act()] if act else []))


def _point(
    inputs: int, outputs: int, act: type[nn.Module] | None = nn.ReLU, backbone: bool = False
) -> ConvBn:
    return ConvBn(nn.Conv2d(inputs, outputs, 1, bias=False), act, backbone)


class InvertedResidual(nn.Module):
    """Expand, depthwise, project; added to what came in where the shape stays."""

    def __init__(
        self, stage: Stage, inputs: int, outputs: int, stride: int, dilation: int, pad_after: bool
    ) -> None:
        super().__init__()
        expanded = inputs * stage.expand
        padding = 0 if pad_after else stage.kernel // 2 * dilation
        self.expand = _point(inputs, expanded, nn.ReLU6, backbone=True) if stage.expand > 1 else nn.Identity()
        self.pad = PadAfter() if pad_after else nn.Identity()
        depthwise = Depthwise(expanded, stage.kernel, stride, padding, dilation)
        self.depthwise = ConvBn(depthwise, nn.ReLU6, backbone=True)
        self.project = _point(expanded, outputs, None, backbone=True)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(self.depthwise(self.pad(self.expand(x))))
        return x + y if self.residual else y


class LiteBackbone(nn.Module):
    """The stem and seven stages, of which those at a stride beyond `output_stride` are dilated.

    cut_blocks: residuals left out at the end, at most 8; without the last one what comes out has 192 channels
    instead of 320.
    """

    def __init__(self, name: str = "lite0", output_stride: int = 16, cut_blocks: int = 0) -> None:
        super().__init__()
        wider, deeper = SCALES[name]
        stem = nn.Conv2d(3, STEM, 3, 2, bias=False)
        self.pad = PadAfter()
        self.stem = ConvBn(stem, nn.ReLU6, backbone=True)
        self.stages = nn.ModuleList()
        inputs, at, dilation = STEM, 2, 1
        for stage, repeats in _kept(deeper, cut_blocks):
            outputs = divisible(stage.outputs * wider)
            first, stride, pad_after = dilation, stage.stride, False
            if stride == 2 and at == output_stride:
                stride, dilation = 1, 2 * dilation
            elif stride == 2:
                at, pad_after = 2 * at, at == 8
            blocks = [InvertedResidual(stage, inputs, outputs, stride, first, pad_after)]
            blocks += [
                InvertedResidual(stage, outputs, outputs, 1, dilation, False) for _ in range(repeats - 1)
            ]
            self.stages.append(nn.Sequential(*blocks))
            inputs = outputs
        self.outputs = inputs
        self.fine = tuple(divisible(STAGES[i].outputs * wider) for i in (QUARTER, EIGHTH))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(N, 3, H, W) to features at 1/4, at 1/8, and at the output stride, rounded up."""
        x = self.stem(self.pad(image))  # (N, 32, H/2, W/2)
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features[QUARTER], features[EIGHTH], x

    def blocks(self) -> list[str]:
        """Names of the residuals, in order."""
        return [name for name, part in self.named_modules() if isinstance(part, InvertedResidual)]

    def released_names(self) -> dict[str, str]:
        """The names of the released files (efficientnet-lite*.pth) for the keys of this state dict."""
        prefixes = {"stem.0": "_conv_stem", "stem.1": "_bn0"}
        blocks = self.blocks()
        parts = {"expand": ("_expand_conv", "_bn0"), "depthwise": ("_depthwise_conv", "_bn1")}
        parts["project"] = ("_project_conv", "_bn2")
        for number, block in enumerate(blocks):
            for part, names in parts.items():
                for layer, name in enumerate(names):
                    prefixes[f"{block}.{part}.{layer}"] = f"_blocks.{number}.{name}"
        return {key: _replace_prefix(key, prefixes) for key in self.state_dict()}


class Separable(nn.Sequential):
    """3x3 of each channel, then 1x1, each with its normalisation."""

    def __init__(self, inputs: int, outputs: int, dilation: int = 1) -> None:
        depthwise = Depthwise(inputs, 3, 1, dilation, dilation)
        super().__init__(ConvBn(depthwise, None), _point(inputs, outputs))


class Lite(nn.Module):
    """The network. `forward` gives logits at 1/4; `supervised` also those of the pyramid at 1/8."""

    mean = (127.0, 127.0, 127.0)
    std = (128.0, 128.0, 128.0)

    def __init__(
        self,
        classes: int,
        name: str = "lite0",
        output_stride: int = 16,
        cut_blocks: int = 0,
        width: int = 128,
    ) -> None:
        super().__init__()
        half = width // 2
        self.output_stride = output_stride
        self.backbone = LiteBackbone(name, output_stride, cut_blocks)
        deep = self.backbone.outputs
        quarter, eighth = self.backbone.fine
        self.reduce = _point(deep, width)
        self.aspp = nn.ModuleList(Separable(width, width, rate * 16 // output_stride) for rate in ASPP_RATES)
        self.image = _point(deep, width)
        self.merge = _point(width * (len(ASPP_RATES) + 1), width)
        self.dropout = nn.Dropout2d(DROPOUT)
        self.auxiliary = nn.Conv2d(width, classes, 1)
        self.up8 = _point(width, half, None)
        self.skip8 = _point(eighth, half, None)
        self.refine8 = Separable(half, half)
        self.skip4 = _point(quarter, half, None)
        self.refine4 = Separable(half, half)
        self.classify = nn.Conv2d(half, classes, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        for logits in (self.auxiliary, self.classify):
            nn.init.normal_(logits.weight, std=0.02)
            assert logits.bias is not None
            nn.init.zeros_(logits.bias)

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features at 1/4, at 1/8 and, with context, at the output stride."""
        fine, middle, x = self.backbone(image)  # (N, 24, H/4, W/4), (N, 40, H/8, W/8), (N, 320, H/16, W/16)
        reduced = self.reduce(x)  # (N, 128, H/16, W/16)
        branches = torch.cat([reduced, *(branch(reduced) for branch in self.aspp)], 1)
        return fine, middle, self.merge(branches) + self.image(x.mean((2, 3), keepdim=True))

    def decode(self, fine: Tensor, middle: Tensor, context: Tensor) -> Tensor:
        x = self._to_eighth(self.up8(self.dropout(context)), middle)  # (N, 64, H/8, W/8)
        x = self.refine8(F.relu(x + self.skip8(middle)))
        x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)  # 1/8 -> 1/4
        x = self.refine4(F.relu(x + self.skip4(fine)))  # (N, 64, H/4, W/4)
        logits: Tensor = self.classify(x)
        return logits

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) normalised RGB, H and W multiples of 8, to logits (N, classes, H/4, W/4)."""
        return self.decode(*self.encode(image))

    def supervised(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Logits at 1/4, and at 1/8 those of the pyramid alone."""
        fine, middle, context = self.encode(image)
        return self.decode(fine, middle, context), self._to_eighth(self.auxiliary(context), middle)

    def _to_eighth(self, x: Tensor, middle: Tensor) -> Tensor:
        """From 1/16, rounded up, to the size of `middle` at 1/8, which may be odd."""
        if self.output_stride == 8:
            return x
        x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
        return x[:, :, : middle.shape[2], : middle.shape[3]]


def _kept(deeper: float, cut_blocks: int) -> list[tuple[Stage, int]]:
    """The stages with the number of their residuals, without the last `cut_blocks`."""
    repeats = [1 if stage.repeats == 1 else math.ceil(stage.repeats * deeper) for stage in STAGES]
    for number in reversed(range(len(repeats))):
        cut = min(cut_blocks, repeats[number])
        repeats[number] -= cut
        cut_blocks -= cut
    return [(stage, count) for stage, count in zip(STAGES, repeats, strict=True) if count]


def _replace_prefix(key: str, prefixes: dict[str, str]) -> str:
    prefix, _, last = key.rpartition(".")
    return f"{prefixes[prefix]}.{last}"
