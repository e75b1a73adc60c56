"""Matches the names and shapes of a file with those of a network, and lists everything that does not fit."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from streamseg.errors import WeightsError
from streamseg.models.weights.caffe import Layers
from streamseg.models.weights.tflite import Graph

SHARED_SCALES = re.compile(r"res075|res05")  # the other two of three scales repeat the first one's weights
IGNORED_KEYS = ("aux_classifier.",)  # torchvision's second head, which only training uses
MOST_LISTED = 4

# The last layers are named after the experiment: fc8_pascal, fc8_voc12_2, fc1_voc12_c0.
_LAST = (
    (re.compile(r"^(fc8)_.*?_?([1-4])$"), r"\1_\2"),
    (re.compile(r"^(fc1)_.*?_?(c[0-3])$"), r"\1_\2"),
    (re.compile(r"^(fc8)_.+$"), r"\1"),
)


def caffe_state(layers: Layers, network: nn.Module) -> dict[str, Tensor]:
    """A state dict for `network`, whose modules are named as Caffe's layers, from a .caffemodel.

    Statistics of a BatchNorm layer are divided by its scale factor; a Scale layer becomes the weight and bias
    of the normalisation before it. Layers that the network does not have keep their names, to be listed.
    """
    modules = {name for name, module in network.named_modules() if not list(module.children())}
    state: dict[str, Tensor] = {}
    for layer, blobs in layers.items():
        if SHARED_SCALES.search(layer):
            continue
        name = layer if layer in modules else _renamed(layer, modules)
        module = network.get_submodule(name) if name in modules else None
        if layer.startswith("scale") and isinstance(module, nn.BatchNorm2d):
            parts = ("weight", "bias")
        elif isinstance(module, nn.BatchNorm2d):
            blobs = _statistics(layer, blobs)
            parts = ("running_mean", "running_var")
            state[f"{name}.num_batches_tracked"] = torch.tensor(0)
        else:
            parts = ("weight", "bias")
        for i, blob in enumerate(blobs):
            key = f"{name}.{parts[i] if i < len(parts) else f'blob{i}'}"
            if key in state:
                raise WeightsError(f"layer {layer!r} appears twice, as {key}")
            state[key] = torch.from_numpy(np.array(blob))
    return state


def tflite_state(graph: Graph, file: object) -> dict[str, Tensor]:
    """A state dict of a .tflite graph's convolutions, dequantised, by the names that their weights have.

    `MobilenetV2/expanded_conv_1/expand/Conv2D_Fold;…` are the weights of MobilenetV2.expanded_conv_1.expand.
    Raises WeightsError.
    """
    state: dict[str, Tensor] = {}
    for op in graph.operators:
        if op.kind not in ("CONV_2D", "DEPTHWISE_CONV_2D") or len(op.inputs) < 3:
            continue
        weight, bias = (graph.tensors[i] for i in op.inputs[1:3])
        name = weight.name.partition(";")[0].rpartition("/")[0].replace("/", ".")
        if weight.data is None or bias.data is None or weight.data.ndim != 4:
            raise WeightsError(f"{file}: the weights of {name or op.kind} are computed")
        if f"{name}.weight" in state:
            raise WeightsError(f"{file}: two convolutions are named {name!r}")
        axes = (0, 3, 1, 2) if op.kind == "CONV_2D" else (3, 0, 1, 2)
        state[f"{name}.weight"] = torch.from_numpy(np.ascontiguousarray(weight.real.transpose(axes)))
        state[f"{name}.bias"] = torch.from_numpy(bias.real)
    return state


def fill(network: nn.Module, state: Mapping[str, Tensor], file: object) -> None:
    """Load `state` into `network`; raises WeightsError that lists missing and surplus keys and wrong shapes.

    A shape may differ in axes of length 1, as in old Caffe files. The tensors become the network's own.
    """
    wanted = network.state_dict()
    given = {key: value for key, value in state.items() if not key.startswith(IGNORED_KEYS)}
    missing = [key for key in wanted if key not in given and not key.endswith("num_batches_tracked")]
    surplus = [key for key in given if key not in wanted]
    misshapen, unusable, ready = [], [], {}
    for key, want in wanted.items():
        have = given.get(key)
        if have is None:
            if key.endswith("num_batches_tracked"):
                ready[key] = torch.tensor(0)
        elif _long_axes(have.shape) != _long_axes(want.shape):
            misshapen.append(f"{key} {tuple(have.shape)} instead of {tuple(want.shape)}")
        elif problem := _unusable(have, want):
            unusable.append(f"{key} {problem}")
        else:
            value = have.to(want.dtype).reshape(want.shape).contiguous()
            if not torch.isfinite(value).all():
                unusable.append(f"{key} has NaN or infinite values")
            ready[key] = value
    problems = [
        f"{what}: {_listed(names)}"
        for what, names in (
            ("missing", missing),
            ("surplus", surplus),
            ("of another shape", misshapen),
            ("not usable", unusable),
        )
        if names
    ]
    if problems:
        raise WeightsError(f"{file}: does not fit the network; " + "; ".join(problems))
    network.load_state_dict(ready, strict=True, assign=True)


def classes_in(state: Mapping[str, Tensor], network: nn.Module, classes: int) -> int | None:
    """How many classes the weights are for, where they fit a network of another number; else None."""
    other = {
        have.shape[0]
        for key, want in network.state_dict().items()
        if (have := state.get(key)) is not None
        and have.dim() == want.dim() > 0
        and have.shape[0] != want.shape[0] == classes
        and have.shape[1:] == want.shape[1:]
    }
    return other.pop() if len(other) == 1 and min(other) > 1 else None


def _unusable(have: Tensor, want: Tensor) -> str:
    """Why a tensor cannot be weights of a network; empty where it can."""
    if have.is_quantized:
        return f"is quantised ({have.dtype}): take the weights from before quantisation"
    if have.is_meta:
        return "has no values (torch's meta device)"
    if have.layout != torch.strided:
        return f"is sparse ({have.layout}): save it as a dense tensor"
    if want.is_floating_point() and not have.is_floating_point():
        return f"is {have.dtype}, not floating point"
    return f"is {have.dtype}" if have.is_complex() else ""


def _renamed(layer: str, modules: set[str]) -> str:
    if layer.startswith("scale") and f"bn{layer[5:]}" in modules:
        return f"bn{layer[5:]}"
    for pattern, name in _LAST:
        renamed = pattern.sub(name, layer)
        if renamed != layer and renamed in modules:
            return renamed
    return layer


def _statistics(layer: str, blobs: list[np.ndarray[tuple[int, ...], np.dtype[np.float32]]]) -> list[
    np.ndarray[tuple[int, ...], np.dtype[np.float32]]
]:  # fmt: skip
    """Mean and variance: Caffe keeps their running sums and, in a third blob, what to divide them by."""
    if len(blobs) != 3 or blobs[2].size != 1:
        raise WeightsError(f"layer {layer!r}: a BatchNorm has three blobs, the last of one number")
    scale = float(blobs[2].reshape(()))
    factor = 0.0 if scale == 0 else 1.0 / scale
    return [blobs[0] * np.float32(factor), blobs[1] * np.float32(factor)]


def _long_axes(shape: Iterable[int]) -> list[int]:
    return [side for side in shape if side != 1]


def _listed(names: list[str]) -> str:
    more = len(names) - MOST_LISTED
    return ", ".join(names[:MOST_LISTED]) + (f" and {more} more" if more > 0 else "")
