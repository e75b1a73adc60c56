"""The overlay under examples/, and what its bridge to ROS would send."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np

from tests.integration.children import ROOT
from tests.integration.daemons import environment, run_daemon
from tests.masks import STREET, make_mask
from tests.media import draw_clip
from tests.ports import free_port
from tests.waiting import LIMIT_S

EXAMPLES = ROOT / "examples"


def loaded(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_overlay_example_writes_a_video_with_the_masks_over_their_pictures(
    tiny_engine: Path, tmp_path: Path
) -> None:
    clip = draw_clip(tmp_path / "red.mp4", frames=30)
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    words = ("--source", clip, "--engine", tiny_engine, "--realtime", "--loop", "--endpoint", endpoint)
    out = tmp_path / "out.mp4"
    command = [sys.executable, EXAMPLES / "overlay.py", endpoint, "video", out, "8"]
    with run_daemon(*words):
        subprocess.run(
            [str(w) for w in command], timeout=LIMIT_S, check=True, env=environment(), cwd=tmp_path
        )
    video = cv2.VideoCapture(str(out))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == 8
    _, frame = video.read()
    assert frame.shape == (48, 64, 3)


def test_the_overlay_tints_classes_and_leaves_unknown_pixels() -> None:
    overlay = loaded(EXAMPLES / "overlay.py").overlay
    labels = np.array([[0, 1], [255, 2]], np.uint8)
    shown = overlay(np.full((2, 2, 3), 100, np.uint8), replace(make_mask(0), labels=labels), STREET)
    assert shown[1, 0].tolist() == [100, 100, 100]
    assert shown[0, 0].tolist() == [(100 + c + 1) // 2 for c in (128, 64, 128)]


def test_what_ros_would_be_sent_is_right_and_its_node_is_valid_python() -> None:
    fields = loaded(EXAMPLES / "ros2/fields.py")
    mask = make_mask(3, captured_unix_ns=1_700_000_000_123_456_789)
    image = fields.image_fields(mask)
    assert len(image["data"]) == image["height"] * image["step"]
    assert np.frombuffer(image["data"], np.uint8).reshape(36, 48).tolist() == mask.labels.tolist()
    assert fields.stamp_of(mask) == (1_700_000_000, 123_456_789)
    assert fields.topic_of("2nd-gate.a") == "/streamseg/_2nd_gate_a/mask"
    ast.parse((EXAMPLES / "ros2/bridge.py").read_text())
