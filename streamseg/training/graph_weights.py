"""An engine of ours as what a run starts from: its weights read back from the graph that is served."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import torch
from google.protobuf.message import DecodeError
from torch import Tensor, nn

from streamseg.errors import WeightsError
from streamseg.training.networks import GRAPH_PREFIX, Trainable, fold_batch_norm, normalise, scale_input
from streamseg.types import U8


def read_graph(file: Path) -> dict[str, Tensor]:
    """The weights of a graph of ours, under the names that they have in `fold_batch_norm`'s network.

    Raises WeightsError where it cannot be read, or holds none.
    """
    try:
        graph = onnx.load_from_string(file.read_bytes()).graph
        kept = [tensor for tensor in graph.initializer if tensor.name.startswith(GRAPH_PREFIX)]
        found = {t.name.removeprefix(GRAPH_PREFIX): np.array(onnx.numpy_helper.to_array(t)) for t in kept}
    except OSError as error:
        raise WeightsError(f"{file}: cannot be read ({error.strerror})") from error
    except (DecodeError, ValueError, TypeError) as error:
        raise WeightsError(f"{file}: is damaged or not an ONNX graph") from error
    if not found or any(array.dtype != np.float32 for array in found.values()):
        raise WeightsError(
            f"{file}: is not an fp32 graph of streamseg engine export, the only one that can be trained on"
        )
    return {name: torch.from_numpy(array) for name, array in found.items()}


@torch.no_grad()
def unfolded(network: nn.Module, served: dict[str, Tensor], crops: Iterable[U8]) -> dict[str, Tensor]:
    """`served`, in whose convolutions the batch normalisation is folded, under the names of `network`.

    Each normalisation gets the statistics of its layer over `crops`, batches of RGB (N, H, W, 3), and what
    takes them back out: in evaluation the network is the served one, in training close to it. What does not
    fit `network` stays under its own name.
    """
    folded = fold_batch_norm(network)
    own = folded.state_dict()
    fitting = {name: t for name, t in served.items() if name in own and own[name].shape == t.shape}
    folded.load_state_dict(fitting, strict=False)
    scale_input(folded, cast("Trainable", network).std, back=True)
    statistics = _Statistics(network, folded)
    for rgb in crops:
        folded(normalise(rgb, network, next(folded.parameters()).device))
    own, found = network.state_dict(), dict(served)
    found |= {name: t for name, t in folded.state_dict().items() if name in fitting and name in own}
    for name in statistics.biases:
        found.pop(name, None)
    return found | statistics.normalisations(fitting)


class _Statistics:
    """Mean and variance of what comes into each normalisation that `folded` does without."""

    def __init__(self, network: nn.Module, folded: nn.Module) -> None:
        before, parts = dict(network.named_modules()), dict(folded.named_modules())
        norms = [name for name, part in before.items() if isinstance(part, nn.BatchNorm2d)]
        own = network.state_dict()
        self.biases = [name for name in folded.state_dict() if name.endswith(".bias") and name not in own]
        self._norms = {name: (before[name], bias) for name, bias in zip(norms, self.biases, strict=True)}
        self._sums: dict[str, tuple[int, Tensor, Tensor]] = {}
        for name in norms:
            parts[name].register_forward_hook(self._counting(name))

    def _counting(self, name: str) -> Any:
        def count(_: nn.Module, __: object, x: Tensor) -> None:
            values = x.double().transpose(0, 1).flatten(1)
            number, total, squares = self._sums.get(name, (0, torch.zeros(()), torch.zeros(())))
            total, squares = total + values.sum(1), squares + values.square().sum(1)
            self._sums[name] = number + values.shape[1], total, squares

        return count

    def normalisations(self, fitting: dict[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of each normalisation whose layer came from the graph."""
        made = {}
        for name, (norm, bias) in self._norms.items():
            if bias not in fitting or name not in self._sums:
                continue
            assert isinstance(norm, nn.BatchNorm2d)
            number, total, squares = self._sums[name]
            mean = total / number
            variance = (squares / number - mean.square()).clamp(min=1e-6)
            made[f"{name}.running_mean"] = (mean - fitting[bias]).float()
            made[f"{name}.running_var"] = variance.float()
            made[f"{name}.weight"] = (variance + norm.eps).sqrt().float()
            made[f"{name}.bias"] = mean.float()
        return made
