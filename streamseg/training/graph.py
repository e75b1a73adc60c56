"""A trained network as an ONNX graph: batch normalisation folded, the picture as uint8, sizes left open."""

from __future__ import annotations

import copy
import logging
import os
import warnings
from pathlib import Path
from typing import cast

import onnx
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from streamseg.errors import TrainingError
from streamseg.models.ablation import Ablation
from streamseg.models.slim import LightAspp, ResidualBlock, Slim
from streamseg.training.loop import MEAN, STD

INPUT, OUTPUT = "image_u8", "logits"
OPSET = 20
TOLERANCE = 1e-3


def write_graph(network: nn.Module, path: Path, stride8: bool = False) -> None:
    """Export `network` to `path`: uint8 RGB (N, H, W, 3) in, float32 logits (N, C, h, w) out.

    N is free, H and W are any multiples of 8. Logits are at 1/4, or with `stride8` the auxiliary ones at 1/8.
    The graph is run beside the network before it is written under its name; TrainingError if they differ.
    """
    served = _Served(network, stride8).eval()
    example = torch.randint(
        0, 256, (2, 64, 96, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    dim = torch.export.Dim
    shapes = {
        0: dim("n", min=1, max=256),
        1: 8 * dim("h8", min=4, max=1024),
        2: 8 * dim("w8", min=4, max=1024),
    }
    beside = path.with_name(path.name + ".part")
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)  # it warns of libraries that nobody asked for
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                served,
                (example,),
                str(beside),
                dynamo=True,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=(shapes,),
                external_data=False,
                verbose=False,
            )
    finally:
        exporter.setLevel(level)
    _forget_where_it_was_made(beside)
    difference = _difference(network, stride8, beside)
    if not difference < TOLERANCE:
        beside.unlink()
        raise TrainingError(
            f"{path}: the exported graph differs from the network by {difference:.2g}; not written"
        )
    os.replace(beside, path)


def fold_batch_norm(network: nn.Module) -> nn.Module:
    """A copy in which every batch normalisation is part of the convolution before it."""
    folded = copy.deepcopy(network).eval()
    for module in list(folded.modules()):
        if isinstance(module, nn.Sequential) and len(module) > 1 and isinstance(module[1], nn.BatchNorm2d):
            module[0], module[1] = _fused(module[0], module[1]), nn.Identity()
        elif isinstance(module, ResidualBlock):
            module.second, module.norm = _fused(module.second, module.norm), _identity()
        elif isinstance(module, LightAspp):
            _fold_sum(module)
        elif isinstance(module, Slim):
            module.skip, module.skip_norm = _fused(module.skip, module.skip_norm), _identity()
    return folded


class _Served(nn.Module):
    """The network as an engine runs it. Of the normalisation only the subtraction is left as a step: the
    division is part of the first convolution's weights. (So could the mean be, but not where the padding is.)
    """

    def __init__(self, network: nn.Module, stride8: bool) -> None:
        super().__init__()
        self.network = fold_batch_norm(network)
        self.stride8 = stride8
        self.mean = nn.Buffer(torch.tensor(MEAN).view(1, 3, 1, 1))
        for first in _first_convolutions(self.network):
            assert isinstance(first, nn.Conv2d)
            first.weight.data /= torch.tensor(STD).view(1, 3, 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        x = image.permute(0, 3, 1, 2).float() - self.mean  # (N, H, W, 3) uint8 -> (N, 3, H, W)
        logits: Tensor = _network(self.network, x, self.stride8)
        return logits


def _network(network: nn.Module, x: Tensor, stride8: bool) -> Tensor:
    return cast("Slim", network).forward_stride8(x) if stride8 else cast("Tensor", network(x))


def _first_convolutions(network: nn.Module) -> list[nn.Module]:
    """Those that see the picture itself."""
    assert isinstance(network, Slim | Ablation)
    stages = [network.stem, *(network.branches[:1] if isinstance(network, Ablation) else ())]
    return [next(module for module in stage.modules() if isinstance(module, nn.Conv2d)) for stage in stages]


def _fused(convolution: nn.Module, norm: nn.Module) -> nn.Conv2d:
    assert isinstance(convolution, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    return fuse_conv_bn_eval(convolution, norm)


def _identity() -> nn.BatchNorm2d:
    return nn.Identity()  # type: ignore[return-value]


def _fold_sum(aspp: LightAspp) -> None:
    """The branches are summed and then normalised: each is scaled, and one of them gets the bias."""
    for branch in (aspp.image, *aspp.atrous):
        assert isinstance(branch, nn.Conv2d)
        scale = aspp.norm.weight / torch.sqrt(_tensor(aspp.norm.running_var) + aspp.norm.eps)
        branch.weight.data = branch.weight.data * scale.detach()[:, None, None, None]
    aspp.point, aspp.norm = _fused(aspp.point, aspp.norm), _identity()


def _tensor(value: Tensor | None) -> Tensor:
    assert value is not None
    return value


def _forget_where_it_was_made(path: Path) -> None:
    """Take out the exporter's stack traces; they name the maker's folders and change with every line."""
    model = onnx.load(path)
    graph = model.graph
    for part in (
        model,
        graph,
        *graph.node,
        *graph.initializer,
        *graph.value_info,
        *graph.input,
        *graph.output,
    ):
        del part.metadata_props[:]
        part.doc_string = ""
    onnx.save(model, path)


def _difference(network: nn.Module, stride8: bool, path: Path) -> float:
    """The largest difference of logits between torch and ONNX Runtime, at a size that was not exported."""
    import onnxruntime as ort

    from streamseg.training.loop import normalise

    rgb = torch.randint(
        0, 256, (1, 72, 104, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    ).numpy()
    with torch.no_grad():
        x = normalise(rgb, torch.device("cpu"))
        want = _network(network, x, stride8)
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    got = torch.from_numpy(session.run(None, {INPUT: rgb})[0])
    return float((got - want).abs().max())
