"""A .tflite file becomes an engine: its graph in float32, and in 8 bits with the file's own scales."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from streamseg.crf.params import CrfParams
from streamseg.errors import EngineError, UsageError, WeightsError, one_line
from streamseg.inference.spec import FP32, INT8, ClassEntry, EngineSpec, Normalisation
from streamseg.inference.spec_text import kept_settings, spec_text
from streamseg.inference.weights import weights_entry
from streamseg.models.tflite_convert import convert, is_quantised
from streamseg.models.tflite_graph import INPUT, Converted
from streamseg.models.weights.class_names import read_names
from streamseg.models.weights.datasets import classes_of, dataset_of, dataset_of_count, named
from streamseg.models.weights.onnx_guess import given_levels
from streamseg.models.weights.tflite import read_tflite
from streamseg.runtime.files import written
from streamseg.types import Size

LEVELS = (127.5, 127.5, 127.5)  # mean and std of files that take float32, as MobileNet's do: from −1 to 1
OPTIONS = {
    "mean",
    "std",
    "scale",
    "labels",
    "dataset",
    "input_size",
    "network",
    "licence",
}  # of engine import


class Forms(msgspec.Struct, frozen=True):
    """What was made of a file."""

    fp32: Converted
    int8: Converted | None  # None for a file that is not quantised throughout


def convert_file(file: Path, mean: tuple[float, ...] = LEVELS, std: tuple[float, ...] = LEVELS) -> Forms:
    """Convert a .tflite file and run what comes of it; raises WeightsError of one line.

    mean and std are those of levels, for a file that takes float32; others know their own.
    """
    graph = read_tflite(file)
    try:
        forms = Forms(
            convert(graph, mean=mean, std=std),
            convert(graph, quantised=True, mean=mean, std=std) if is_quantised(graph) else None,
        )
        for converted in (forms.fp32, forms.int8):
            if converted is not None:
                _try(converted, graph.tensors[graph.inputs[0]].shape[1:3])
    except WeightsError as error:
        raise WeightsError(f"{file}: {error}") from error
    return forms


def write_tflite_engine(
    file: Path,
    out: Path,
    *,
    network: str,
    licence: str,
    name: str | None = None,
    classes: Sequence[ClassEntry] | None = None,
    input_size: Size | None = None,
    crf: CrfParams | None = None,
    forms: Forms | None = None,
) -> Path:
    """Write a .tflite file as the engine `out`; give the folder.

    name: unset, the folder's. classes: unset, those of the data set with as many, or numbers. input_size:
    unset, the file's. An engine in the folder is replaced, and its [crf] is kept. Raises WeightsError,
    EngineError and OutputError; then nothing is written.
    """
    forms = forms or convert_file(file)
    out = out.absolute()
    fp32, name = forms.fp32, name or out.name
    named, label_set = _classes(fp32.classes, classes, name)
    sides = fp32.size or input_size or _size_of(file, fp32)
    with written(out / "engine.toml") as toml, written(out / FP32) as graph, written(out / INT8) as small:
        graph.write_bytes(fp32.model)
        weights = {"fp32": weights_entry(graph, FP32)}
        if forms.int8 is not None:
            small.write_bytes(forms.int8.model)
            weights["int8"] = weights_entry(small, INT8)
        spec = EngineSpec(
            name=name,
            network=network,
            licence=licence,
            label_set=label_set,
            input_size=sides,
            normalisation=Normalisation(mean=fp32.mean, std=fp32.std, in_graph=True),
            weights=weights,
            classes=named,
            size_multiple=fp32.size_multiple,
            output_stride=fp32.output_stride,
            crf=crf or CrfParams(),
        )
        toml.write_text(spec_text(kept_settings(out, spec)), "utf-8")
        if forms.int8 is None:
            small.write_bytes(b"")
    if forms.int8 is None:
        (out / INT8).unlink(missing_ok=True)
    return out


def import_tflite(file: Path, name: str, out: Path, given: Mapping[str, Any]) -> Path:
    """Make the engine `name` in the folder `out` of a .tflite file, by the options of `engine import`.

    Names of classes, and mean and std of a file that takes float32, are all that such a file leaves open.
    Raises UsageError for other options, and what write_tflite_engine does.
    """
    if other := sorted(set(given) - OPTIONS):
        raise UsageError(f"--{other[0].replace('_', '-')}: a .tflite file says this itself; leave it out")
    own = {"mean", "std", "scale"} & set(given)
    levels = given_levels(given) if own else (LEVELS, LEVELS)
    forms = convert_file(file, *levels)
    if own and forms.fp32.mean != levels[0]:
        raise UsageError(f"--{min(own)}: a file that takes bytes says this itself; leave it out")
    classes: Sequence[ClassEntry] | None = None
    if {"labels", "dataset"} <= set(given):
        raise UsageError("--dataset: --labels names the classes already; give one of them")
    if "labels" in given:
        classes = read_names(Path(given["labels"]))
    elif "dataset" in given:
        classes = classes_of(given["dataset"])
    return write_tflite_engine(
        file,
        out,
        name=name,
        network=given.get("network", "a .tflite graph"),
        licence=given.get("licence", "unknown: see where the weights are from"),
        classes=classes,
        input_size=_fitting(given.get("input_size"), forms.fp32),
        forms=forms,
    )


def _fitting(size: Size | None, converted: Converted) -> Size | None:
    """A size that was asked for; raises UsageError for one that the graph does not take."""
    if size is None:
        return None
    unit = converted.size_multiple
    if converted.size not in (None, tuple(size)):
        raise UsageError(f"--input-size: the file takes {converted.size[0]}x{converted.size[1]} only")
    if any(side % unit for side in size):
        raise UsageError(f"--input-size: must be multiples of {unit}; is {size[0]}x{size[1]}")
    return size


def _classes(count: int, given: Sequence[ClassEntry] | None, name: str) -> tuple[tuple[ClassEntry, ...], str]:
    """The classes of a file that gives `count`, and the name of their set; raises EngineError."""
    if given is not None and len(given) != count:
        raise EngineError(f"{name}: the file has {count} classes, but {len(given)} names are given")
    dataset = dataset_of(tuple(entry.name for entry in given)) if given else dataset_of_count(count)
    if given is None:
        given = classes_of(dataset) if dataset else named(tuple(f"class_{i}" for i in range(count)))
    return tuple(given), f"{dataset or name}-{count}"


def _size_of(file: Path, converted: Converted) -> Size:
    """The file's own input size, in multiples that the graph takes."""
    graph = read_tflite(file)
    height, width = graph.tensors[graph.inputs[0]].shape[1:3]
    unit = converted.size_multiple
    return max(unit, height // unit * unit), max(unit, width // unit * unit)


def _try(converted: Converted, sides: Sequence[int]) -> None:
    """Run a graph, at two sizes where it allows it; raises WeightsError for one that cannot run."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    unit, size = converted.size_multiple, converted.size
    sizes = [size] if size else [(2 * unit, 3 * unit), tuple(max(unit, s // unit * unit) for s in sides)]
    try:
        session = ort.InferenceSession(converted.model, options, providers=["CPUExecutionProvider"])
        for height, width in sizes:
            answer = session.run(None, {INPUT: np.full((1, height, width, 3), 128, np.uint8)})[0]
            wanted = (
                1,
                converted.classes,
                height // converted.output_stride,
                width // converted.output_stride,
            )
            if answer.shape != wanted:
                raise WeightsError(f"gives {answer.shape} for {height}x{width}; wanted is {wanted}")
            if not np.isfinite(answer).any():
                raise WeightsError("computes no numbers (NaN or infinity)")
    except WeightsError:
        raise
    except Exception as error:
        raise WeightsError(f"cannot be run: {one_line(error)}") from error
