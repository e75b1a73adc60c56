"""A graph and its files of weights taken in: found, checked, tried, and written as an engine's folder."""

from __future__ import annotations

import contextlib
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from streamseg.config import EngineConfig
from streamseg.errors import EngineError, OutputError, StreamsegError, UsageError
from streamseg.inference.engine import Engine
from streamseg.inference.engine_folders import engine_folders, holds_engine
from streamseg.inference.forms import Array
from streamseg.inference.interface import FormError
from streamseg.inference.onnx_file import MOST_BYTES, OnnxSurface, checked_name, in_one_file
from streamseg.inference.plans.load import load_engine
from streamseg.inference.spec import FP32, EngineSpec
from streamseg.inference.spec_text import write_spec
from streamseg.inference.weights import weights_entry
from streamseg.models.weights.onnx_facts import read_facts
from streamseg.models.weights.onnx_guess import Importing
from streamseg.models.weights.onnx_hints import Guess, hints_of
from streamseg.types import U8

_LIKELY = (
    "model.onnx",
    "onnx/model.onnx",
    "end2end.onnx",
)  # in a folder: HuggingFace's, Optimum's, mmdeploy's
_TORCH = "torch.onnx.export, yolo export format=onnx, or optimum-cli export onnx"
_OTHERS = {
    **dict.fromkeys((".pt", ".pth", ".ckpt", ".safetensors", ".bin"), ("weights of torch", _TORCH)),
    **dict.fromkeys((".h5", ".keras", ".pb", ".tflite"), ("a network of TensorFlow", "tf2onnx")),
    **dict.fromkeys((".engine", ".plan", ".trt"), ("a plan of TensorRT", "from what it was made of")),
    ".xml": ("a network of OpenVINO", "from what it was made of"),
    ".caffemodel": ("weights of Caffe", "or see streamseg model import"),
}  # by suffix: what it is, and how it becomes a graph
# What a graph may turn out to be although its input says otherwise.
_LADDER: tuple[dict[str, Any], ...] = ({}, {"size": "fixed"}, {"size": "fixed", "batch": 1})


class Taken(msgspec.Struct, frozen=True):
    """An engine that was made, and what was found out about it."""

    spec: EngineSpec
    graph: Path
    opset: int
    producer: str
    guesses: tuple[Guess, ...]


def find_graph(path: Path) -> Path:
    """The ONNX file that is named, or that lies in a folder; raises EngineError."""
    if not path.exists():
        raise EngineError(f"{path}: no such file or folder")
    if not path.is_dir():
        if path.suffix.lower() in _OTHERS:
            kind, how = _OTHERS[path.suffix.lower()]
            raise EngineError(f"{path}: is {kind}, no ONNX graph; export the network to ONNX first ({how})")
        return path
    for name in _LIKELY:
        if (path / name).is_file():
            return path / name
    found = sorted(p for p in (*path.glob("*.onnx"), *path.glob("onnx/*.onnx")))
    if len(found) == 1:
        return found[0]
    if not found:
        raise EngineError(f"{path}: holds no .onnx file; export the network to ONNX first ({_TORCH})")
    names = ", ".join(str(p.relative_to(path)) for p in found[:5])
    raise EngineError(f"{path}: holds {len(found)} .onnx files ({names}); name one of them")


def new_folder(name: str, out: Path, replace: bool) -> Path:
    """The folder that the engine `name` gets below `out`; raises UsageError for a name that is taken."""
    if not name or name.startswith((".", "-")) or len(name) > 100 or not name.isprintable():
        raise UsageError(f"--as: must be a short name of letters and digits; is {name[:40]!r}")
    if "/" in name or "\\" in name or name.isspace():
        raise UsageError(f"--as: must be a name without folders; is {name!r}")
    folder = out / name
    if folder.exists() and not replace:
        raise UsageError(f"--as: {folder} is there already; choose another name, or --replace it")
    for others in engine_folders():
        other = others / name
        if holds_engine(other) and not (folder.exists() and other.samefile(folder)):
            raise UsageError(f"--as: an engine {name!r} is in {others}; choose another name")
    return folder


def import_graph(
    path: Path, name: str, folder: Path, given: dict[str, Any], picture: Callable[[], U8]
) -> tuple[Taken, Engine]:
    """Make the engine `name` in `folder`, which is new, of a graph → what was found, and the engine, loaded.

    given, picture: as Importing takes them. Raises EngineError, UsageError, OutputError.
    """
    graph = find_graph(path)
    data = _read(graph)
    facts = read_facts(data, graph.name)
    beside = _beside(graph, facts.surface, len(data))
    whole = in_one_file(data, graph.parent, graph.name) if beside else data
    found = Importing(graph, facts, hints_of(facts, graph), given, name, picture)
    spec = found.spec(lambda feeds: _run(whole, feeds, graph.name))
    try:
        folder.mkdir(parents=True)
        (folder / FP32).write_bytes(data)
        for one, source in beside.items():
            (folder / one).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, folder / one)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written ({error.strerror or error})") from error
    spec = msgspec.structs.replace(spec, weights={"fp32": weights_entry(folder / FP32, FP32)})
    spec, engine = _loaded(spec, folder, found, graph.name)
    return Taken(spec, graph, facts.opset, facts.producer, tuple(found.guesses)), engine


