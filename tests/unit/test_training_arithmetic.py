"""Convolutions are checked on this machine before a run; what it computes wrong is computed another way."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

torch = pytest.importorskip("torch")

from streamseg.errors import TrainingError  # noqa: E402
from streamseg.training import arithmetic  # noqa: E402
from streamseg.training.arithmetic import KernelCheck, check_arithmetic, convolutions, use_bf16  # noqa: E402
from streamseg.training.kernels import STARTED, Case, error, reference  # noqa: E402
from streamseg.training.loss import cross_entropy  # noqa: E402
from streamseg.training.networks import build_network  # noqa: E402
from streamseg.training.recipe import AugmentRecipe, TrainRecipe  # noqa: E402

CPU = torch.device("cpu")
RECIPE = TrainRecipe(
    width=12, batch_size=2, augment=AugmentRecipe(crop_size=(64, 96)), arithmetic="bf16", threads=1
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads of small layers wait for each other longer than they compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


SMALL = Case("Conv2d", 4, 6, (3, 3), (1, 1), (1, 1), (1, 1), 1, 2, 9, 10)


@pytest.mark.parametrize(
    "case",
    [
        SMALL,
        Case("Conv2d", 5, 7, (4, 4), (2, 2), (6, 6), (4, 4), 1, 2, 21, 30),
        Case("Conv2d", 12, 12, (5, 5), (2, 2), (2, 2), (1, 1), 12, 1, 16, 24),
        Case("Conv2d", 8, 4, (1, 1), (1, 1), (0, 0), (1, 1), 2, 3, 7, 8),
    ],
)
def test_the_reference_is_what_float64_gives(case: Case) -> None:
    torch.manual_seed(0)
    x = torch.randn(case.batch, case.inputs, case.height, case.width, requires_grad=True)
    weight = torch.randn(case.outputs, case.inputs // case.groups, *case.kernel, requires_grad=True)
    out = torch.nn.functional.conv2d(
        x.double(), weight.double(), None, case.stride, case.padding, case.dilation, case.groups
    )
    gradient = torch.randn(out.shape)
    out.backward(gradient.double())
    got = reference(case, x.detach(), weight.detach(), gradient)
    for value, want in zip(got, (out.detach(), x.grad, weight.grad), strict=True):
        torch.testing.assert_close(value, want.float(), rtol=1e-4, atol=1e-4)


def test_right_kernels_have_small_errors() -> None:
    assert error(SMALL, False, CPU) < 1e-5
    assert 1e-5 < error(SMALL, True, CPU) < arithmetic.MOST_ERROR


@pytest.fixture
def wrong_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine as `wrong.py` in the folder describes it: `wrong(case, bf16)` is a relative error, or crash.

    Its check computes nothing, so it need not wait for torch.
    """
    script = tmp_path / "check.py"
    script.write_text(
        "import json, os, signal, sys\n"
        f"exec(open({str(tmp_path / 'wrong.py')!r}).read())\n"
        "for line in sys.stdin:\n"
        "    job = json.loads(line)\n"
        f"    print({STARTED!r}, flush=True)\n"
        "    for case in job['cases']:\n"
        "        found = wrong(case, job['bf16'])\n"
        "        if found == 'crash':\n"
        "            os.kill(os.getpid(), signal.SIGSEGV)\n"
        "        print(found, flush=True)\n"
    )
    monkeypatch.setattr(arithmetic, "CHECK", (sys.executable, str(script)))
    return tmp_path / "wrong.py"


def test_wrong_and_crashing_kernels_are_found_and_the_rest_is_still_checked(wrong_kernels: Path) -> None:
    wrong_kernels.write_text(
        "def wrong(case, bf16):\n"
        "    return {5: 0.5, 6: 'nan', 7: 'crash'}.get(case['outputs'], 1e-3) if bf16 else 1e-7\n"
    )
    cases = [msgspec.structs.replace(SMALL, outputs=outputs) for outputs in (4, 7, 5, 6, 8, 7)]
    with KernelCheck(CPU, 1) as check:
        errors = check.errors(cases, bf16=True)
        right = check.right(cases)
    assert [errors[case] < arithmetic.MOST_ERROR for case in cases[:5]] == [True, False, False, False, True]
    assert errors[cases[1]] == float("inf")
    assert [right[case] for case in cases[:5]] == [True, False, False, False, True]  # all right in fp32


