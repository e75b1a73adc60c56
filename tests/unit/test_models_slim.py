"""The default network: its size, its shapes, and how far its dilated convolutions see."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from streamseg.models.slim import DILATIONS, ResidualBlock, Slim, count_macs  # noqa: E402


def test_the_network_keeps_within_its_budget() -> None:
    network = Slim(11)
    assert count_macs(network, (360, 480)) == 2_905_809_408  # at most 3 GMAC is the promise
    assert sum(p.numel() for p in network.parameters()) < 0.9e6


def test_macs_are_those_of_the_formula() -> None:
    convolution = torch.nn.Conv2d(3, 8, 3, stride=2, padding=1)
    assert count_macs(convolution, (32, 64)) == 16 * 32 * 8 * 3 * 9
    grouped = torch.nn.Conv2d(3, 6, 3, padding=1, groups=3)
    assert count_macs(grouped, (8, 8)) == 8 * 8 * 6 * 9


def test_counting_leaves_the_network_as_it_was() -> None:
    network = Slim(3, width=12).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    count_macs(network, (64, 64))
    assert network.training
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("size", [(64, 96), (72, 104), (32, 32)])
def test_logits_come_at_a_quarter_and_the_auxiliary_ones_at_an_eighth(size: tuple[int, int]) -> None:
    network = Slim(5, width=12).eval()
    height, width = size
    with torch.no_grad():
        logits, auxiliary = network.supervised(torch.zeros(2, 3, height, width))
        assert logits.shape == (2, 5, height // 4, width // 4)
        assert auxiliary.shape == (2, 5, height // 8, width // 8)
        assert torch.equal(logits, network(torch.zeros(2, 3, height, width)))
        assert torch.equal(auxiliary, network.forward_stride8(torch.zeros(2, 3, height, width)))


@pytest.mark.parametrize("dilation", DILATIONS)
def test_a_dilated_block_sees_exactly_as_far_as_its_rate_says(dilation: int) -> None:
    block = ResidualBlock(2, dilation).eval()
    for parameter in block.parameters():
        torch.nn.init.constant_(parameter, 0.5)
    image = torch.rand(1, 2, 49, 49).requires_grad_()
    block(image)[0, 0, 24, 24].backward()
    rows = image.grad[0].abs().sum((0, 2)).nonzero().flatten()
    # The second convolution's outer taps lie `dilation` away, the first one adds 1 on each side.
    assert rows.min().item() == 24 - dilation - 1
    assert rows.max().item() == 24 + dilation + 1
    columns = image.grad[0].abs().sum((0, 1)).nonzero().flatten()
    near = {-1, 0, 1}
    assert set((columns - 24).tolist()) == {tap + n for tap in (-dilation, 0, dilation) for n in near}


def test_a_part_of_the_network_has_the_parameters_it_runs_and_no_others() -> None:
    network = Slim(5, width=12).eval()
    image = torch.rand(1, 3, 32, 64)
    whole = sum(p.numel() for p in network.parameters())
    for part, logits, unused in (
        (network.stride4(), network(image), [network.auxiliary]),
        (
            network.stride8(),
            network.forward_stride8(image),
            [network.skip, network.skip_norm, network.refine, network.classify],
        ),
    ):
        assert torch.equal(part(image), logits)
        left_out = sum(p.numel() for module in unused for p in module.parameters())
        assert sum(p.numel() for p in part.parameters()) == whole - left_out
    assert count_macs(network.stride8(), (64, 64)) < count_macs(network, (64, 64))
    assert count_macs(network.stride4(), (64, 64)) == count_macs(network, (64, 64))
