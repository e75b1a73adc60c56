"""Batches by CUDA graphs, with stand-ins for CUDA: what is recorded is computed again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from streamseg.inference.backends.graphed_batches import GraphedBatches, Work  # noqa: E402
from streamseg.inference.backends.torch import recorded_work  # noqa: E402
from streamseg.inference.backends.torch_graph import GraphModule  # noqa: E402
from streamseg.inference.spec import read_spec  # noqa: E402
from streamseg.inference.weights import read_weights  # noqa: E402
from tests.cuda_standin import Graph, Stream, put_in_place_of_cuda  # noqa: E402

PICTURES = ((24, 32, 3), (32, 24, 3), (24, 40, 3))


@pytest.fixture
def module(tiny_engine: Path) -> Any:
    spec = read_spec(tiny_engine)
    return GraphModule(read_weights(tiny_engine, spec, "fp32"), torch.float32).eval()


def batches_of(module: Any, monkeypatch: pytest.MonkeyPatch, most: int) -> GraphedBatches:
    put_in_place_of_cuda(monkeypatch)

    def prepared(shape: tuple[int, ...], dtype: Any) -> Work:
        return recorded_work(module, torch.zeros(shape, dtype=dtype), Stream(), None)

    return GraphedBatches(prepared, most, device="cpu")


@pytest.mark.parametrize(("streams", "most"), [(1, 1), (5, 4), (16, 16), (16, 6)])
def test_a_service_records_nothing_after_the_first_batch_of_each_size_of_pictures(
    module: Any, monkeypatch: pytest.MonkeyPatch, streams: int, most: int
) -> None:
    batches = batches_of(module, monkeypatch, most)
    random = np.random.default_rng(streams)
    with torch.inference_mode():
        for picture in PICTURES:
            batches.run(np.zeros((1, *picture), np.uint8))
        recorded = Graph.made
        assert recorded == batches.prepared <= 5 * len(PICTURES)
        for _ in range(12):
            waiting = random.integers(1, min(streams, most) + 1)
            feed = random.integers(0, 256, (waiting, *PICTURES[random.integers(3)]), np.uint8)
            want = module(torch.from_numpy(feed)).numpy()
            np.testing.assert_allclose(batches.run(feed), want, atol=1e-5)
        assert Graph.made == recorded


def test_arrays_and_tensors_take_turns_and_what_was_given_is_kept(
    module: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = batches_of(module, monkeypatch, 4)
    random = np.random.default_rng(0)
    feeds = [random.integers(0, 256, (n, *PICTURES[0]), np.uint8) for n in (3, 1, 3, 2)]
    with torch.inference_mode():
        kept = [
            batches.run(feed) if index % 2 else batches.on_device(torch.from_numpy(feed)).numpy()
            for index, feed in enumerate(feeds)
        ]
        for feed, got in zip(feeds, kept, strict=True):
            np.testing.assert_allclose(got, module(torch.from_numpy(feed)).numpy(), atol=1e-5)


def test_a_batch_is_read_when_it_is_made_and_its_logits_when_they_are_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put_in_place_of_cuda(monkeypatch)
    order: list[str] = []

    class Named(Stream):
        def __init__(self, name: str = "ours") -> None:
            self.name = name

        def wait_stream(self, other: Any) -> None:
            order.append(f"{self.name} waits for {other.name}")

        def synchronize(self) -> None:
            order.append(f"here waits for {self.name}")

    default = Named("default")
    monkeypatch.setattr(torch.cuda, "Stream", Named)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda *_: default)

    def prepared(shape: tuple[int, ...], dtype: Any) -> Work:
        image, logits = torch.zeros(shape, dtype=dtype), torch.zeros((shape[0], 2, 2, 2))

        def start() -> None:
            order.append("run")
            logits.fill_(float(image.max()))

        return Work(image, logits, start)

    batches = GraphedBatches(prepared, 1, device="cpu")
    left = batches.on_device(torch.full((1, 8, 8, 3), 7, dtype=torch.uint8))
    assert order == ["ours waits for default", "run", "default waits for ours", "here waits for default"]
    order.clear()
    assert batches.run(np.full((1, 8, 8, 3), 9, np.uint8)).max() == 9
    assert order == ["ours waits for default", "run", "here waits for ours"]
    assert left.max() == 7, "what was left on the device is not written again"


def test_shapes_that_were_used_long_ago_make_room(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamseg.inference.backends.graphed_batches.MOST_SHAPES", 3)
    batches = batches_of(module, monkeypatch, 2)
    with torch.inference_mode():
        for picture in (*PICTURES, PICTURES[0]):
            feed = np.full((2, *picture), 80, np.uint8)
            np.testing.assert_allclose(batches.run(feed), module(torch.from_numpy(feed)).numpy(), atol=1e-5)
    assert batches.prepared == 8
