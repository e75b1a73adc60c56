"""Which frames are keyframes."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest

from streamseg.refinement.keyframes import KeyframeSelector, decide, features, is_cut
from streamseg.types import Frame, Geometry, Logits, Stamp

SIZE = (48, 64)


def scene(number: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture and logits; those of two numbers have neither colours nor labels in common."""
    rng = np.random.default_rng(number)
    rgb = np.empty((*SIZE, 3), np.uint8)
    rgb[:] = ((number * 64 + 32) % 256, (number * 128 + 32) % 256, 40)
    logits = rng.normal(0, 0.1, (4, 12, 16)).astype(np.float32)
    logits[number % 4] += 5
    return rgb, logits


def scores(seq: int, number: int = 0, epoch: int = 0) -> Logits:
    rgb, logits = scene(number)
    frame = Frame(Stamp("gate", epoch, seq, None, Fraction(1, 25), 0, "arrival"), rgb, 0)
    return Logits(frame, logits, Geometry(SIZE, SIZE))


def test_keyframes_come_at_the_interval_counted_in_decoded_frames() -> None:
    keyframes = KeyframeSelector(every=5)
    seen = [0, 1, 4, 5, 7, 11, 12, 16]  # the live route skips frames
    chosen = {seq: keyframes.observe(scores(seq)).keyframe for seq in seen}
    assert chosen == {
        0: "first",
        1: None,
        4: None,
        5: "interval",
        7: None,
        11: "interval",
        12: None,
        16: "interval",
    }


def test_another_scene_is_a_keyframe_and_a_cut_and_restarts_the_interval() -> None:
    keyframes = KeyframeSelector(every=3)
    choices = [keyframes.observe(scores(seq, 0 if seq < 2 else 1)) for seq in range(6)]
    assert [c.keyframe for c in choices] == ["first", None, "scene", None, None, "interval"]
    assert [c.cut for c in choices] == [False, False, True, False, False, False]


def test_a_request_makes_the_next_frame_a_keyframe_once() -> None:
    keyframes = KeyframeSelector(every=100)
    keyframes.observe(scores(0))
    keyframes.request()
    assert [keyframes.observe(scores(seq)).keyframe for seq in (1, 2)] == ["request", None]


def test_a_new_connection_begins_anew() -> None:
    keyframes = KeyframeSelector(every=100)
    keyframes.observe(scores(500))
    choice = keyframes.observe(scores(0, number=1, epoch=1))
    assert choice.keyframe == "first"
    assert not choice.cut  # there is nothing to compare with


def test_the_same_frames_give_the_same_choices() -> None:
    def run() -> list[object]:
        keyframes = KeyframeSelector(every=4)
        return [keyframes.observe(scores(seq, seq // 7)) for seq in range(20)]

    assert run() == run()


@pytest.mark.parametrize("change", ["light", "labels"])
def test_what_changes_in_the_picture_or_in_the_labels_alone_is_no_cut(change: str) -> None:
    rgb, logits = scene(0)
    other_rgb, other_logits = scene(1)
    before = features(rgb, logits)
    now = features(other_rgb, logits) if change == "light" else features(rgb, other_logits)
    assert not is_cut(before, now)
    assert is_cut(before, features(other_rgb, other_logits))


def test_another_picture_size_is_a_cut() -> None:
    rgb, logits = scene(0)
    assert is_cut(features(rgb, logits), features(rgb, logits[:, :9]))


def test_successive_frames_of_a_drive_are_no_cut_and_another_clip_is(shared_data) -> None:  # type: ignore[no-untyped-def]
    import cv2

    names = sorted((shared_data / "camvid/val/images").iterdir())[::10]
    rng = np.random.default_rng(0)

    def read(path: object) -> np.ndarray:
        return np.ascontiguousarray(cv2.imread(str(path))[..., ::-1])

    truth = [
        cv2.imread(str(p.parent.parent / "labels" / f"{p.stem}.png"), cv2.IMREAD_UNCHANGED) for p in names
    ]

    def logits_of(labels: np.ndarray) -> np.ndarray:
        small = cv2.resize(labels, (120, 90), interpolation=cv2.INTER_NEAREST)
        return np.stack([(small == c) * 4.0 for c in range(11)]).astype(np.float32) + rng.normal(
            0, 0.3, (11, 90, 120)
        ).astype(np.float32)

    looks = [features(read(p), logits_of(t)) for p, t in zip(names, truth, strict=True)]
    assert not any(is_cut(a, b) for a, b in itertools.pairwise(looks))
    upside_down = features(read(names[0])[::-1] // 3, logits_of(truth[0])[:, ::-1])
    assert is_cut(looks[0], upside_down)


def test_the_rule_needs_nothing_but_its_arguments() -> None:
    rgb, logits = scene(0)
    seen = features(rgb, logits)
    assert decide(None, seen, 7, None, 5, False).keyframe == "first"
    assert decide(seen, seen, 7, 2, 5, False).keyframe == "interval"
    assert decide(seen, seen, 6, 2, 5, False).keyframe is None
    assert decide(seen, seen, 6, 2, 5, True).keyframe == "request"
