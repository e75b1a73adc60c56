"""An engine's folder: engine.toml read and written, its weights, and where engines are looked for."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from streamseg.config import Precision, Settings, build_settings
from streamseg.crf.params import KERNEL_KEYS, CrfParams
from streamseg.errors import ConfigError, EngineError
from streamseg.runtime.files import atomic_write
from streamseg.types import ClassInfo, LabelSet

FP32, INT8 = "model.onnx", "model.int8.onnx"

_NOTES = {
    "input_size": "(height, width)",
    "size_multiple": "of the input's sides",
    "output_stride": "of the logits",
    "[normalisation]": "(level - mean) / std of RGB levels 0..255",
}


class Normalisation(Settings, frozen=True):
    """How RGB levels become the network's input: (level − mean) / std, in 0..255."""

    mean: Annotated[tuple[float, float, float], Meta(description="Of each RGB channel, in levels.")]
    std: Annotated[tuple[float, float, float], Meta(description="Of each RGB channel, in levels.")]
    in_graph: Annotated[
        bool, Meta(description="The graph takes uint8 RGB (N, H, W, 3) and does this itself.")
    ]


class Weights(Settings, frozen=True):
    """One file of weights."""

    file: Annotated[str, Meta(pattern=r"^[^/\\]+$", description="Its name, in the engine's folder.")]
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$", description="Its SHA-256, in hexadecimal.")]


class ClassEntry(Settings, frozen=True):
    """One class; its id is its position."""

    name: Annotated[str, Meta(min_length=1, description="Its name.")]
    colour: Annotated[tuple[int, int, int], Meta(description="Its colour, RGB.")]
    thin: Annotated[bool, Meta(description="Narrower than the CRF's kernels.")] = False


class EngineSpec(Settings, frozen=True):
    """One engine's folder, as its engine.toml describes it."""

    name: Annotated[str, Meta(min_length=1, description="The engine's name.")]
    network: Annotated[str, Meta(min_length=1, description="The network it is an instance of.")]
    licence: Annotated[str, Meta(min_length=1, description="The licence of the weights.")]
    label_set: Annotated[str, Meta(min_length=1, description="Id of the classes.")]
    input_size: Annotated[tuple[int, int], Meta(description="(height, width) it was trained for.")]
    normalisation: Normalisation
    weights: Annotated[dict[str, Weights], Meta(description="Files of weights, by precision.")]
    classes: Annotated[tuple[ClassEntry, ...], Meta(description="The classes, in order of their ids.")]
    size_multiple: Annotated[int, Meta(ge=1, description="Input sides are multiples of this.")] = 8
    output_stride: Annotated[int, Meta(ge=1, description="Input pixels for each logit.")] = 8
    crf: CrfParams = CrfParams()

    def weights_of(self, precision: Precision) -> Weights:
        """The file of a precision: int8 has its own, the others start from fp32's; raises EngineError."""
        file = "int8" if precision == "int8" else "fp32"
        if file not in self.weights:
            make = "streamseg engine quantise" if file == "int8" else "streamseg engine export"
            raise EngineError(
                f"engine {self.name}: has no {file} weights, only {', '.join(self.weights)}; "
                f"make them with {make}, or choose another engine.precision"
            )
        return self.weights[file]

    @property
    def labels(self) -> LabelSet:
        return LabelSet(self.label_set, tuple(ClassInfo(c.name, c.colour, c.thin) for c in self.classes))


def engine_folders() -> list[Path]:
    """Where engines are looked for: $STREAMSEG_ENGINES, ./engines, the package's own, a checkout's."""
    package = Path(__file__).resolve().parents[1]
    named = [Path(p) for p in os.environ.get("STREAMSEG_ENGINES", "").split(os.pathsep) if p]
    folders = [*named, Path("engines"), package / "engines", package.parent / "engines"]
    return [f for f in folders if f.is_dir()]


def list_engines() -> Iterator[tuple[Path, EngineSpec]]:
    """Every engine that is found, in the order of engine_folders(); of two with one name the first."""
    seen: set[str] = set()
    for folder in engine_folders():
        for toml in sorted(folder.glob("*/engine.toml")):
            if toml.parent.name not in seen:
                seen.add(toml.parent.name)
                yield toml.parent, read_spec(toml.parent)


def find_engine(name: str) -> tuple[Path, EngineSpec]:
    """The engine of this name, or in this folder; raises EngineError with the most similar known name."""
    if os.sep in name or (Path(name) / "engine.toml").is_file():
        return Path(name), read_spec(Path(name))
    for folder in engine_folders():
        if (folder / name / "engine.toml").is_file():
            return folder / name, read_spec(folder / name)
    known = sorted({path.name for path, _ in list_engines()})
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known) or 'none'}"
    raise EngineError(f"unknown engine {name!r}{hint}")


def read_spec(folder: Path) -> EngineSpec:
    """Read FOLDER/engine.toml; raises EngineError that names the file and every wrong key."""
    path = folder / "engine.toml"
    try:
        return build_settings(EngineSpec, tomllib.loads(path.read_text("utf-8")))
    except OSError as error:
        raise EngineError(
            f"engine {folder}: {path.name} cannot be read ({error.strerror}); "
            "streamseg engine list shows the engines"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise EngineError(f"engine {folder}: {path.name} is not valid TOML: {error}") from error
    except ConfigError as error:
        raise EngineError(f"engine {folder}: {path.name}: " + "; ".join(error.problems)) from error


def read_weights(folder: Path, spec: EngineSpec, precision: Precision) -> bytes:
    """The file of this precision, its SHA-256 checked; raises EngineError."""
    entry = spec.weights_of(precision)
    try:
        data = (folder / entry.file).read_bytes()
    except OSError as error:
        raise EngineError(
            f"engine {spec.name}: {entry.file} cannot be read ({error.strerror}); install the engine again"
        ) from error
    if hashlib.sha256(data).hexdigest() != entry.sha256:
        raise EngineError(
            f"engine {spec.name}: {entry.file} is damaged (its SHA-256 is not the one in engine.toml); "
            "install it again"
        )
    return data


def weights_in(folder: Path) -> dict[str, Weights]:
    """The files of weights in a folder, with their hashes."""
    found = {}
    for precision, name in (("fp32", FP32), ("int8", INT8)):
        if (folder / name).is_file():
            with (folder / name).open("rb") as file:
                found[precision] = Weights(file=name, sha256=hashlib.file_digest(file, "sha256").hexdigest())
    return found


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
    """Write FOLDER/engine.toml; a reader finds the old or the new file."""
    atomic_write(folder / "engine.toml", "\n".join(_lines(spec)) + "\n")


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
    """A line of TOML; numbers, lists and text are the same as in JSON."""
    note = f"  # {_NOTES[key]}" if key in _NOTES else ""
    return f"{key} = {json.dumps(value, ensure_ascii=False)}{note}"
