"""EfficientNet-Lite as a segmentation network: shapes, dilation, the grid, the depthwise gradient in bf16."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch.nn import functional as F  # noqa: E402

from streamseg.models.depthwise import Depthwise  # noqa: E402
from streamseg.models.lite import Lite, LiteBackbone  # noqa: E402

PARAMETERS = {"lite0": 2_958_848, "lite1": 3_723_520, "lite2": 4_357_952}  # of the released file's body


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_backbone_has_the_released_parameters(name: str) -> None:
    with torch.device("meta"):
        backbone = LiteBackbone(name)
    assert sum(p.numel() for p in backbone.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("size", [(64, 96), (72, 104)])
def test_logits_come_at_a_quarter_and_those_of_the_pyramid_at_an_eighth(
    output_stride: int, size: tuple[int, int]
) -> None:
    network = Lite(3, "lite0", output_stride, width=16).eval()
    height, width = size
    with torch.no_grad():
        logits, auxiliary = network.supervised(torch.zeros(2, 3, height, width))
        features = network.backbone(torch.zeros(1, 3, height, width))
    assert logits.shape == (2, 3, height // 4, width // 4)
    assert auxiliary.shape == (2, 3, height // 8, width // 8)
    assert features[2].shape[2:] == (-(-height // output_stride), -(-width // output_stride))


def test_without_its_last_stage_the_backbone_ends_with_192_channels() -> None:
    whole, cut = LiteBackbone("lite0"), LiteBackbone("lite0", cut_blocks=1)
    assert (whole.outputs, cut.outputs) == (320, 192)
    assert cut.state_dict().keys() < whole.state_dict().keys()


@pytest.mark.parametrize("name", ["lite0", "lite2"])
def test_blocks_are_cut_from_the_end_as_far_as_the_output_stride_allows(name: str) -> None:
    whole = len(LiteBackbone(name).blocks())
    for cut in range(9):
        backbone = LiteBackbone(name, cut_blocks=cut).eval()
        assert len(backbone.blocks()) == whole - cut
    with torch.no_grad():
        assert backbone(torch.zeros(1, 3, 64, 96))[2].shape == (1, backbone.outputs, 4, 6)


def test_released_names_are_those_of_the_files() -> None:
    names = LiteBackbone("lite0").released_names()
    assert names["stem.0.weight"] == "_conv_stem.weight"
    assert names["stem.1.running_var"] == "_bn0.running_var"
    assert names["stages.0.0.depthwise.0.weight"] == "_blocks.0._depthwise_conv.weight"
    assert names["stages.1.1.expand.1.bias"] == "_blocks.2._bn0.bias"
    assert names["stages.6.0.project.1.weight"] == "_blocks.15._bn2.weight"
    assert len(set(names.values())) == len(names)


def test_the_features_lie_in_the_middle_of_their_cells() -> None:
    """Where the picture moves by 16 pixels, the features at 1/16 move by one cell, also at odd sizes."""
    torch.manual_seed(0)
    backbone = LiteBackbone("lite0").eval()
    picture = torch.zeros(1, 3, 200, 200)
    picture[:, :, 96:104, 96:104] = torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        deep = backbone(picture)[2]
        moved = backbone(picture.roll((16, -32), (2, 3)))[2]
    torch.testing.assert_close(deep.roll((1, -2), (2, 3))[:, :, 5:9, 5:9], moved[:, :, 5:9, 5:9])


@pytest.mark.parametrize(
    ("kernel", "stride", "dilation"), [(3, 1, 1), (3, 2, 1), (5, 2, 1), (5, 1, 2), (3, 1, 6)]
)
def test_the_depthwise_gradient_is_that_of_float64(kernel: int, stride: int, dilation: int) -> None:
    torch.manual_seed(0)
    layer = Depthwise(24, kernel, stride, kernel // 2 * dilation, dilation)
    x = torch.randn(2, 24, 21, 30).bfloat16().float().requires_grad_()
    layer.weight.data = layer.weight.data.bfloat16().float()
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x)
    assert out.dtype == torch.bfloat16
    gradient = torch.randn(out.shape).bfloat16()
    out.backward(gradient)
    x64, w64 = x.detach().double().requires_grad_(), layer.weight.detach().double().requires_grad_()
    F.conv2d(x64, w64, None, stride, layer.padding, dilation, 24).backward(gradient.double())
    for got, want in ((x.grad, x64.grad), (layer.weight.grad, w64.grad)):
        assert (got.double() - want).norm() < 0.01 * want.norm()
