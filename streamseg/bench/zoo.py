"""Networks of the zoo whose weights are not at hand, with random ones: times do not depend on them."""

from __future__ import annotations

import logging
from pathlib import Path

from streamseg.errors import UsageError
from streamseg.inference.backends.torch import torch_missing
from streamseg.inference.spec import engine_folders, read_spec
from streamseg.models.zoo import NETWORKS
from streamseg.runtime.files import cache_folder

log = logging.getLogger(__name__)

RANDOM = "random"
PICTURES = 6  # that int8 is calibrated on and compared with; enough, since it is not to be good


def is_random(name: str) -> bool:
    """Whether only the zoo knows this name, so that it has no weights but random ones."""
    there = any((folder / name / "engine.toml").is_file() for folder in engine_folders())
    return name in NETWORKS and not there


def kept_engine(name: str, source: str, *, int8: bool) -> Path:
    """The engine of a network of the zoo with random weights, made when it is first asked for, and kept.

    int8: quantise it, too, on pictures of `source`. Takes up to minutes. Raises UsageError without torch.
    """
    if missing := torch_missing():
        raise UsageError(f"{name}: there is no such engine, and to make one with random weights: {missing}")
    folder = cache_folder(RANDOM) / name
    if not (folder / "engine.toml").is_file():
        log.warning("%s: made with random weights: %s", name, folder)
        random_engine(name, folder)
    if int8 and "int8" not in read_spec(folder).weights:
        from streamseg.training.quantise import quantise_engine

        log.warning("%s: int8 is made of it", name)
        quantise_engine(str(folder), source, most=PICTURES)
    return folder


def random_engine(name: str, folder: Path) -> Path:
    """A network of the zoo, its weights random, but so that signals neither vanish nor grow, as an engine."""
    import torch
    from torch import nn

    from streamseg.models.weights import write_engine
    from streamseg.models.zoo import find_network

    torch.manual_seed(0)
    network = find_network(name).build().eval()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return write_engine(network, name, folder)
