"""What lies beside a graph or in it: HuggingFace, ultralytics and mmdeploy say how it was trained."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from streamseg.errors import EngineError
from streamseg.models.weights.onnx_facts import Facts

MOST_JSON = 8 << 20  # bytes; a configuration with a thousand classes has 50 kB
_MOST_NAMES = 1 << 16  # characters of a list of names in the metadata
_NAMED = ("id2label", "label2id", "names", "classes", "categories")  # where JSON has its classes
_TASKS = {
    "detect": "detection",
    "segment": "instance segmentation",
    "pose": "pose estimation",
    "classify": "classification",
    "obb": "detection",
}


class Hint(NamedTuple):
    """A value, and where it was found."""

    value: Any
    source: str


class Guess(NamedTuple):
    """One line of what was found out."""

    what: str
    value: str
    source: str


Hints = dict[str, Hint]
"""By what is found: names, network, licence, mean, std (of RGB levels), channels, input_size, fit, multiple.

box: letterbox where the size is fixed.
"""


def hints_of(facts: Facts, graph: Path) -> Hints:
    """What is said about this graph, the files beside it first; raises EngineError for another kind."""
    found: Hints = {}
    for hints in (_huggingface(graph), _mmdeploy(graph), _metadata(facts, graph.name)):
        for key, value, source in hints:
            found.setdefault(key, Hint(value, source))
    return found


def _huggingface(graph: Path) -> Iterator[tuple[str, Any, str]]:
    folder = graph.parent.parent if graph.parent.name == "onnx" else graph.parent
    config = _json(folder / "config.json")
    for kind in _all(config.get("architectures")):
        if not str(kind).endswith(("ForSemanticSegmentation", "Model")):
            raise EngineError(
                f"{graph.name} is a {kind} (config.json: architectures); a network for semantic segmentation "
                "gives one map of classes"
            )
    if isinstance(config.get("model_type"), str):
        yield "network", config["model_type"], "config.json: model_type"
    if names := _names(config.get("id2label")):
        yield "names", names, "config.json: id2label"
    prepare = _json(folder / "preprocessor_config.json")
    if not prepare:
        return
    source = "preprocessor_config.json"
    scale = _number(prepare.get("rescale_factor", 1 / 255)) if prepare.get("do_rescale", True) else 1.0
    mean, std = _three(prepare.get("image_mean")), _three(prepare.get("image_std"))
    if not prepare.get("do_normalize", True) or mean is None or std is None:
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if scale:
        yield "mean", tuple(m / scale for m in mean), f"{source}: image_mean"
        yield "std", tuple(s / scale for s in std), f"{source}: image_std"
    if prepare.get("do_flip_channel_order"):
        yield "channels", "bgr", f"{source}: do_flip_channel_order"
    size = prepare.get("size")
    if isinstance(size, int):
        size = {"height": size, "width": size}
    if prepare.get("do_resize", True) and isinstance(size, dict) and {"height", "width"} <= size.keys():
        yield "input_size", _size([size["height"], size["width"]]), f"{source}: size"
        yield "fit", "stretch", f"{source}: size"
    elif isinstance(size, dict) and "shortest_edge" in size:
        yield "input_size", _size([size["shortest_edge"]] * 2), f"{source}: size"


def _mmdeploy(graph: Path) -> Iterator[tuple[str, Any, str]]:
    pipeline = _json(graph.parent / "pipeline.json").get("pipeline")
    if not isinstance(pipeline, dict):
        return
    source = "pipeline.json"
    task = str(_json(graph.parent / "deploy.json").get("task", "Segmentor"))
    if task != "Segmentor":
        raise EngineError(f"{graph.name} is a {task} (deploy.json: task); wanted is a Segmentor")
    codebase = _json(graph.parent / "detail.json").get("codebase")
    if isinstance(codebase, dict) and isinstance(
        name := codebase.get("config") or codebase.get("codebase"), str
    ):
        yield "network", Path(name).stem[:60], "detail.json: codebase"
    tasks = [task for task in _all(pipeline.get("tasks")) if isinstance(task, dict)]
    steps = [t for task in tasks for t in _all(task.get("transforms")) if isinstance(t, dict)]
    for step in steps:
        if step.get("type") == "Normalize":
            mean, std = _three(step.get("mean")), _three(step.get("std"))
            bgr = step.get("to_rgb") is False
            if mean and std:
                yield "mean", mean[::-1] if bgr else mean, f"{source}: Normalize"
                yield "std", std[::-1] if bgr else std, f"{source}: Normalize"
            if bgr:
                yield "channels", "bgr", f"{source}: to_rgb"
        elif step.get("type") == "Resize":
            size = step.get("size") or step.get("scale")  # (width, height)
            if isinstance(size, list) and len(size) == 2:
                yield "input_size", _size(size[::-1]), f"{source}: Resize"
            if step.get("keep_ratio") is False:
                yield "fit", "stretch", f"{source}: keep_ratio"


def _metadata(facts: Facts, what: str) -> Iterator[tuple[str, Any, str]]:
    """metadata_props: of ultralytics, and names that any program may have put there."""
    data = facts.metadata
    if "ultralytics" in " ".join((data.get("author", ""), data.get("description", ""))).lower() or (
        {"task", "names", "imgsz"} <= data.keys()
    ):
        if kind := _TASKS.get(data.get("task", "")):
            raise EngineError(
                f"{what} is a network for {kind} (metadata: task = {data['task']}); only those for semantic "
                "segmentation give a map of classes (ultralytics: models whose name ends in -sem)"
            )
        yield "mean", (0.0, 0.0, 0.0), "ultralytics takes 0..1"
        yield "std", (255.0, 255.0, 255.0), "ultralytics takes 0..1"
        if size := _size(_literal(data.get("imgsz", ""))):
            yield "input_size", size, "metadata: imgsz"
        yield "box", True, "ultralytics"
        if isinstance(stride := _literal(data.get("stride", "")), int) and 1 <= stride <= 512:
            yield "multiple", stride, "metadata: stride"
        if data.get("license"):
            yield "licence", data["license"][:200], "metadata: license"
        if data.get("description"):
            yield (
                "network",
                data["description"].split(" trained")[0].removesuffix(" model")[:60],
                "metadata: description",
            )
    for key in ("names", "classes", "class_names", "labels"):
        if names := _names(_literal(data.get(key, ""))):
            yield "names", names, f"metadata: {key}"


def _json(path: Path, lists: bool = False) -> Any:
    """A file's object, or list if wanted; empty where there is no file. Raises EngineError."""
    try:
        if not path.is_file():
            return {}
        if path.stat().st_size > MOST_JSON:
            raise EngineError(f"{path}: has more than {MOST_JSON >> 20} MB; no configuration is so large")
        made = json.loads(path.read_bytes())
    except OSError as error:
        raise EngineError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise EngineError(f"{path}: is not valid JSON") from error
    return made if isinstance(made, dict) or lists else {}


