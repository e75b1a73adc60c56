"""Fusion over time: what is taken from the past, and when it is not."""

from __future__ import annotations

import itertools
from dataclasses import replace
from fractions import Fraction

import cv2
import numpy as np
import pytest

from streamseg.config.refinement import FusionConfig
from streamseg.crf import native_available
from streamseg.inference.scaling import labels_from_logits
from streamseg.refinement.blend import Past, blend, softened
from streamseg.refinement.flow import one_thread, standing_still
from streamseg.refinement.fusion import Fused, Fusion
from streamseg.types import F32, U8, Frame, Geometry, Logits, Size, Stamp

SIZE = (96, 128)
CLASSES = 3
THIN = (False, False, True)


@pytest.fixture(autouse=True)
def one_opencv_thread() -> None:
    one_thread()


def texture(seed: int = 0) -> U8:
    """A picture that flow can follow."""
    noise = np.random.default_rng(seed).integers(0, 256, (200, 300, 3)).astype(np.uint8)
    smooth = cv2.GaussianBlur(noise, (0, 0), 3)
    return cv2.normalize(smooth, None, 0, 255, cv2.NORM_MINMAX)


def scores(seq: int, shift: int = 0, logits: F32 | None = None, epoch: int = 0, seed: int = 0) -> Logits:
    """The texture moved to the left by `shift` pixels, and flat logits where none are given."""
    rgb = np.ascontiguousarray(texture(seed)[20 : 20 + SIZE[0], 20 + shift : 20 + shift + SIZE[1]])
    frame = Frame(Stamp("gate", epoch, seq, None, Fraction(1, 25), 0, "arrival"), rgb, 0)
    given = np.zeros((CLASSES, 24, 32), np.float32) if logits is None else logits
    return Logits(frame, given, Geometry(SIZE, SIZE))


def posterior_with_edge(at: int) -> F32:
    """Log-probabilities (C, 48, 64): class 1 to the right of column `at`, class 0 to its left."""
    p = np.full((CLASSES, 48, 64), 0.01, np.float32)
    p[0, :, :at] = 0.98
    p[1, :, at:] = 0.98
    return np.log(p)


def test_without_a_past_fusion_is_the_network_s_own_opinion() -> None:
    logits = np.random.default_rng(1).normal(0, 2, (CLASSES, 24, 32)).astype(np.float32)
    fused = Fusion(THIN).step(scores(0, logits=logits))
    full = np.stack([cv2.resize(p, (64, 48), interpolation=cv2.INTER_CUBIC) for p in logits])
    assert fused.refined_seq is None
    odds = np.exp(full - full.max(0))
    np.testing.assert_allclose(np.exp(fused.log_probabilities), odds / odds.sum(0), atol=1e-4)


def test_a_refined_keyframe_moves_along_with_the_picture() -> None:
    fusion = Fusion(THIN, FusionConfig(recursion=0))
    fusion.step(scores(0), keyframe=True)
    assert fusion.refine(0, 0, posterior_with_edge(40))
    for seq in (1, 2, 3):
        fused = fusion.step(scores(seq, shift=4 * seq))
        assert fused.refined_seq == 0
    labels = fused.log_probabilities.argmax(0)[8:40]
    edge = 40 - 4 * 3 // 2  # the grid has half the resolution
    assert (labels[:, 8 : edge - 2] == 0).mean() > 0.97
    assert (labels[:, edge + 2 : 50] == 1).mean() > 0.97


def test_a_keyframe_s_answer_may_come_frames_later() -> None:
    fusion = Fusion(THIN, FusionConfig(recursion=0))
    fusion.step(scores(0), keyframe=True)
    fusion.step(scores(1, shift=4))
    assert fusion.step(scores(2, shift=8)).refined_seq is None
    assert fusion.refine(0, 0, posterior_with_edge(40))
    fused = fusion.step(scores(3, shift=12))
    assert fused.refined_seq == 0
    labels = fused.log_probabilities.argmax(0)[8:40]
    assert (labels[:, 8:32] == 0).mean() > 0.97
    assert (labels[:, 36:50] == 1).mean() > 0.97


