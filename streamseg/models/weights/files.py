"""Reads weights from .caffemodel, .pth, .pt and .safetensors files."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from streamseg.errors import WeightsError
from streamseg.models.weights.caffe import read_caffemodel
from streamseg.models.weights.matching import caffe_state, fill
from streamseg.models.zoo import find_network

WRAPPERS = ("model", "state_dict")  # checkpoints often keep the state dict under one of these


def import_weights(file: Path, name: str, **changes: Any) -> nn.Module:
    """Build the network `name` of the zoo with the weights of a .caffemodel, .pth, .pt or .safetensors file.

    `changes` go to the network's constructor. Gives it in eval mode. Raises UsageError for an unknown name,
    and WeightsError that lists every layer that is missing, surplus or misshapen.
    """
    entry = find_network(name)
    with torch.device("meta"):  # without memory for weights that are replaced
        network = entry.build(**changes)
    fill(network, read_state(file, network), file)
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
    if suffix in (".pth", ".pt"):
        return _checked(file, _read_torch(file))
    if suffix == ".safetensors":
        return _checked(file, _read_safetensors(file))
    raise WeightsError(f"{file}: must be a .caffemodel, .pth, .pt or .safetensors file")


def _read_torch(file: Path) -> object:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about unexpected pickles, which it then refuses
            return torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise WeightsError(f"{file}: cannot be read ({error.strerror})") from error
    except (
        OSError, RuntimeError, pickle.UnpicklingError, EOFError, ValueError, TypeError, LookupError,
        AttributeError, ImportError,
    ) as error:  # fmt: skip
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise WeightsError(f"{file}: torch cannot read it: {first}") from error


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
        raise WeightsError(f"{file}: is damaged or not a .safetensors file: {error}") from error


def _checked(file: Path, loaded: object) -> dict[str, Tensor]:
    for wrapper in WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(wrapper), Mapping):
            loaded = loaded[wrapper]
    if not isinstance(loaded, Mapping) or not loaded:
        raise WeightsError(f"{file}: has no table of tensors")
    for key, value in loaded.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise WeightsError(f"{file}: {key!r} is not a tensor but a {type(value).__name__}")
    return dict(loaded)
