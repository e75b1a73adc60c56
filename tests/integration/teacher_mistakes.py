"""The mistakes that people make with teachers, left-out drives and calibration: rows of docs/operating.md."""

from __future__ import annotations

from tests.integration.mistakes import MISTAKES, Place, Words, evaluated, trained


def taught(p: Place, *words: str) -> Words:
    return trained(p, 0, 1, 1, 2, words=list(words))


def calibrated(p: Place) -> Words:
    return ["engine", "calibrate", str(p.engine), *evaluated(p, (48, 64), label=255)[-2:]]


MISTAKES |= {
    "unlabelled pictures without a teacher": lambda p: taught(p, "--unlabelled", "street.mp4"),
    "neither labels nor a teacher": lambda p: ["train", "--out", "run"],
    "a teacher that is not there": lambda p: taught(p, "--teacher", "camvid-slm"),
    "a teacher of other classes": lambda p: taught(p, "--teacher", str(p.engine)),
    "a drive that no image is of": lambda p: taught(p, "--leave-out", "north"),
    "a score without labels": lambda p: ["eval", "--video", str(p.clip()), "--crf"],
    "calibration without a labelled pixel": calibrated,
}
