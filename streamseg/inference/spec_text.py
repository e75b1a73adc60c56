"""engine.toml as text: written, and what an earlier one was given by hand kept."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import msgspec

from streamseg.crf.params import KERNEL_KEYS, CrfParams
from streamseg.errors import EngineError
from streamseg.inference.spec import EngineSpec, read_spec
from streamseg.runtime.files import write_file

_NOTES = {
    "input_size": "(height, width)",
    "size_multiple": "of the input's sides",
    "output_stride": "of the logits",
    "temperature": "of the confidence",
    "[normalisation]": "(level - mean) / std of RGB levels 0..255",
}
_FORM = {
    "input_name", "input_type", "layout", "channels", "size", "fit", "batch",
    "output_name", "output", "output_layout", "sigmoid_in_graph", "temperature",
}  # fmt: skip
"""What differs from a graph of ours; written where it does."""


def kept_settings(folder: Path, spec: EngineSpec) -> EngineSpec:
    """`spec` with [crf] and the thin classes of FOLDER/engine.toml, which were set by hand or by tuning.

    Unchanged where there is no engine yet, or one that cannot be read.
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
    """Write FOLDER/engine.toml; a reader finds the old or the new file. Raises OutputError."""
    write_file(folder / "engine.toml", spec_text(spec))


def spec_text(spec: EngineSpec) -> str:
    """The text of an engine.toml."""
    return "\n".join(_lines(spec)) + "\n"


def _lines(spec: EngineSpec) -> Iterator[str]:
    for key in ("name", "network", "licence", "label_set", "input_size", "size_multiple", "output_stride"):
        if getattr(spec, key) is not None:
            yield _pair(key, getattr(spec, key))
    for field in msgspec.structs.fields(EngineSpec):
        if field.name in _FORM and getattr(spec, field.name) != field.default:
            yield _pair(field.name, getattr(spec, field.name))
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
        if weights.data:
            pairs = (f"{json.dumps(name)} = {json.dumps(value)}" for name, value in weights.data.items())
            yield f"data = {{ {', '.join(pairs)} }}"
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
    """A line of TOML; numbers, lists and text are the same as in JSON."""
    note = f"  # {_NOTES[key]}" if key in _NOTES else ""
    return f"{key} = {json.dumps(value, ensure_ascii=False)}{note}"