def test_a_newer_answer_replaces_an_older_one_and_a_late_one_is_refused() -> None:
    fusion = Fusion(THIN)
    for seq in range(6):
        fusion.step(scores(seq), keyframe=seq in (0, 5))
    assert fusion.refine(0, 5, posterior_with_edge(40))
    assert not fusion.refine(0, 0, posterior_with_edge(10))
    assert fusion.step(scores(6)).refined_seq == 5


def test_where_the_flow_does_not_explain_the_picture_nothing_is_taken() -> None:
    fusion = Fusion(THIN, FusionConfig(refined_weight=0.7))
    fusion.step(scores(0), keyframe=True)
    fusion.refine(0, 0, posterior_with_edge(32))
    unlike = fusion.step(scores(1, seed=9)).log_probabilities
    still = Fusion(THIN, FusionConfig(refined_weight=0.7))
    still.step(scores(0), keyframe=True)
    still.refine(0, 0, posterior_with_edge(32))
    like = still.step(scores(1)).log_probabilities
    assert np.exp(like).max(0).mean() > 0.55
    assert np.exp(unlike).max(0).mean() < np.exp(like).max(0).mean() - 0.05


@pytest.mark.parametrize("how", ["cut", "epoch", "size"])
def test_a_cut_a_reconnect_and_another_size_forget_the_past(how: str) -> None:
    fusion = Fusion(THIN)
    sure = np.zeros((CLASSES, 24, 32), np.float32)
    sure[1] = 9
    fusion.step(scores(0, logits=sure))
    fusion.step(scores(1), keyframe=True)
    other = scores(2, epoch=how == "epoch")
    if how == "size":
        other = Logits(other.frame, other.array, Geometry(SIZE, (64, 80)))
    fused = fusion.step(other, cut=how == "cut")
    np.testing.assert_allclose(fused.log_probabilities, np.log(1 / 3), atol=1e-3)
    assert not fusion.refine(0, 1, posterior_with_edge(30))


def test_fresh_logits_that_are_sure_win_against_the_whole_past_in_two_frames() -> None:
    fusion = Fusion(THIN)
    sure = np.zeros((CLASSES, 24, 32), np.float32)
    sure[0] = 8
    for seq in range(5):
        fusion.step(scores(seq, logits=sure), keyframe=True)
        fusion.refine(0, seq, posterior_with_edge(64))
    changed = np.roll(sure, 1, 0)
    fusion.step(scores(5, logits=changed))
    assert (fusion.step(scores(6, logits=changed)).log_probabilities.argmax(0) == 1).all()


def test_recursion_removes_flicker_of_a_still_picture() -> None:
    def changes(recursion: float) -> float:
        fusion = Fusion((False,) * 3, FusionConfig(recursion=recursion))
        labels = []
        generator = np.random.default_rng(3)
        for seq in range(8):
            noisy = generator.normal(0, 1, (CLASSES, 24, 32)).astype(np.float32)
            labels.append(fusion.step(scores(seq, logits=noisy)).log_probabilities.argmax(0))
        return float(np.mean([(a != b).mean() for a, b in itertools.pairwise(labels)]))

    assert changes(0.5) < 0.75 * changes(0.0)


def test_thin_classes_stay_where_the_network_saw_them() -> None:
    fusion = Fusion(THIN, FusionConfig(refined_weight=0.7, recursion=0))
    logits = np.zeros((CLASSES, 24, 32), np.float32)
    logits[2, :, 8:10] = 0.5  # a pole of which the network is not sure
    fusion.step(scores(0, logits=logits), keyframe=True)
    fusion.refine(0, 0, posterior_with_edge(64))
    fused = fusion.step(scores(1, logits=logits))
    raw, _ = labels_from_logits(logits, SIZE)
    labels, confidence = fused.labels(SIZE, confidence=True)
    assert (raw == 2).sum() > 500
    np.testing.assert_array_equal(labels == 2, raw == 2)
    assert confidence is not None
    assert confidence[raw == 2].max() < 130 < confidence[:, 100:][raw[:, 100:] == 0].max()
    all_wide, _ = Fused(fused.log_probabilities, logits, (False,) * 3, 0, fused.grey).labels(SIZE)
    assert (all_wide == 0).all()


