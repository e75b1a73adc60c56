"""The manifest: what went in, what came out, and what is needed to check it again."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import av
import msgspec

from streamseg.config.reading import sha256_of
from streamseg.errors import OutputError
from streamseg.inference.engine import Engine
from streamseg.recorded.settings import ProcessConfig
from streamseg.recorded.timeline import PtsRun

SCHEMA = 2
KNOWN_SCHEMAS = (1, 2)
"""Schema 1 (streamseg 0.1) had no account of what was promised, found and left out."""

SUFFIX = ".manifest.json"


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """What decides every byte of the results: with an equal one, work can continue where it stopped."""

    source_sha256: str
    source_bytes: int
    engine: str
    weights_sha256: str
    settings: dict[str, Any]
    versions: dict[str, str]


class Output(msgspec.Struct, frozen=True):
    """One result, by its name in the folder of results; bytes and SHA-256 are its content's."""

    file: str
    bytes: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """The proof of one input. Holds no time of day and no machine, so equal work has equal manifests."""

    schema: int
    input: str
    identity: Identity
    settings_sha256: str
    container: dict[str, Any]
    label_set: str
    classes: tuple[str, ...]
    licence: str  # of the engine's weights, which goes with their results
    size: tuple[int, int]  # of the masks
    frames_promised: int | None = None  # by the container's index, which may be wrong; None: it has none
    frames_found: int | None = None  # decoded, and those that could not be
    frames_decoded: int
    frames_left_out: int = 0  # by the settings: --start, --end, --every, --max-fps
    masks: int
    dropped: int
    resized: int
    mended_time_stamps: int
    corrupt: int
    damage: str | None
    damaged_at_s: tuple[float, ...]
    missing: tuple[str, ...] = ()  # pictures of a sequence, or files that a list names, that are not there
    time_base: str
    pts_sha256: str
    pts_runs: list[PtsRun]
    seq_runs: list[PtsRun] = []  # the frames' numbers
    labels_sha256: str
    outputs: dict[str, Output]
    not_made: dict[str, str] = {}  # results that were asked for, and why there are none
    sound: str | None = None  # what became of the source's, in words; None where none was looked for or there

    def problems(self) -> list[str]:
        """What these results lack of what was asked for, a line each; none where all is there."""
        found = []
        if self.damage is not None:
            found.append(self.damage)
        elif self.corrupt:
            found.append(f"{self.input}: damaged; {self.corrupt} pictures or packets could not be decoded")
        if self.missing:
            names = ", ".join(self.missing[:5]) + (", …" if len(self.missing) > 5 else "")
            found.append(f"{self.input}: {len(self.missing)} missing: {names}")
        known = self.schema > 1  # how many were left out
        lost = self.frames_decoded - self.frames_left_out - self.masks if known else self.dropped
        if lost > 0 or self.dropped > 0:
            found.append(f"{self.input}: {max(lost, self.dropped)} frames have no mask")
        found += [f"{self.input}: no {name}: {reason}" for name, reason in self.not_made.items()]
        return found

    def encode(self) -> bytes:
        return msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n"


class _Schema(msgspec.Struct):
    schema: int


def read_manifest(path: Path) -> Manifest:
    """Raises OutputError when the file cannot be read or is no manifest."""
    try:
        return decode_manifest(path.read_bytes(), str(path))
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(f"{path}: cannot be read ({error.strerror})") from error


def decode_manifest(data: bytes, shown: str) -> Manifest:
    """Raises OutputError when the data are no manifest; `shown` is where they are from."""
    try:
        schema = msgspec.json.decode(data, type=_Schema).schema
        if schema not in KNOWN_SCHEMAS:
            raise OutputError(
                f"{shown}: was made by another version of streamseg (schema {schema}; this one knows "
                f"{' and '.join(map(str, KNOWN_SCHEMAS))}); use that version, or another folder"
            )
        return msgspec.json.decode(data, type=Manifest)
    except msgspec.DecodeError as error:
        raise OutputError(f"{shown}: is not a manifest of streamseg: {error}") from error


