"""What an engine runs: uint8 in, logits where the pipeline takes them to be, the same in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import onnxruntime as ort
import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402

from streamseg.config import EngineConfig  # noqa: E402
from streamseg.crf import CrfParams  # noqa: E402
from streamseg.inference.backends.torch_graph import GraphModule  # noqa: E402
from streamseg.inference.plans.load import load_engine  # noqa: E402
from streamseg.inference.spec import read_spec  # noqa: E402
from streamseg.models.export import write_engine  # noqa: E402
from streamseg.models.served import Grid, Served  # noqa: E402
from streamseg.models.zoo import NETWORKS  # noqa: E402
from tests.narrow import NARROW, TYPICAL, narrow_engine, narrow_network  # noqa: E402

# The third typical one takes as long to export as the other two.
EXPORTED = [pytest.param(n, marks=() if n in TYPICAL[:2] else pytest.mark.slow) for n in NARROW]


def picture(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (*shape, 3), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("name", NARROW)
def test_served_logits_have_the_zoos_output_stride(name: str) -> None:
    entry = NETWORKS[name]
    served = Served(narrow_network(name), entry.preprocessing)
    multiple, stride = entry.size_multiple, entry.output_stride
    assert served.grid.stride == stride
    with torch.no_grad():
        for rows, columns in ((2, 3), (5, 8)):
            height, width = rows * multiple, columns * multiple
            logits = served(picture(2, height, width))
            assert logits.shape == (2, 5, height // stride, width // stride)


@pytest.mark.parametrize("name", EXPORTED)
def test_nothing_comes_from_memory_while_a_network_runs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or its CUDA graph could not be recorded. Shown on torch's device without memory."""
    network = GraphModule((narrow_engine(name) / "model.onnx").read_bytes()).to("meta")

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("makes a tensor of what lies in memory")

    for maker in ("tensor", "as_tensor", "from_numpy"):
        monkeypatch.setattr(torch, maker, refuse)
    with torch.inference_mode():
        logits = network(torch.empty((1, 104, 104, 3), dtype=torch.uint8, device="meta"))
    assert logits.device.type == "meta"


@pytest.mark.parametrize("name", NARROW)
def test_the_border_moves_logits_to_the_middle_of_their_cells(name: str) -> None:
    grid = cast(Grid, narrow_network(name).grid)
    first = grid.first - grid.before + grid.skip * grid.stride
    assert abs(first - (grid.stride - 1) / 2) <= 0.5


@pytest.mark.parametrize(("name", "roll"), [("deeplab-v1", 0), ("deeplab-v1-largefov", 1)])
def test_a_mirrored_picture_gives_mirrored_logits(name: str, roll: int) -> None:
    """Which they only do if each logit looks at the pixel that its grid says.

    With corners in line logits are half a pixel off the middle: one pixel between a picture and its mirror.
    """
    network = narrow_network(name).double()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data = module.weight + module.weight.flip(2)
            module.weight.data = module.weight + module.weight.flip(3)
    served = Served(network, NETWORKS[name].preprocessing).double()
    shown = picture(1, 480, 488)  # LargeFOV sees 217 pixels each way
    with torch.no_grad():
        logits = served(shown)
        mirrored = served(shown.flip(1, 2).roll((roll, roll), (1, 2))).flip(2, 3)
        unrolled = served(shown.flip(1, 2).roll((roll + 1, roll + 1), (1, 2))).flip(2, 3)
    middle = (slice(None), slice(None), slice(28, 32), slice(28, 33))
    torch.testing.assert_close(mirrored[middle], logits[middle])
    assert (unrolled[middle] - logits[middle]).abs().max() > 0.01 * logits[middle].abs().max()


def test_the_caffe_networks_see_bgr_less_the_mean_and_torchvisions_scaled_rgb() -> None:
    seen: list[Tensor] = []

    class Eye(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.grid = Grid(1, 0.0)

        def forward(self, image: Tensor) -> Tensor:
            seen.append(image)
            return image

    shown = torch.tensor([10, 20, 30], dtype=torch.uint8).view(1, 1, 1, 3)
    Served(Eye(), NETWORKS["deeplab-v1"].preprocessing)(shown)
    torch.testing.assert_close(seen[0].flatten(), torch.tensor([30 - 104.008, 20 - 116.669, 10 - 122.675]))
    Served(Eye(), NETWORKS["deeplabv3-resnet50"].preprocessing)(shown)
    want = [(10 / 255 - 0.485) / 0.229, (20 / 255 - 0.456) / 0.224, (30 / 255 - 0.406) / 0.225]
    torch.testing.assert_close(seen[1].flatten(), torch.tensor(want))


@pytest.mark.parametrize("name", EXPORTED)
def test_torch_and_onnx_runtime_agree_at_any_size_and_batch(name: str) -> None:
    entry = NETWORKS[name]
    folder = narrow_engine(name)
    assert sorted(p.name for p in folder.iterdir()) == ["engine.toml", "model.onnx"]
    graph = folder / "model.onnx"
    session = ort.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    served = Served(narrow_network(name, classes=21), entry.preprocessing)
    read_back = GraphModule(graph.read_bytes()).eval()  # what the torch backend makes of the file
    multiple = entry.size_multiple
    for shape in ((1, 7 * multiple, 10 * multiple), (3, 2 * multiple, 5 * multiple)):
        shown = picture(*shape, seed=7)
        (got,) = session.run(["logits"], {"image_u8": shown.numpy()})
        with torch.no_grad():
            want = served(shown).numpy()
            again = read_back(shown).numpy()
        assert got.shape == want.shape == again.shape
        np.testing.assert_allclose(got, want, atol=1e-3 * np.abs(want).max())
        np.testing.assert_allclose(again, want, atol=1e-4 * np.abs(want).max())


@pytest.mark.slow
def test_largefov_at_full_width_becomes_an_engine_that_runs(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = NETWORKS["deeplab-v1-largefov"].build().eval()
    crf = CrfParams(appearance_weight=4.0, appearance_sigma_xy=121.0, iterations=10)
    folder = write_engine(network, "deeplab-v1-largefov", tmp_path / "largefov", crf=crf)
    assert sorted(p.name for p in folder.iterdir()) == ["engine.toml", "model.onnx"]
    spec = read_spec(folder)
    assert (spec.name, spec.network, len(spec.classes)) == ("largefov", "deeplab-v1-largefov", 21)
    assert spec.crf.appearance_sigma_xy == 121
    assert spec.normalisation.in_graph
    engine = load_engine(EngineConfig(name=str(folder), threads=1))
    shown = picture(1, 128, 136)
    logits = engine(shown.numpy())
    with torch.no_grad():
        want = Served(network, NETWORKS["deeplab-v1-largefov"].preprocessing)(shown).numpy()
    assert logits.shape == (1, 21, 16, 17)
    np.testing.assert_allclose(logits, want, atol=1e-3 * np.abs(want).max())
    engine.close()
