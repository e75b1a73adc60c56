"""Labels computed where the logits lie are those of streamseg.inference.scaling."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from streamseg.config import EngineConfig
from streamseg.inference.plans.load import load_engine
from streamseg.inference.scaling import fallback, labels_from_logits
from tests.unit.test_scaling import SIZES
from tools.demo import draw_scene

torch = pytest.importorskip("torch")


def there(logits: np.ndarray) -> Any:
    from streamseg.inference.upsample_device import TensorLogits

    return TensorLogits(torch.from_numpy(logits))


@pytest.mark.parametrize(("shape", "size"), SIZES)
def test_random_logits_have_the_same_labels(shape: tuple[int, ...], size: tuple[int, int]) -> None:
    logits = np.random.default_rng(1).normal(0, 4, shape).astype(np.float32)
    want, _ = labels_from_logits(logits, size)
    assert np.mean(there(logits).labels(size) == want) > 0.9999
    other, _ = fallback(logits, size)
    assert np.mean(there(logits).labels(size) == other) > 0.999


def test_a_networks_logits_have_the_same_labels_at_every_size() -> None:
    """All of 13 million pixels where this was written; a compiler that rounds otherwise may change a few."""
    engine = load_engine(EngineConfig(backend="onnx", precision="fp32"))
    for moment in (0.0, 4.0):
        (logits,) = engine(draw_scene(moment)[0][None])
        for size in ((360, 480), (1080, 1920), (361, 481), (90, 120), (50, 70)):
            want, _ = labels_from_logits(logits, size)
            got = there(logits).labels(size)
            assert got.dtype == np.uint8
            assert np.mean(got == want) > 0.99999
    engine.close()


def test_a_picture_too_large_for_one_go_is_made_in_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = np.random.default_rng(2).normal(0, 4, (5, 20, 30)).astype(np.float32)
    whole = there(logits).labels((77, 131))
    monkeypatch.setattr("streamseg.inference.upsample_device._MOST_FLOATS", 5 * 131 * 10)
    np.testing.assert_array_equal(there(logits).labels((77, 131)), whole)


def test_of_equal_logits_the_lower_class_wins() -> None:
    assert there(np.zeros((4, 6, 8), np.float32)).labels((24, 32)).max() == 0


def test_the_logits_can_be_had_here_from_several_threads() -> None:
    logits = np.random.default_rng(3).normal(size=(4, 6, 8)).astype(np.float32)
    kept = there(logits)
    found: list[np.ndarray] = []
    threads = [threading.Thread(target=lambda: found.append(kept.to_host())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one in found:
        np.testing.assert_array_equal(one, logits)


def test_what_cannot_be_logits_is_refused() -> None:
    with pytest.raises(TypeError, match="float32"):
        there(np.zeros((4, 6, 8)))
    with pytest.raises(ValueError, match="255"):
        there(np.zeros((256, 2, 2), np.float32)).labels((4, 4))
