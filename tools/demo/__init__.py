"""Draws the clip of the source demo: a drive down a street, with its ground truth."""

from tools.demo.scene import CLASSES, draw_scene
from tools.demo.view import DEMO_SIZE

__all__ = ["CLASSES", "DEMO_SIZE", "draw_scene"]