def identify(sha256: str, size: int, engine: Engine, config: ProcessConfig) -> Identity:
    """The identity of a job: an input of this content through this engine with these settings."""
    info = engine.info
    return Identity(
        source_sha256=sha256,
        source_bytes=size,
        engine=info.id,
        weights_sha256=info.weights_sha256,
        settings=result_settings(config, engine),
        versions=versions(),
    )


def result_settings(config: ProcessConfig, engine: Engine) -> dict[str, Any]:
    """The settings that decide the results; how many threads computed them does not."""
    settings = plain_settings(config)
    del settings["engine"]
    refinement = _as_json(config.refinement.written_out())
    for key in ("level", "max_age_s", "timeout_s", "priority"):
        del refinement[key]
    settings["refinement"] = refinement
    if published := config.engine.labels.given:
        settings["label_view"] = _as_json(published)
    if (config.confidence or "min_confidence" in published) and engine.info.spec.temperature != 1:
        settings["temperature"] = engine.info.spec.temperature
    return {**settings, "input_size": list(engine.info.input_size)}


def plain_settings(config: ProcessConfig) -> dict[str, Any]:
    """The settings as a manifest has them; those that 0.2 did not know are there when they are set."""
    settings: dict[str, Any] = _as_json(config)
    for name, given in (("zones", config.zones.given), ("polygons", config.polygons)):
        if not given:
            del settings[name]
    return settings


def _as_json(settings: Any) -> Any:
    """As it is read back from a manifest: with lists, not tuples."""
    return msgspec.json.decode(msgspec.json.encode(settings))


def settings_digest(settings: dict[str, Any]) -> str:
    return hashlib.sha256(msgspec.json.encode(settings, order="sorted")).hexdigest()


def labels_digest(digests: Iterable[bytes]) -> str:
    """SHA-256 over the SHA-256 of each mask's labels, row by row, in order."""
    total = hashlib.sha256()
    for digest in digests:
        total.update(digest)
    return total.hexdigest()


def versions() -> dict[str, str]:
    """Of what computes and encodes the results."""
    found = {"python": platform.python_version()}
    for package in ("streamseg", "av", "numpy", "onnxruntime", "opencv-python-headless"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed as a package"
    for library in ("libavcodec", "libavformat"):
        found[library] = ".".join(str(n) for n in av.library_versions[library])
    return found


def differences(old: Identity, new: Identity) -> list[str]:
    """How two jobs differ, in words: "settings.scale was 1.0, is 0.5"."""
    found = []
    if old.source_sha256 != new.source_sha256:
        found.append("the input's content differs")
    if old.engine != new.engine:
        found.append(f"engine was {old.engine}, is {new.engine}")
    elif old.weights_sha256 != new.weights_sha256:
        found.append(f"engine {new.engine} has other weights")
    for group in ("settings", "versions"):
        before, now = getattr(old, group), getattr(new, group)
        found += [
            f"{group}.{key} was {before.get(key)}, is {now.get(key)}"
            for key in sorted({*before, *now})
            if before.get(key) != now.get(key)
        ]
    return found


def result_sha256(path: Path) -> str:
    """SHA-256 of a file; of a folder, over name and SHA-256 of each file in it, in order of their names."""
    if path.is_dir():
        total = hashlib.sha256()
        for name, one in files_in(path):
            total.update(os.fsencode(f"{name}\n{result_sha256(one)}\n"))
        return total.hexdigest()
    return sha256_of(path)


def result_bytes(path: Path) -> int:
    if path.is_dir():
        return sum(one.stat().st_size for _, one in files_in(path))
    return path.stat().st_size


def files_in(folder: Path) -> list[tuple[str, Path]]:
    """Every file in a folder and its subfolders, by its name from there on, in order."""
    return sorted((one.relative_to(folder).as_posix(), one) for one in folder.rglob("*") if one.is_file())
