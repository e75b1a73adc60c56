"""Writes .caffemodel files, in both layouts and every encoding, to read them back in tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from torch import nn

Layout = Literal["V1", "new"]
Encoding = Literal["packed", "unpacked", "double", "unpacked double"]
Array = npt.NDArray[Any]


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def chunk(field: int, content: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(content)) + content


def blob(values: Array, *, encoding: Encoding = "packed", legacy: bool = False) -> bytes:
    """A BlobProto; legacy: its shape as num, channels, height and width."""
    if legacy:
        sides = (1,) * (4 - values.ndim) + values.shape
        shape = b"".join(number(i, side) for i, side in enumerate(sides, 1))
    else:
        shape = chunk(7, chunk(1, b"".join(varint(side) for side in values.shape)))
    flat = values.astype("<f8" if "double" in encoding else "<f4").ravel()
    field = 8 if "double" in encoding else 5
    if encoding.startswith("unpacked"):
        wire = 1 if "double" in encoding else 5
        return shape + b"".join(varint(field << 3 | wire) + v.tobytes() for v in flat)
    return shape + chunk(field, flat.tobytes())


def layer(name: str, blobs: Sequence[bytes], layout: Layout) -> bytes:
    """A field of NetParameter: a layer with its name, bottom, top, type and blobs."""
    if layout == "V1":
        body = chunk(2, b"data") + chunk(3, name.encode()) + chunk(4, name.encode()) + number(5, 4)
        return chunk(2, body + b"".join(chunk(6, b) for b in blobs))
    body = chunk(1, name.encode()) + chunk(2, b"Convolution") + chunk(3, b"data") + chunk(4, name.encode())
    return chunk(100, body + b"".join(chunk(7, b) for b in blobs))


def net(*layers: bytes) -> bytes:
    return chunk(1, b"a net") + b"".join(layers)


def caffemodel(
    network: nn.Module,
    layout: Layout,
    *,
    encoding: Encoding = "packed",
    last: str = "pascal",
    scale_factor: float = 999.98,
) -> bytes:
    """All of the network's weights as the released files have them: `last` names the experiment."""
    layers = []
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            arrays = [module.weight.detach().numpy()]
            arrays += [module.bias.detach().numpy()] if module.bias is not None else []
            blobs = [blob(a, encoding=encoding, legacy=layout == "V1") for a in arrays]
            layers.append(layer(_released(name, last), blobs, layout))
        elif isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            statistics = [module.running_mean.numpy(), module.running_var.numpy()]
            factor = np.array([scale_factor], np.float32)
            blobs = [blob(s * factor, encoding=encoding) for s in statistics] + [blob(factor)]
            layers.append(layer(name, blobs, layout))
            affine = [module.weight.detach().numpy(), module.bias.detach().numpy()]
            blobs = [blob(a, encoding=encoding) for a in affine]
            layers.append(layer("scale" + name.removeprefix("bn"), blobs, layout))
    return net(layer("data", [], layout), *layers)


def _released(name: str, last: str) -> str:
    if name == "fc8":
        return f"fc8_{last}"
    if name.startswith(("fc8_", "fc1_c")):
        stem, _, which = name.partition("_")
        return f"{stem}_{last}_{which}"
    return name
