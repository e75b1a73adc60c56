"""The hole algorithm is the dense sliding-window response (Chen et al. 2015, section 3.1).

A network that subsamples answers on a coarse grid. Evaluated densely, at every shift of its window, it
answers everywhere; the dilated network without the subsampling computes just that, at once.
"""

from __future__ import annotations

import copy

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from tests.narrow import NARROW, narrow_network  # noqa: E402


def dilated_layers(network: nn.Module) -> list[nn.Conv2d]:
    return [m for m in network.modules() if isinstance(m, nn.Conv2d) and m.dilation != (1, 1)]


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("name", NARROW)
def test_each_dilated_layer_is_the_plain_layer_on_every_phase(name: str) -> None:
    layers = dilated_layers(narrow_network(name).double())
    rates = {layer.dilation[0] for layer in layers}
    with torch.no_grad():
        for layer in layers:
            (rate, rate_x), (pad, pad_x), kernel = layer.dilation, layer.padding, layer.kernel_size[0]
            assert (rate, pad) == (rate_x, pad_x)
            x = random(1, layer.in_channels, 2 * rate + 5, rate + 9)
            padded = F.pad(x, (pad, pad, pad, pad))
            dense = layer(x)
            for a in range(min(rate, dense.shape[2])):
                for b in range(min(rate, dense.shape[3])):
                    phase = padded[:, :, a::rate, b::rate]
                    plain = F.conv2d(phase, layer.weight, layer.bias, groups=layer.groups)
                    got = dense[:, :, a::rate, b::rate]
                    torch.testing.assert_close(got, plain[:, :, : got.shape[2], : got.shape[3]])
            # and it is the window's own scalar product at one place
            if layer.groups == 1:
                window = padded[0, :, 3 : 3 + rate * kernel : rate, 2 : 2 + rate * kernel : rate]
                bias = 0 if layer.bias is None else layer.bias
                torch.testing.assert_close(dense[0, :, 3, 2], (layer.weight * window).sum((1, 2, 3)) + bias)
    expected = {
        "deeplab-v1": {2, 4},
        "deeplab-v1-7x7": {2, 4},
        "deeplab-v1-msc": {2, 4},
        "deeplab-v1-largefov": {2, 12},
        "deeplab-v1-msc-largefov": {2, 12},
        "deeplab-v2-vgg16": {2, 6, 12, 18, 24},
        "deeplab-v2-resnet101": {2, 4, 6, 12, 18, 24},
        "deeplab-v2-resnet101-3scale": {2, 4, 6, 12, 18, 24},
        "deeplabv3-mobilenet-v3-large": {2, 12, 24, 36},
        "deeplabv3-resnet50": {2, 4, 12, 24, 36},
        "deeplabv3-resnet101": {2, 4, 12, 24, 36},
        "lraspp-mobilenet-v3-large": {2},
        "deeplabv3-mobilenet-v2": {2},
        "deeplabv3-mobilenet-v2-dm05": {2},
    }
    assert rates == expected[name]


def test_vggs_conv5_answers_densely_what_the_subsampled_one_answers_at_each_shift() -> None:
    network = narrow_network("deeplab-v1-largefov").double()
    names = ("conv5_1", "conv5_2", "conv5_3")
    x = random(1, 6, 21, 26)

    def answer(x: Tensor, pool: nn.Module, layers: list[nn.Module]) -> Tensor:
        y: Tensor = pool(x)
        for layer in layers:
            y = F.relu(layer(y))
        return y

    with torch.no_grad():
        layers = [network.get_submodule(name) for name in names]
        dense = answer(x, network.get_submodule("pool4"), layers)
        undilated = copy.deepcopy(layers)
        for layer in undilated:
            assert isinstance(layer, nn.Conv2d)
            layer.dilation = layer.padding = (1, 1)
        subsampling = nn.MaxPool2d(3, 2)
        edges = F.pad(x, (1, 1, 1, 1), value=-torch.inf)
        for a in range(2):
            for b in range(2):
                shifted = answer(edges[:, :, a:, b:], subsampling, undilated)
                got = dense[:, :, a::2, b::2]
                torch.testing.assert_close(got, shifted[:, :, : got.shape[2], : got.shape[3]])


def undo_dilation(network: nn.Module, strided: dict[str, tuple[str, ...]]) -> nn.Module:
    """The network as it was for classification: stride 2 in the named layers, no dilation in the others."""
    plain = copy.deepcopy(network)
    for stage, names in strided.items():
        for name, module in plain.named_modules():
            if isinstance(module, nn.Conv2d) and name.startswith(stage):
                if module.kernel_size == (3, 3):
                    module.dilation = module.padding = (1, 1)
                if name in names:
                    module.stride = (2, 2)
    return plain


RES_V2 = {"res4": ("res4a_branch1", "res4a_branch2a"), "res5": ("res5a_branch1", "res5a_branch2a")}
RES_V3 = {
    "layer3": ("layer3.0.conv2", "layer3.0.downsample.0"),
    "layer4": ("layer4.0.conv2", "layer4.0.downsample.0"),
}


@pytest.mark.parametrize("version", ["v2", "v3"])
def test_resnet_answers_densely_what_the_subsampled_one_answers_at_each_shift(version: str) -> None:
    if version == "v2":
        network: nn.Module = narrow_network("deeplab-v2-resnet101").double()
        plain = undo_dilation(network, RES_V2)

        def answer(resnet: nn.Module, x: Tensor) -> Tensor:
            for name in [n for n in resnet.names if n[0] in "45"]:
                x = resnet._block(name, x)
            return x

    else:
        network = narrow_network("deeplabv3-resnet50").double().get_submodule("backbone")
        plain = undo_dilation(network, RES_V3)

        def answer(resnet: nn.Module, x: Tensor) -> Tensor:
            y: Tensor = resnet.get_submodule("layer4")(resnet.get_submodule("layer3")(x))
            return y

    reach = 8  # cells of the coarse grid at whose windows the shifted picture's edge is seen
    x = random(1, 32, 80, 84)
    with torch.no_grad():
        dense = answer(network, x)
        assert dense.shape[2:] == x.shape[2:]
        for a in range(4):
            for b in range(4):
                coarse = answer(plain, x[:, :, a:, b:])
                got = dense[:, :, a::4, b::4]
                rows = slice(reach, got.shape[2] - reach)
                columns = slice(reach, got.shape[3] - reach)
                torch.testing.assert_close(got[:, :, rows, columns], coarse[:, :, rows, columns])
