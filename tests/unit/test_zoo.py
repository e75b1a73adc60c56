"""The networks are those of the papers: parameters, multiply-adds and the sizes of what comes out."""

from __future__ import annotations

import functools

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from streamseg.crf.presets import PRESETS  # noqa: E402
from streamseg.errors import UsageError  # noqa: E402
from streamseg.models.deeplab_v1 import PLAIN, SEVEN, DeepLabV1, Head  # noqa: E402
from streamseg.models.slim import count_macs  # noqa: E402
from streamseg.models.zoo import NETWORKS, VOC21, find_network  # noqa: E402

# Millions of parameters, and GMAC at 321 and 513, as published or counted from the published layers.
TABLE = {
    "deeplab-v1-msc": (66.35, 133, 336),
    "deeplab-v1-largefov": (20.505, 50.9, 128.6),
    "deeplab-v1-msc-largefov": (21.71, 58.3, 147.3),
    "deeplab-v2-vgg16": (37.88, 80.1, 202),
    "deeplab-v2-resnet101": (44.05, 75.1, 188.9),
    "deeplab-v2-resnet101-3scale": (44.05, 137.8, 344.9),
}
TORCHVISION_FILES = {
    "deeplabv3-mobilenet-v3-large": 11_029_328,
    "deeplabv3-resnet50": 42_004_074,
    "deeplabv3-resnet101": 60_996_202,
    "lraspp-mobilenet-v3-large": 3_221_538,
}


@functools.cache
def on_paper(name: str) -> nn.Module:
    """The full network without memory for its weights."""
    with torch.device("meta"):
        return NETWORKS[name].build().eval()


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def gmac(network: nn.Module, side: int) -> float:
    with torch.device("meta"):
        return count_macs(network, (side, side)) / 1e9


def side(name: str, size: int) -> int:
    with torch.device("meta"):
        logits = on_paper(name)(torch.zeros(1, 3, size, size))
    assert logits.shape[:2] == (1, 21)
    assert logits.shape[2] == logits.shape[3]
    return int(logits.shape[2])


@pytest.mark.parametrize("name", TABLE)
def test_parameters_and_multiply_adds_equal_the_table(name: str) -> None:
    million, at_321, at_513 = TABLE[name]
    digits = len(str(million).partition(".")[2])
    assert round(parameters(on_paper(name)) / 1e6, digits) == million
    for size, want in ((321, at_321), (513, at_513)):
        digits = 0 if isinstance(want, int) else 1
        got = gmac(on_paper(name), size)
        assert round(got, digits) == want
        assert round(got, 1) == NETWORKS[name].gmac[size, size]


@pytest.mark.parametrize(
    ("name", "head", "million", "at_321", "at_513"),
    [("deeplab-v1", PLAIN, 65.14, 126, 317), ("deeplab-v1-7x7", SEVEN, 134.35, 242, 610)],
)
def test_plain_heads_equal_the_table_where_the_grid_lines_up(
    name: str, head: Head, million: float, at_321: int, at_513: int
) -> None:
    # The table counts them on 41 and 65 cells; their own 2x2 pools give 42 and 66.
    assert round(parameters(on_paper(name)) / 1e6, 2) == million
    with torch.device("meta"):
        lined_up = DeepLabV1(head).eval()
    assert [round(gmac(lined_up, size)) for size in (321, 513)] == [at_321, at_513]
    own = [round(gmac(on_paper(name), size), 1) for size in (321, 513)]
    assert own == list(NETWORKS[name].gmac.values())


def test_parameters_equal_torchvisions_released_files() -> None:
    assert {name: NETWORKS[name].parameters for name in TORCHVISION_FILES} == TORCHVISION_FILES


@pytest.mark.parametrize("name", NETWORKS)
def test_the_zoos_parameters_are_the_networks(name: str) -> None:
    auxiliary = name.startswith("deeplabv3") and "mobilenet-v2" not in name
    changes = {"auxiliary": True} if auxiliary else {}
    with torch.device("meta"):
        assert parameters(NETWORKS[name].build(**changes)) == NETWORKS[name].parameters


@pytest.mark.parametrize("name", ["deeplab-v1", "deeplab-v1-7x7"])
def test_plain_deeplab_lines_up_at_306_and_514(name: str) -> None:
    # 41 cells, times eight with corners in line 321 pixels, less 7 and 8 pixels the picture's 306; so 514
    assert (side(name, 306) - 1) * 8 + 1 - 15 == 306
    assert (side(name, 514) - 1) * 8 + 1 - 15 == 514
    assert [side(name, size) for size in (305, 321, 513, 320, 200)] == [40, 42, 66, 42, 27]


@pytest.mark.parametrize(
    "name",
    ["deeplab-v1-largefov", "deeplab-v2-vgg16", "deeplab-v2-resnet101", "deeplab-v2-resnet101-3scale"],
)
def test_the_others_line_up_at_321_and_513(name: str) -> None:
    assert (side(name, 321) - 1) * 8 + 1 == 321
    assert (side(name, 513) - 1) * 8 + 1 == 513


@pytest.mark.parametrize(
    ("name", "sides"),
    [
        # Caffe rounds up: 200 -> 101 -> 51 -> 26, 306 -> 154 -> 78 -> 40
        ("deeplab-v1-largefov", [40, 66, 26, 2]),
        ("deeplab-v2-vgg16", [40, 66, 26, 2]),
        # its first convolution rounds down: 200 -> 100 -> 51 -> 26, 306 -> 153 -> 77 -> 39
        ("deeplab-v2-resnet101", [39, 65, 26, 2]),
        ("deeplabv3-resnet50", [39, 65, 25, 1]),
        ("deeplabv3-resnet101", [39, 65, 25, 1]),
        ("deeplabv3-mobilenet-v3-large", [20, 33, 13, 1]),
        ("lraspp-mobilenet-v3-large", [39, 65, 25, 1]),
        ("deeplabv3-mobilenet-v2", [20, 33, 13, 1]),
        ("deeplabv3-mobilenet-v2-dm05", [20, 33, 13, 1]),
    ],
)
def test_sizes_that_do_not_line_up_give_golden_sizes(name: str, sides: list[int]) -> None:
    assert [side(name, size) for size in (306, 514, 200, 7)] == sides


@pytest.mark.parametrize("name", ["deeplab-v1-msc", "deeplab-v1-msc-largefov"])
def test_multi_scale_sums_have_the_pictures_size(name: str) -> None:
    assert [side(name, size) for size in (306, 514, 321, 513, 200)] == [306, 514, 321, 513, 200]


def test_every_network_is_21_classes_with_a_crf_preset_where_the_papers_have_one() -> None:
    assert len(VOC21) == 21
    for network in NETWORKS.values():
        assert network.classes == 21
        assert network.crf_preset in PRESETS if network.gmac else network.crf_preset is None
        assert all(side % network.size_multiple == 0 for side in network.input_size)


def test_voc_colours_are_the_bits_of_the_class() -> None:
    for i, colour in enumerate(VOC21.values()):
        bits = [i >> n & 1 for n in range(6)]
        assert colour == tuple(bits[c] << 7 | bits[c + 3] << 6 for c in range(3))


def test_an_unknown_network_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UsageError, match="did you mean 'deeplab-v1-largefov'"):
        find_network("deeplab-largefov")
