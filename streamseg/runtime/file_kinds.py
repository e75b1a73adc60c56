"""What a file is, by its first bytes: for messages about a file that is not what it should be."""

from __future__ import annotations

_STARTS = (
    (
        b"version https://git-lfs.github.com/",
        "a Git LFS pointer, not the file itself; fetch it with: git lfs pull",
    ),
    (b"<!DOCTYPE", "a web page; download the file itself"),
    (b"<html", "a web page; download the file itself"),
    (b"<?xml", "an XML document"),
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "compressed by gzip; unpack it first"),
    (b"\x89HDF\r\n", "an HDF5 file, as Keras writes"),
    (b"\x80", "a pickle, as torch and Python write"),
)
_ORT = "in ONNX Runtime's own format; take the .onnx file that it was made of"


def kind_of(start: bytes) -> str:
    """What a file with these first bytes is, in words; empty where they tell nothing."""
    if not start:
        return "empty"
    if start[4:8] == b"ORTM":
        return _ORT
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n")
    return next((kind for begin, kind in _STARTS if text[: len(begin)].lower() == begin.lower()), "")
