"""The clip that streamseg draws itself: a drive down a street, with its ground truth."""

from streamseg.demo.clip import DEMO_FPS, DEMO_SECONDS, demo_clip, write_clip
from streamseg.demo.scene import CLASSES, draw_scene
from streamseg.demo.view import DEMO_SIZE

__all__ = ["CLASSES", "DEMO_FPS", "DEMO_SECONDS", "DEMO_SIZE", "demo_clip", "draw_scene", "write_clip"]
