"""Matches the names and shapes of a file with those of a network, and lists everything that does not fit."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from streamseg.errors import WeightsError
from streamseg.models.weights.caffe import Layers

SHARED_SCALES = re.compile(r"res075|res05")  # the other two of three scales repeat the first one's weights
IGNORED_KEYS = ("aux_classifier.",)  # torchvision's second head, which only training uses
MOST_LISTED = 12

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


def fill(network: nn.Module, state: Mapping[str, Tensor], file: object) -> None:
    """Load `state` into `network`; raises WeightsError that lists missing and surplus keys and wrong shapes.

    A shape may differ in axes of length 1, as in old Caffe files. The tensors become the network's own.
    """
    wanted = network.state_dict()
    given = {key: value for key, value in state.items() if not key.startswith(IGNORED_KEYS)}
    missing = [key for key in wanted if key not in given and not key.endswith("num_batches_tracked")]
    surplus = [key for key in given if key not in wanted]
    misshapen, ready = [], {}
    for key, want in wanted.items():
        have = given.get(key)
        if have is None:
            if key.endswith("num_batches_tracked"):
                ready[key] = torch.tensor(0)
        elif _long_axes(have.shape) != _long_axes(want.shape):
            misshapen.append(f"{key} {tuple(have.shape)} instead of {tuple(want.shape)}")
        else:
            ready[key] = have.to(want.dtype).reshape(want.shape).contiguous()
    problems = [
        f"{what}: {_listed(names)}"
        for what, names in (("missing", missing), ("surplus", surplus), ("of another shape", misshapen))
        if names
    ]
    if problems:
        raise WeightsError(f"{file}: does not fit the network\n" + "\n".join(problems))
    network.load_state_dict(ready, strict=True, assign=True)


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