def json_names(path: Path) -> tuple[str, ...]:
    """Names from id2label in JSON, by itself or in a configuration; raises EngineError."""
    if not path.is_file():
        raise EngineError(f"{path}: no such file")
    made = _json(path, lists=True)
    inner = next((made[key] for key in _NAMED if key in made), made) if isinstance(made, dict) else made
    names = _names(inner)
    if not names:
        raise EngineError(f"{path}: holds no names of classes; wanted is a list, or ids with their names")
    return names


def _literal(text: str) -> Any:
    """A Python or JSON list or dictionary that was written as text; None for anything else."""
    if len(text) > _MOST_NAMES:
        return None
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            continue
    return None


def _names(value: Any) -> tuple[str, ...]:
    """Names by id, from a list or a dictionary; ids without a name are called by their number."""
    if isinstance(value, list | tuple):
        pairs = [(one.get("id", at) if isinstance(one, dict) else at, one) for at, one in enumerate(value)]
    elif isinstance(value, dict):
        pairs = list(value.items())
        if all(isinstance(id_, int) for _, id_ in pairs):  # {"road": 0}
            pairs = [(id_, name) for name, id_ in pairs]
    else:
        return ()
    pairs = [(id_, one.get("name") if isinstance(one, dict) else one) for id_, one in pairs]
    try:
        by_id = {int(id_): str(name) for id_, name in pairs}
    except (TypeError, ValueError):
        return ()
    if len(by_id) != len(pairs) or not all(isinstance(name, str | int) for _, name in pairs):
        return ()
    if not by_id or min(by_id) < 0 or max(by_id) > 100_000:
        return ()
    seen: set[str] = set()
    names = []
    for id_ in range(max(by_id) + 1):
        name = "".join(c for c in by_id.get(id_, "") if c.isprintable()).strip()[:100] or f"class {id_}"
        if name in seen:
            name = f"{name} ({id_})"
        seen.add(name)
        names.append(name)
    return tuple(names)


def _all(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and value == value else 0.0


def _three(value: Any) -> tuple[float, float, float] | None:
    if isinstance(value, int | float):
        value = [value] * 3
    if not isinstance(value, list) or len(value) != 3 or not all(isinstance(v, int | float) for v in value):
        return None
    return float(value[0]), float(value[1]), float(value[2])


def _size(value: Any) -> tuple[int, int] | None:
    if isinstance(value, int):
        value = [value, value]
    if (
        isinstance(value, list | tuple)
        and len(value) == 2
        and all(isinstance(v, int) and v > 0 for v in value)
    ):
        return int(value[0]), int(value[1])
    return None
