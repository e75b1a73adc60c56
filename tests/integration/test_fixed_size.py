"""An engine of one fixed size serves cameras of every shape, each mask at its own camera's size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from streamseg import Daemon
from streamseg.client import subscribe
from streamseg.config import load_config
from tests.engines import TINY_CLASSES, TINY_STRIDE, write_engine
from tests.integration.command import Command, streamseg
from tests.integration.daemons import in_thread
from tests.media import picture, write_video
from tests.waiting import LIMIT_S

__all__ = ["streamseg"]

SIZES = {"standard": (96, 128), "wide": (90, 160), "upright": (160, 90)}


@pytest.fixture(scope="module")
def fixed_engine(tmp_path_factory: pytest.TempPathFactory, tiny_engine: Path) -> Path:
    """The tiny engine, exported for pictures of 48×64 one at a time."""
    onnx = pytest.importorskip("onnx", reason="needs the extra torch")
    model = onnx.load(tiny_engine / "tiny.onnx")
    for port, shape in (
        (model.graph.input[0], (1, 48, 64, 3)),
        (model.graph.output[0], (1, 4, 48 // TINY_STRIDE, 64 // TINY_STRIDE)),
    ):
        for axis, size in zip(port.type.tensor_type.shape.dim, shape, strict=True):
            axis.dim_value = size
    return write_engine(
        tmp_path_factory.mktemp("engines") / "fixed",
        model.SerializeToString(),
        TINY_CLASSES,
        name="fixed",
        file="fixed.onnx",
        network="threshold",
        label_set="tiny-4",
        input_size=(48, 64),
        output_stride=TINY_STRIDE,
    )


@pytest.mark.parametrize("backend", ["onnx", "openvino"])
def test_cameras_of_several_shapes_share_an_engine_of_a_fixed_size(
    tmp_path: Path, fixed_engine: Path, streamseg: Command, backend: str
) -> None:
    site = tmp_path / "site.toml"
    endpoint = f"ipc://{tmp_path}/masks"
    text = (
        f'[engine]\nname = "{fixed_engine}"\nbackend = "{backend}"\nthreads = 1\n'
        f'[publish]\nendpoint = "{endpoint}"\n[control]\nendpoint = "ipc://{tmp_path}/control"\n'
    )
    for name, size in SIZES.items():
        clip = tmp_path / f"{name}.mp4"
        write_video(clip, [picture(size, 0.5)] * 25)
        text += f'[streams.{name}]\nsource = "{clip}"\nrealtime = true\nloop = true\n'
    site.write_text(text)
    checked = streamseg("check", site)
    assert checked.code == 0, checked.err
    with in_thread(Daemon(load_config(site))) as (_, errors):
        found: dict[str, int] = {}
        with subscribe(endpoint, timeout_s=LIMIT_S) as masks:
            while not errors and any(found.get(name, 0) < 3 for name in SIZES):
                mask = next(masks)
                height, width = SIZES[mask.stream]
                assert mask.labels.shape == (height, width)
                edge = width // 16  # what one logit of the network covers, about the border of the colours
                assert np.all(mask.labels[:, : width // 2 - edge] == 1)
                assert np.all(mask.labels[:, width // 2 + edge :] == 0)
                found[mask.stream] = found.get(mask.stream, 0) + 1
        assert not errors
