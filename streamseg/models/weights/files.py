"""Reads weights from .caffemodel, .pth, .pt, .safetensors and .tflite files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from streamseg.errors import WeightsError
from streamseg.models.weights.caffe import read_caffemodel
from streamseg.models.weights.matching import caffe_state, classes_in, fill, tflite_state
from streamseg.models.weights.tflite import read_tflite
from streamseg.models.weights.torch_file import TABLES, load_tensors, tables_of, unprefixed
from streamseg.models.zoo import find_network
from streamseg.runtime.file_kinds import kind_of

SUFFIXES = (".pth", ".pt", ".ckpt", ".bin", ".tar")  # of torch's files


def import_weights(file: Path, name: str, **changes: Any) -> nn.Module:
    """Build the network `name` of the zoo with the weights of a file.

    `changes` go to the network's constructor; unset, `classes` is as many as the file has. Gives it in eval
    mode. Raises UsageError for an unknown name, and WeightsError that lists every layer that is missing,
    surplus or misshapen.
    """
    entry = find_network(name)
    with torch.device("meta"):  # without memory for weights that are replaced
        network = entry.build(**changes)
    state = read_state(file, network)
    if "classes" not in changes and (classes := classes_in(state, network, entry.classes)):
        with torch.device("meta"):
            network = entry.build(**changes, classes=classes)
    fill(network, state, file)
    return network.eval()


def read_state(file: Path, network: nn.Module) -> dict[str, Tensor]:
    """The tensors of `file` under the names of `network`; raises WeightsError."""
    suffix = file.suffix.lower()
    if suffix == ".caffemodel":
        layers = read_caffemodel(file)
        try:
            return caffe_state(layers, network)
        except WeightsError as error:
            raise WeightsError(f"{file}: {error}") from error
    if suffix == ".tflite":
        return tflite_state(read_tflite(file), file)
    if suffix in (*SUFFIXES, ".safetensors"):
        loaded = _read_safetensors(file) if suffix == ".safetensors" else load_tensors(file)
        return unprefixed(_checked(file, loaded), network.state_dict())
    raise WeightsError(f"{file}: must be a .caffemodel, .pth, .pt, .safetensors or .tflite file")


def _read_safetensors(file: Path) -> object:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise WeightsError(
            f"{file}: reading it needs safetensors; install it with: pip install 'streamseg[torch]'"
        ) from error
    try:
        return load_file(file)
    except OSError as error:
        raise WeightsError(f"{file}: cannot be read ({error.strerror or error})") from error
    except SafetensorError as error:
        with file.open("rb") as opened:
            kind = kind_of(opened.read(64))
        reason = f"it is {kind}" if kind else str(error)
        raise WeightsError(f"{file}: is damaged or not a .safetensors file: {reason}") from error


def _checked(file: Path, loaded: object) -> dict[str, Tensor]:
    table = tables_of(loaded)
    if table is None:
        raise WeightsError(f"{file}: has no table of tensors")
    if not any(isinstance(value, Tensor) for value in table.values()):
        names = ", ".join(map(str, list(table)[:6]))
        raise WeightsError(f"{file}: has no tensors, but {names}; they must be in one of {', '.join(TABLES)}")
    tensors = {}
    for key, value in table.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise WeightsError(f"{file}: {key!r} is not a tensor but a {type(value).__name__}")
        tensors[key] = value.detach()
    return tensors
