"""The packaged clip and what draws it: always the same picture, with its ground truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime

from streamseg.config import StreamConfig
from streamseg.sources import open_source
from streamseg.sources.frames import decode
from tools.demo import CLASSES, DEMO_SIZE, draw_scene
from tools.demo.__main__ import DEMO_FPS, DEMO_SECONDS, write_clip


def test_a_moment_is_always_drawn_the_same_and_the_drive_repeats_itself() -> None:
    rgb, labels = draw_scene(3.2)
    draw_scene(7.9)
    again_rgb, again_labels = draw_scene(3.2)
    assert np.array_equal(rgb, again_rgb)
    assert np.array_equal(labels, again_labels)
    assert rgb.shape == (*DEMO_SIZE, 3)
    assert rgb.flags.c_contiguous
    assert labels.shape == DEMO_SIZE


def test_every_class_is_seen_somewhere_and_the_street_lies_where_streets_lie() -> None:
    seen = np.zeros((len(CLASSES), *DEMO_SIZE), np.int64)
    moments = [i * 0.5 for i in range(20)]
    for t_s in moments:
        _, labels = draw_scene(t_s)
        assert labels.max() < len(CLASSES)
        for number in range(len(CLASSES)):
            seen[number] += labels == number
    shares = dict(zip(CLASSES, seen.sum((1, 2)) / seen.sum(), strict=True))
    assert min(shares.values()) > 0, shares
    assert 0.25 < shares["road"] < 0.5
    assert 0.05 < shares["car"] < 0.25
    h, w = DEMO_SIZE
    road, sky = seen[CLASSES.index("road")], seen[CLASSES.index("sky")]
    assert (road[-40:, w // 4 : -w // 4] == len(moments)).all()
    assert sky[h // 2 + 20 :].sum() == 0
    assert (sky[0, w // 2 - 20 : w // 2 + 20] == len(moments)).all()


def test_the_default_engine_sees_sky_houses_road_and_cars_where_they_are_drawn() -> None:
    model = Path(__file__).resolve().parents[2] / "engines" / "camvid-lite" / "model.onnx"
    network = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    drawn, seen = [], []
    for t_s in (1.0, 4.0, 8.5):
        rgb, labels = draw_scene(t_s)
        (logits,) = network.run(None, {network.get_inputs()[0].name: rgb[None]})
        coarse = logits[0].argmax(0).astype(np.uint8)
        seen.append(coarse.repeat(4, 0).repeat(4, 1))
        drawn.append(labels)
    for name, least in (("sky", 0.9), ("building", 0.6), ("road", 0.9), ("car", 0.7)):
        here = np.stack(drawn) == CLASSES.index(name)
        assert (np.stack(seen)[here] == CLASSES.index(name)).mean() > least, name


def test_the_picture_moves() -> None:
    here, there = (draw_scene(t)[0].astype(int) for t in (2.0, 2.0 + 1 / DEMO_FPS))
    assert np.abs(here - there).mean() > 1


def test_a_drawn_clip_is_a_real_h264_file_that_shows_the_scene(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    write_clip(path, seconds=0.4)
    assert list(tmp_path.iterdir()) == [path]
    with open_source(StreamConfig(source=str(path)), "demo") as source:
        assert (source.codec, source.fps, source.size) == ("h264", DEMO_FPS, DEMO_SIZE)
        frames = list(decode(source, "demo"))
    assert len(frames) == 12
    for i in (0, 11):
        assert np.abs(frames[i].rgb.astype(int) - draw_scene(i / DEMO_FPS)[0]).mean() < 6


def test_the_demo_source_is_the_packaged_clip_and_that_shows_the_drawn_street() -> None:
    with open_source(StreamConfig(source="demo:"), "demo") as source:
        assert (source.url, source.live) == ("demo:", False)
        assert (source.codec, source.fps, source.size) == ("h264", DEMO_FPS, DEMO_SIZE)
        frames = list(decode(source, "demo"))
    assert len(frames) == DEMO_SECONDS * DEMO_FPS
    for i in (0, 150, 299):
        assert np.abs(frames[i].rgb.astype(int) - draw_scene(i / DEMO_FPS)[0]).mean() < 6