def test_an_engines_temperature_is_that_of_the_fused_confidence() -> None:
    logits = np.random.default_rng(2).normal(0, 2, (CLASSES, 24, 32)).astype(np.float32)
    plain, warm = (
        Fusion(THIN).step(replace(scores(0, logits=logits), temperature=t)).labels(SIZE, confidence=True)
        for t in (1.0, 3.0)
    )
    np.testing.assert_array_equal(plain[0], warm[0])
    assert plain[1] is not None
    assert warm[1] is not None
    assert warm[1].mean() < plain[1].mean() - 20


def test_the_same_frames_give_the_same_bytes() -> None:
    def run() -> bytes:
        fusion = Fusion(THIN)
        rng = np.random.default_rng(5)
        out = b""
        for seq in range(6):
            logits = rng.normal(0, 1, (CLASSES, 24, 32)).astype(np.float32)
            fused = fusion.step(scores(seq, 3 * seq, logits), keyframe=seq % 2 == 0)
            out += fused.log_probabilities.tobytes()
            if seq == 3:
                fusion.refine(0, 2, posterior_with_edge(20))
        return out

    assert run() == run()


def test_frames_that_were_skipped_do_not_upset_it() -> None:
    fusion = Fusion(THIN, FusionConfig(recursion=0))
    fusion.step(scores(0), keyframe=True)
    fusion.refine(0, 0, posterior_with_edge(40))
    fused = fusion.step(scores(9, shift=10))
    assert fused.refined_seq == 0
    assert np.isfinite(fused.log_probabilities).all()
    assert (fused.log_probabilities.argmax(0)[8:40, 40:50] == 1).mean() > 0.95


@pytest.mark.skipif(not native_available(), reason="built without a C++ compiler")
@pytest.mark.parametrize("classes", [1, 3, 11, 21, 40])
@pytest.mark.parametrize("size", [(48, 64), (45, 53), (2, 2)])
def test_the_compiled_blend_says_the_same_as_numpy(classes: int, size: Size) -> None:
    rng = np.random.default_rng(classes)
    logits = rng.normal(0, 3, (classes, 24, 32)).astype(np.float32)
    grey, grey_before = (np.clip(rng.normal(120, 4, size), 0, 255).astype(np.uint8) for _ in range(2))
    where = standing_still(size) + rng.normal(0, 2, (*size, 2)).astype(np.float32)
    where[0, 0] = 1e4, -1e4
    earlier = rng.normal(0, 3, (classes, *size)).astype(np.float32)
    results = []
    for compiled in (True, False):
        refined = Past(softened(earlier, size, 0.05, compiled=compiled), grey_before, where, 0.3)
        probabilities, _ = blend(earlier, grey_before, None, None, compiled=compiled)
        before = Past(probabilities, grey_before, where, 0.5)
        results.append(blend(logits, grey, refined, before, compiled=compiled))
    (rows, logs), (rows_numpy, logs_numpy) = results
    assert (
        np.abs(rows[..., :classes] - rows_numpy[..., :classes]).max() < 0.05
    )  # OpenCV looks up by 1/32 pixel
    assert np.abs(rows[..., :classes] - rows_numpy[..., :classes]).mean() < 1e-3
    assert rows[..., classes:].max(initial=0) < 1e-9
    np.testing.assert_allclose(np.exp(logs), rows[..., :classes].transpose(2, 0, 1), atol=2e-6)
    np.testing.assert_allclose(np.exp(logs_numpy).sum(0), 1, atol=1e-4)


def test_a_past_of_another_size_is_refused() -> None:
    rows, _ = blend(np.zeros((3, 24, 32), np.float32), np.zeros((48, 64), np.uint8), None, None)
    past = Past(rows, np.zeros((48, 64), np.uint8), standing_still((48, 64)), 0.5)
    with pytest.raises(ValueError, match="does not fit"):
        blend(np.zeros((3, 24, 32), np.float32), np.zeros((48, 66), np.uint8), None, past)