def _loaded(spec: EngineSpec, folder: Path, found: Importing, what: str) -> tuple[EngineSpec, Engine]:
    """Load it as the daemon does; a graph that is less free than it says is described so."""
    first: EngineError | None = None
    for more in _LADDER:
        if any(getattr(spec, key) not in (None, value) for key, value in more.items()):
            continue
        fit = {"fit": "stretch"} if "size" in more and spec.fit == "keep" else {}
        tried = msgspec.structs.replace(spec, **more, **fit)
        for _ in range(3):
            write_spec(folder, tried)
            try:
                engine = load_engine(EngineConfig(name=str(folder), backend="onnx", precision="fp32"))
            except FormError as error:
                first = first or error
                more = {**more, **error.remedy}
                fit = {"fit": "stretch"} if "size" in more and spec.fit == "keep" else {}
                tried = msgspec.structs.replace(spec, **more, **fit)
                continue
            except EngineError as error:
                first = first or error
                break
            for key, value in {**more, **fit}.items():
                found.note(key, value, "a trial run: it runs with nothing else")
            return tried, engine
    assert first is not None
    text = str(first).removeprefix(f"engine {folder}: engine.toml: ")
    text = text.removeprefix(f"engine {spec.name}: ").replace(FP32, what, 1)
    raise EngineError(text) from first


def _read(graph: Path) -> bytes:
    try:
        status = graph.stat()
        if not stat.S_ISREG(status.st_mode):
            raise EngineError(f"{graph}: is no file")
        if status.st_size > MOST_BYTES:
            raise EngineError(f"{graph}: has {status.st_size / 1e9:.1f} GB; 2 GB at most are supported")
        return graph.read_bytes()
    except OSError as error:
        raise EngineError(f"{graph}: cannot be read ({error.strerror})") from error


def _beside(graph: Path, surface: OnnxSurface, size: int) -> dict[str, Path]:
    """The other files with weights, by the names they have in the graph; raises EngineError."""
    found: dict[str, Path] = {}
    inside = graph.parent.resolve()
    for location in surface.beside:
        name = checked_name(location, graph.name)
        if name in ("engine.toml", FP32, "check.jpg"):
            raise EngineError(f"{graph.name} has weights in {name}, a name that an engine's own file has")
        path = graph.parent / name
        try:
            status = path.stat()
            real = path.resolve()
        except (OSError, RuntimeError) as error:
            reason = getattr(error, "strerror", None) or "it is a link to itself"
            raise EngineError(
                f"{graph.name} has weights in {name}, which cannot be read ({reason}); copy it there"
            ) from error
        if not stat.S_ISREG(status.st_mode):
            raise EngineError(f"{graph.name} has weights in {name}, which is no file")
        if not real.is_relative_to(inside) and not _in_hub(real, graph.parent):
            raise EngineError(
                f"{graph.name} has weights in {name}, a link to outside of its folder; copy the file there"
            )
        size += status.st_size
        if size > MOST_BYTES:
            raise EngineError(
                f"{graph.name} has {size / 1e9:.1f} GB with its weights; 2 GB at most are supported"
            )
        found[name] = path
    return found


def _in_hub(real: Path, folder: Path) -> bool:
    """Whether a file lies in the blobs that HuggingFace's cache links to, of the same model."""
    parents = [folder.absolute(), *folder.absolute().parents]
    models = (p.parent for p in parents if p.name == "snapshots")
    return any(real.is_relative_to((model / "blobs").resolve()) for model in models)


def _run(graph: bytes, feeds: dict[str, Array], what: str) -> dict[str, Array]:
    """One run in ONNX Runtime: every output by name."""
    import onnxruntime as ort

    from streamseg.inference.backends.base import library_errors

    options = ort.SessionOptions()
    options.log_severity_level = 4
    with library_errors(f"{what} cannot be loaded by ONNX Runtime"):
        session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    with library_errors(f"{what} does not run on a picture of {next(iter(feeds.values())).shape}"):
        return {name: value for name, value in zip(names, session.run(names, feeds), strict=True)
                if hasattr(value, "shape")}  # fmt: skip


@contextlib.contextmanager
def new_engine(folder: Path, replace: bool) -> Iterator[Path]:
    """Give a folder to make an engine in, which becomes `folder` when the block ends without an error."""
    beside, old = (folder.with_name(f".{folder.name}.{end}") for end in ("new", "old"))
    try:
        for one in (beside, old):
            shutil.rmtree(one, ignore_errors=True)
        yield beside
        if replace and folder.exists():
            folder.rename(old)
        beside.rename(folder)
    except OSError as error:
        if old.exists() and not folder.exists():
            old.rename(folder)
        if isinstance(error, StreamsegError):
            raise
        raise OutputError(f"{folder}: cannot be written ({error.strerror or error})") from error
    finally:
        for one in (beside, old):
            shutil.rmtree(one, ignore_errors=True)
