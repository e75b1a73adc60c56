"""Writing an engine's folder: engine.toml from its specification, and the hashes of its files."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from streamseg.crf.params import KERNEL_KEYS, CrfParams
from streamseg.errors import EngineError
from streamseg.inference.spec import EngineSpec, Weights, read_spec

FP32, INT8 = "model.onnx", "model.int8.onnx"

_NOTES = {
    "input_size": "(height, width)",
    "size_multiple": "of the input's sides",
    "output_stride": "of the logits",
    "[normalisation]": "(level - mean) / std of RGB levels 0..255",
}


def weights_of(folder: Path) -> dict[str, Weights]:
    """The weights that lie in a folder, with their hashes."""
    found = {}
    for precision, name in (("fp32", FP32), ("int8", INT8)):
        if (folder / name).is_file():
            with (folder / name).open("rb") as file:
                found[precision] = Weights(file=name, sha256=hashlib.file_digest(file, "sha256").hexdigest())
    return found


def kept_settings(folder: Path, spec: EngineSpec) -> EngineSpec:
    """`spec` with what was chosen in FOLDER/engine.toml by hand or by tuning: [crf], and the thin classes.

    As it is where there is no engine yet, or one that cannot be read.
    """
    try:
        before = read_spec(folder)
    except EngineError:
        return spec
    thin = {entry.name: entry.thin for entry in before.classes}
    classes = tuple(
        msgspec.structs.replace(entry, thin=thin.get(entry.name, entry.thin)) for entry in spec.classes
    )
    return msgspec.structs.replace(spec, crf=before.crf, classes=classes)


def write_spec(folder: Path, spec: EngineSpec) -> None:
    """Write FOLDER/engine.toml; it appears whole."""
    beside = folder / "engine.toml.part"
    beside.write_text("\n".join(_lines(spec)) + "\n", "utf-8")
    os.replace(beside, folder / "engine.toml")


def _lines(spec: EngineSpec) -> Iterator[str]:
    for key in ("name", "network", "licence", "label_set", "input_size", "size_multiple", "output_stride"):
        yield _pair(key, getattr(spec, key))
    yield from ("", f"[normalisation]  # {_NOTES['[normalisation]']}")
    for key in ("mean", "std"):
        yield _pair(key, getattr(spec.normalisation, key))
    yield _pair("in_graph", spec.normalisation.in_graph)
    for precision, weights in spec.weights.items():
        yield from (
            "",
            f"[weights.{precision}]",
            _pair("file", weights.file),
            _pair("sha256", weights.sha256),
        )
    for entry in spec.classes:
        yield from ("", "[[classes]]", _pair("name", entry.name), _pair("colour", entry.colour))
        if entry.thin:
            yield "thin = true"
    yield from ("", "[crf]")
    usual = CrfParams()
    for key in spec.crf.__struct_fields__:
        value = getattr(spec.crf, key)
        if key in KERNEL_KEYS or value != getattr(usual, key):
            yield _pair(key, value)


def _pair(key: str, value: object) -> str:
    """A line of TOML, which writes numbers, lists and text as JSON does."""
    note = f"  # {_NOTES[key]}" if key in _NOTES else ""
    return f"{key} = {json.dumps(value, ensure_ascii=False)}{note}"
