"""Small networks built as published ones are, with random weights, and their export to ONNX."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _Attention(nn.Module):
    """SegFormer's: keys and values at a coarser grid."""

    def __init__(self, width: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key_value = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.reduce = nn.Conv2d(width, width, reduction, reduction) if reduction > 1 else nn.Identity()
        self.up, self.mix, self.down = (
            nn.Linear(width, 2 * width),
            nn.Conv2d(2 * width, 2 * width, 3, 1, 1, groups=2 * width),
            nn.Linear(2 * width, width),
        )

    def forward(self, x: Tensor) -> Tensor:  # (N, C, h, w)
        n, c, h, w = x.shape
        tokens = self.norm(x.flatten(2).transpose(1, 2))
        small = self.reduce(tokens.transpose(1, 2).reshape(n, c, h, w)).flatten(2).transpose(1, 2)
        query = self.query(tokens).reshape(n, -1, self.heads, c // self.heads).transpose(1, 2)
        key, value = (
            self.key_value(small)
            .reshape(n, -1, 2, self.heads, c // self.heads)
            .permute(2, 0, 3, 1, 4)
            .unbind(0)
        )
        weight = (query @ key.transpose(-2, -1) * (c // self.heads) ** -0.5).softmax(-1)
        tokens = x.flatten(2).transpose(1, 2) + self.out((weight @ value).transpose(1, 2).reshape(n, -1, c))
        inner = self.up(self.norm2(tokens)).transpose(1, 2).reshape(n, -1, h, w)
        tokens = tokens + self.down(F.gelu(self.mix(inner)).flatten(2).transpose(1, 2))
        return tokens.transpose(1, 2).reshape(n, c, h, w)


class SegFormer(nn.Module):
    """Four transformer stages and an MLP decoder: logits at a quarter."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        widths = (16, 24, 32, 48)
        self.patches = nn.ModuleList(
            nn.Conv2d(before, width, 7 if i == 0 else 3, 4 if i == 0 else 2, 3 if i == 0 else 1)
            for i, (before, width) in enumerate(zip((3, *widths), widths, strict=False))
        )
        self.blocks = nn.ModuleList(
            _Attention(width, heads, reduction)
            for width, heads, reduction in zip(widths, (1, 2, 4, 4), (8, 4, 2, 1), strict=True)
        )
        self.linear = nn.ModuleList(nn.Conv2d(width, 32, 1) for width in widths)
        self.head = nn.Sequential(
            nn.Conv2d(128, 32, 1), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, classes, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        levels = []
        for patch, block, linear in zip(self.patches, self.blocks, self.linear, strict=True):
            x = block(patch(x))
            levels.append(linear(x))
        size = levels[0].shape[2:]
        return self.head(torch.cat([F.interpolate(level, size, mode="bilinear") for level in levels], 1))


class BiSeNet(nn.Module):
    """A detail branch and a context branch with global pooling: logits at an eighth."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.detail = nn.Sequential(_conv(3, 16, 2), _conv(16, 24, 2), _conv(24, 32, 2))
        self.context = nn.Sequential(_conv(3, 16, 4), _conv(16, 24, 4), _conv(24, 32, 2))
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(32, 32, 1), nn.Sigmoid())
        self.head = nn.Sequential(_conv(32, 32, 1), nn.Conv2d(32, classes, 1))

    def forward(self, x: Tensor) -> Tensor:
        detail, context = self.detail(x), self.context(x)
        context = F.interpolate(context * self.gate(context), detail.shape[2:], mode="bilinear")
        return self.head(detail + context)


class DeepLab(nn.Module):
    """torchvision's wrapper: a dictionary of logits at full size, the auxiliary head's too."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(_conv(3, 16, 2), _conv(16, 24, 2), _conv(24, 32, 2))
        self.rates = nn.ModuleList(nn.Conv2d(32, 16, 3, 1, rate, rate) for rate in (1, 2, 4))
        self.head, self.aux = nn.Conv2d(48, classes, 1), nn.Conv2d(32, classes, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        inner = self.body(x)
        out = self.head(torch.cat([F.relu(conv(inner)) for conv in self.rates], 1))
        grown = [F.interpolate(y, x.shape[2:], mode="bilinear") for y in (out, self.aux(inner))]
        return dict(zip(("out", "aux"), grown, strict=True))


class UNet(nn.Module):
    """Skips and transposed convolutions: one map at full size."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.first, self.second, self.third = _conv(3, 8, 1), _conv(8, 16, 2), _conv(16, 24, 2)
        self.up2, self.up1 = nn.ConvTranspose2d(24, 16, 2, 2), nn.ConvTranspose2d(32, 8, 2, 2)
        self.head = nn.Conv2d(16, classes, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(x)
        second = self.second(first)
        inner = torch.cat([self.up2(self.third(second)), second], 1)
        return self.head(torch.cat([self.up1(inner), first], 1))


class Wrapped(nn.Module):
    """A network with other things in its graph: `before` and `after` its layers."""

    def __init__(self, network: nn.Module, after: str = "", *, nhwc: bool = False) -> None:
        super().__init__()
        self.network, self.after, self.nhwc = network, after, nhwc

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 3, 1, 2) if self.nhwc else x
        y = self.network(x)
        if "grow" in self.after:
            y = F.interpolate(y, x.shape[2:], mode="bilinear")
        if "softmax" in self.after:
            y = y.softmax(1)
        if "sigmoid" in self.after:
            y = y.sigmoid()
        if "argmax" in self.after:
            y = y.argmax(1)
        if "flat" in self.after:
            y = y[0]
        return y.permute(0, 2, 3, 1) if self.nhwc else y


def _conv(before: int, after: int, stride: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU())


def made(network: nn.Module, seed: int = 0) -> nn.Module:
    """The network with random weights that tell its classes apart."""
    torch.manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.3)
    network.eval()
    return network


def onnx_of(
    network: nn.Module,
    shape: Sequence[int],
    *,
    outputs: Sequence[str] = ("logits",),
    free: bool = True,
    opset: int = 17,
    name: str = "input",
) -> bytes:
    """Export it as most people do; free: of any batch and size."""
    network.eval()  # the exporter brings back the mode that it finds
    axes = {}
    if free:
        rows = {2: "h", 3: "w"} if shape[1] == 3 else {1: "h", 2: "w"}
        axes = {name: {0: "n", **rows}}
    file = io.BytesIO()
    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                network,
                (torch.zeros(tuple(shape)),),
                file,
                dynamo=False,
                opset_version=opset,
                input_names=[name],
                output_names=list(outputs),
                dynamic_axes=axes,
            )
    finally:
        logging.getLogger("torch.onnx").setLevel(level)
    return file.getvalue()


def in_half_precision(graph: bytes) -> bytes:
    """The graph with every float a float16, its input and output too, as converters write it."""
    import numpy as np
    import onnx

    model = onnx.load_from_string(graph)
    half, full = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    tensors = list(model.graph.initializer)
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "to" and attribute.i == full:
                attribute.i = half
            if attribute.HasField("t"):
                tensors.append(attribute.t)
    for tensor in tensors:
        if tensor.data_type == full:
            array = onnx.numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    for port in (*model.graph.input, *model.graph.output):
        port.type.tensor_type.elem_type = half
    del model.graph.value_info[:]
    return bytes(model.SerializeToString())


def beside(graph: bytes, path: Path, data: str = "model.onnx_data") -> Path:
    """Write the graph with its weights in another file."""
    import onnx

    model = onnx.load_from_string(graph)
    onnx.save_model(model, str(path), save_as_external_data=True, location=data, size_threshold=0)
    return path


def with_metadata(graph: bytes, **entries: str) -> bytes:
    """The graph with metadata_props."""
    import onnx

    model = onnx.load_from_string(graph)
    for key, value in entries.items():
        model.metadata_props.add(key=key, value=value)
    return bytes(model.SerializeToString())
