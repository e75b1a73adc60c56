"""Batches by CUDA graphs, with stand-ins for CUDA: what is recorded is computed again."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from streamseg.errors import EngineError  # noqa: E402
from streamseg.inference.backends import graphed_batches  # noqa: E402
from streamseg.inference.backends.graphed_batches import GraphedBatches, Work  # noqa: E402
from streamseg.inference.backends.torch import recorded_work  # noqa: E402
from streamseg.inference.backends.torch_graph import GraphModule  # noqa: E402
from streamseg.inference.spec import read_spec  # noqa: E402
from streamseg.inference.weights import read_weights  # noqa: E402
from tests.cuda_standin import Graph, Stream, put_in_place_of_cuda  # noqa: E402
from tests.late_cuda import late_cuda  # noqa: E402

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


@pytest.mark.parametrize(
    ("streams", "most"), [*((streams, 8) for streams in range(1, 17)), (1, 1), (5, 4), (16, 16), (16, 6)]
)
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
        for _ in range(8):
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
            batches.run(feed) if index % 2 else batches.start(torch.from_numpy(feed)).logits.numpy()
            for index, feed in enumerate(feeds)
        ]
        for feed, got in zip(feeds, kept, strict=True):
            np.testing.assert_allclose(got, module(torch.from_numpy(feed)).numpy(), atol=1e-5)


def scaled(torch: Any, device: str = "cpu") -> Any:
    """Work whose logits are three times the pictures' means, on a GPU that computes late."""

    def prepared(shape: tuple[int, ...], dtype: Any) -> Work:
        image = torch.zeros(shape, dtype=dtype, device=device)
        logits = torch.zeros((shape[0], 1, 1, 1), device=device)
        return Work(image, logits, lambda: logits.copy_(3 * image.float().mean((1, 2, 3), keepdim=True)))

    return prepared


def levels(*values: int) -> np.ndarray[Any, Any]:
    return np.stack([np.full((4, 6, 3), value, np.uint8) for value in values])


@pytest.mark.parametrize("seed", [None, *range(5)])
@pytest.mark.parametrize("on_gpu", [False, True])
def test_batches_that_are_queued_one_behind_another_are_each_computed_from_their_own_pictures(
    monkeypatch: pytest.MonkeyPatch, seed: int | None, on_gpu: bool
) -> None:
    with torch.inference_mode(), late_cuda(monkeypatch, seed) as gpu:
        monkeypatch.setattr(graphed_batches, "is_on_gpu", lambda tensor: on_gpu)
        batches = GraphedBatches(scaled(torch), 4, device="cpu")
        memory = np.zeros((4, 4, 6, 3), np.uint8)
        kept = []
        for count in (2, 1, 4, 3, 2, 4):
            wanted = [10 * len(kept) + i + 1 for i in range(count)]
            memory[:count] = levels(*wanted)  # written again as soon as the batch before is queued
            batch = torch.from_numpy(memory[:count])
            if on_gpu:  # made on the default stream, which is as late
                pictures = torch.zeros(batch.shape, dtype=torch.uint8, device="cpu")
                pictures.copy_(batch.clone(), non_blocking=True)
                batch = pictures
            kept.append((batches.start(batch), wanted))
        for queued, wanted in kept:
            queued.ready.synchronize()
            assert queued.logits.flatten().tolist() == [3.0 * value for value in wanted]
        assert batches.run(levels(7, 8)).flatten().tolist() == [21.0, 24.0]
        assert len(gpu.streams) == 3, "the default one, one for copies, one that computes"
        batches.close()


def test_a_batch_is_queued_while_the_one_before_is_computed_and_the_third_waits_for_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with torch.inference_mode(), late_cuda(monkeypatch):
        batches = GraphedBatches(scaled(torch), 1, device="cpu")
        first, second = batches.start(levels(1)), batches.start(levels(2))
        assert not first.ready.happened
        assert not second.ready.happened
        third = batches.start(levels(3))
        assert first.ready.happened
        assert not second.ready.happened
        batches.close()
        assert third.ready.happened, "what is queued is computed before its memory goes"


def test_pinned_memory_grows_to_the_largest_batch_and_goes_when_it_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pinned: list[int] = []
    with torch.inference_mode(), late_cuda(monkeypatch):
        usual = torch.empty

        def empty(*args: Any, pin_memory: bool = False, **kwargs: Any) -> Any:
            if pin_memory:
                pinned.append(args[0])
            return usual(*args, **kwargs)

        monkeypatch.setattr(torch, "empty", empty)
        batches = GraphedBatches(scaled(torch), 4, device="cpu")
        for one in batches._slots:
            one._host._pinned = True
        for count in (1, 1, 4, 4, 2, 3, 4):
            batches.run(np.zeros((count, 4, 6, 3), np.uint8))
        assert pinned == [72, 72, 288, 288]
        batches.close()
        assert not batches._slots


@pytest.mark.parametrize("seed", [None, *range(4)])
def test_labels_wait_for_their_logits_in_a_stream_of_their_thread(
    monkeypatch: pytest.MonkeyPatch, seed: int | None
) -> None:
    from streamseg.inference import upsample_device

    def prepared(shape: tuple[int, ...], dtype: Any) -> Work:
        image = torch.zeros(shape, dtype=dtype, device="cpu")
        logits = torch.zeros((shape[0], 2, 4, 6), device="cpu")

        def start() -> None:
            logits[:, 1].copy_(image[..., 0].float() - 100)

        return Work(image, logits, start)

    with torch.inference_mode(), late_cuda(monkeypatch, seed) as gpu:
        monkeypatch.setattr(upsample_device, "_of_thread", threading.local())

        def to_host(tensor: Any) -> Any:
            gpu.current.synchronize()
            return tensor.numpy().copy()

        monkeypatch.setattr(upsample_device, "_to_host", to_host)
        batches = GraphedBatches(prepared, 2, device="cpu")
        one, two = (batches.start(levels(*pair)) for pair in ((50, 150), (150, 50)))
        default = len(gpu.streams[0].steps)
        for queued, wanted in ((two, (1, 0)), (one, (0, 1))):
            for logits, label in zip(queued.logits, wanted, strict=True):
                there = upsample_device.TensorLogits(logits, queued.ready)
                assert np.unique(there.labels((8, 12))).tolist() == [label]
                assert np.unique(there.to_host()[1]).tolist() == [50 if label else -50]
        assert len(gpu.streams) == 4
        assert len(gpu.streams[0].steps) == default, "nothing was queued on the default stream"


def test_a_gpu_that_fails_is_reported_in_one_line_where_labels_are_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from streamseg.inference.upsample_device import TensorLogits

    class Failed:
        def wait_event(self, event: Any) -> None:
            raise RuntimeError("CUDA error: an illegal memory access was encountered\nCompile with ...")

    monkeypatch.setattr("streamseg.inference.upsample_device._own_stream", Failed)
    with pytest.raises(
        EngineError, match=r"^the GPU failed on a network or its labels: CUDA error: an illegal"
    ):
        TensorLogits(torch.zeros(2, 4, 6), object()).labels((8, 12))


def test_shapes_that_were_used_long_ago_make_room(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamseg.inference.backends.graphed_batches.MOST_SHAPES", 3)
    batches = batches_of(module, monkeypatch, 2)
    with torch.inference_mode():
        for picture in (*PICTURES, PICTURES[0]):
            feed = np.full((2, *picture), 80, np.uint8)
            np.testing.assert_allclose(batches.run(feed), module(torch.from_numpy(feed)).numpy(), atol=1e-5)
    assert batches.prepared == 8
