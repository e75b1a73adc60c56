"""streamseg segment"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from streamseg.cli.fetching import fetch_missing
from streamseg.cli.settings import engine_option, given, options_from
from streamseg.config import EngineConfig, build_settings
from streamseg.errors import OutputError, SourceError, UsageError
from streamseg.runtime.terminal import echo

if TYPE_CHECKING:
    from streamseg.inference.engine import Engine

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
ENDINGS = {"overlay": "-overlay.jpg", "png": ".png", "json": ".json"}
LARGEST = 256 << 20  # bytes of a picture's file
STDIN = "-"


@click.command()
@click.argument("pictures", nargs=-1, required=True, metavar="PICTURE...")
@engine_option
@click.option(
    "--out", default="segmented", help="Folder for the results; made if missing. - is standard output."
)
@click.option(
    "--format",
    "formats",
    type=click.Choice(list(ENDINGS)),
    multiple=True,
    default=("overlay",),
    help="overlay: the picture under its classes; png: the class of each pixel; json: shares, COCO's run "
    "lengths, outlines. May be repeated.",
)
@options_from(EngineConfig, "backend", "precision", "input_size", "threads")
def command(pictures: tuple[str, ...], name: str, out: str, formats: tuple[str, ...], **options: Any) -> None:
    """Segment single pictures, to try a network.

    PICTURE is a file, a folder of pictures, or - for one on standard input. A picture that cannot be read is
    named, and the others are done.
    """
    from streamseg.inference.plans.load import load_engine

    config = build_settings(EngineConfig, {"name": name, **given(**options)})
    wanted = list(dict.fromkeys(formats))
    found = list(_found(pictures))
    if out == STDIN and (len(found) > 1 or len(wanted) > 1):
        raise UsageError("--out -: takes one picture and one --format")
    stems = _stems([path for path, _ in found])
    failed = False
    fetch_missing(name)
    engine = load_engine(config)
    try:
        for (path, shown), stem in zip(found, stems, strict=True):
            try:
                _segment(engine, path, shown, out, stem, wanted)
            except SourceError as error:
                echo(f"streamseg: {error}", err=True)
                failed = True
    finally:
        engine.close()
    if failed:
        sys.exit(1)


def _found(names: tuple[str, ...]) -> Iterator[tuple[Path | None, str]]:
    """The pictures, None for standard input, and their names as shown; raises UsageError."""
    seen: set[Path] = set()
    stdin = 0
    for name in names:
        path = Path(name)
        if name == STDIN:
            stdin += 1
            if stdin > 1:
                raise UsageError("-: standard input holds one picture; it is named twice")
            yield None, "standard input"
        elif path.is_dir():
            inside = sorted(p for p in path.iterdir() if _is_picture(p))
            if not inside:
                raise UsageError(f"{name}: holds no picture ({', '.join(sorted(SUFFIXES))})")
            yield from ((p, str(p)) for p in inside if not (p in seen or seen.add(p)))  # type: ignore[func-returns-value]
        elif not path.exists():
            raise UsageError(f"{name}: no such file or folder")
        elif path not in seen:
            seen.add(path)
            yield path, name


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def _stems(paths: list[Path | None]) -> list[str]:
    """What the names of results begin with: the picture's name, and more of it where two are alike."""
    chosen = [path.stem if path is not None else "stdin" for path in paths]
    alike = Counter(chosen)
    chosen = [
        path.name if path is not None and alike[one] > 1 else one
        for path, one in zip(paths, chosen, strict=True)
    ]
    given_to: Counter[str] = Counter()
    for i, one in enumerate(chosen):
        given_to[one] += 1
        if given_to[one] > 1:
            chosen[i] = f"{one}-{given_to[one]}"
    return chosen


def _segment(engine: Engine, path: Path | None, shown: str, out: str, stem: str, formats: list[str]) -> None:
    """Segment one picture and write what is wanted; raises SourceError and OutputError."""
    from streamseg.evaluation.engines import segment_with_confidence
    from streamseg.outputs.one_picture import shares_in_words
    from streamseg.runtime.files import make_folder, write_file
    from streamseg.runtime.picture_file import read_rgb

    try:
        rgb = read_rgb(_read(path))
    except SourceError as error:
        raise SourceError(f"{shown}: {error}") from error
    labels, confidence = segment_with_confidence(engine, rgb)
    if out == STDIN:
        sys.stdout.buffer.write(_made(formats[0], engine, rgb, labels, confidence))
        sys.stdout.buffer.flush()
        return
    folder, written = make_folder(Path(out)), []
    for kind in formats:
        target = folder / f"{stem}{ENDINGS[kind]}"
        if path is not None and target.exists() and target.samefile(path):
            raise OutputError(f"{target}: is the picture itself; choose another --out")
        write_file(target, _made(kind, engine, rgb, labels, confidence))
        written.append(str(target))
    echo(f"{shown}: {shares_in_words(labels, engine.info.labels)}: {', '.join(written)}")


def _read(path: Path | None) -> bytes:
    try:
        if path is None:
            data = sys.stdin.buffer.read(LARGEST + 1)
        else:
            with path.open("rb") as file:
                data = file.read(LARGEST + 1)
    except OSError as error:
        raise SourceError(f"cannot be read ({error.strerror})") from error
    if len(data) > LARGEST:
        raise SourceError(f"is larger than {LARGEST >> 20} MiB")
    return data


def _made(kind: str, engine: Engine, rgb: Any, labels: Any, confidence: Any) -> bytes:
    """One result of a picture, as the bytes of a file."""
    import msgspec

    from streamseg.outputs.one_picture import document_of, overlay_jpeg
    from streamseg.outputs.png import indexed_png

    label_set = engine.info.labels
    if kind == "overlay":
        return overlay_jpeg(rgb, labels, label_set)
    if kind == "png":
        return indexed_png(labels, label_set.palette())
    return msgspec.json.encode(document_of(labels, confidence, label_set, engine.info.id)) + b"\n"