def test_layers_that_are_wrong_in_bf16_are_trained_in_fp32(
    wrong_kernels: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wrong_kernels.write_text(
        "def wrong(case, bf16):\n    return 0.4 if bf16 and case['dilation'][0] > 4 else 1e-3\n"
    )
    network = build_network(RECIPE).train()
    with caplog.at_level(logging.WARNING, "streamseg"):
        check_arithmetic(network, RECIPE, CPU)
    assert "4 of 21 convolutions run in fp32, because this machine computes them wrong" in caplog.text
    kinds = {}
    for name, layer in network.named_modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer.register_forward_hook(lambda _m, _i, out, name=name: kinds.update({name: out.dtype}))
    with torch.autocast("cpu", torch.bfloat16):
        network.supervised(torch.zeros(2, 3, 64, 96))
    in_fp32 = {name for name, kind in kinds.items() if kind == torch.float32}
    assert in_fp32 == {"blocks8.2.second", "blocks8.3.second", "aspp.atrous.0", "aspp.atrous.1"}


def test_a_width_that_nothing_computes_right_is_refused_with_the_nearest_good_one(
    wrong_kernels: Path,
) -> None:
    wrong_kernels.write_text(
        "def wrong(case, bf16):\n"
        "    return 'nan' if case['dilation'] == [16, 16] and case['inputs'] in (12, 24) else 1e-3\n"
    )
    with pytest.raises(TrainingError) as caught:
        check_arithmetic(build_network(RECIPE), RECIPE, CPU)
    assert "width 12: this machine computes blocks8.3.second wrong, in bf16 and in fp32" in str(caught.value)
    assert str(caught.value).endswith("the nearest width that it computes right is 36")


def test_a_check_that_cannot_run_says_how_it_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arithmetic, "CHECK", (sys.executable, "-c", "raise SystemExit(3)"))
    with pytest.raises(TrainingError, match=r"arithmetic cannot run \(exit code 3\)"):
        KernelCheck(CPU, 1).errors([SMALL], bf16=True)


def test_bf16_is_chosen_by_the_device_or_the_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    auto = msgspec.structs.replace(RECIPE, arithmetic="auto")
    for has in (True, False):
        monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda has=has: has)
        assert use_bf16(auto, CPU) is has
        assert use_bf16(RECIPE, CPU) is True
        assert use_bf16(msgspec.structs.replace(RECIPE, arithmetic="fp32"), CPU) is False


def gradients(recipe: TrainRecipe, bf16: bool, steps: int) -> dict[str, torch.Tensor]:
    """Of the convolutions' weights in the last of `steps` steps of a small run."""
    torch.manual_seed(0)
    network = build_network(recipe).to(memory_format=torch.channels_last).train()
    if bf16 and steps > 1:
        check_arithmetic(network, recipe, CPU)
    optimiser = torch.optim.AdamW(network.parameters(), 1e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        x = torch.randn(recipe.batch_size, 3, *recipe.augment.crop_size, generator=generator)
        y = torch.randint(0, 2, (recipe.batch_size, *recipe.augment.crop_size), generator=generator)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits, auxiliary = network.supervised(x.contiguous(memory_format=torch.channels_last))
        optimiser.zero_grad()
        weights = torch.ones(len(recipe.classes))
        (cross_entropy(logits, y, weights, 0) + cross_entropy(auxiliary, y, weights, 0)).backward()
        if steps > 1:
            optimiser.step()
    return {n: p.grad for n, p in network.named_parameters() if p.ndim == 4 and p.grad is not None}


@pytest.mark.parametrize("width", [24, 36, 60])
def test_widths_that_bf16_gets_wrong_have_the_gradients_of_fp32(width: int) -> None:
    recipe = msgspec.structs.replace(RECIPE, width=width)
    exact, rounded = (gradients(recipe, bf16, 1) for bf16 in (False, True))
    for name, gradient in exact.items():
        assert torch.cosine_similarity(gradient.flatten(), rounded[name].flatten(), 0) > 0.9, name


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("network", ["slim", "deeplab", "deeplab-msc-largefov"])
def test_every_width_trains_in_bf16_with_right_kernels(network: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty steps of each, after one check for all; slow, because most CPUs emulate bf16."""
    small = AugmentRecipe(crop_size=(32, 64))
    with KernelCheck(CPU, 1) as check:
        monkeypatch.setattr(arithmetic, "KernelCheck", lambda *_: contextlib.nullcontext(check))
        for width in range(12, 145, 12):
            recipe = msgspec.structs.replace(RECIPE, network=network, width=width, augment=small)
            found = gradients(recipe, True, 20)
            assert all(torch.isfinite(gradient).all() for gradient in found.values())
            cases = set(convolutions(recipe).values())
            assert check.right(cases).keys() == cases
