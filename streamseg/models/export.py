"""A network becomes an engine: a folder with an ONNX graph, of any size and batch, and engine.toml."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from streamseg.crf.params import CrfParams
from streamseg.errors import EngineError
from streamseg.inference.spec import (
    FP32,
    INT8,
    ClassEntry,
    EngineSpec,
    Normalisation,
)
from streamseg.inference.spec_text import kept_settings, spec_text
from streamseg.inference.weights import weights_entry
from streamseg.models.served import Served
from streamseg.models.sources import SOURCES
from streamseg.models.zoo import VOC21, Network, find_network
from streamseg.runtime.files import written

INPUT, OUTPUT = "image_u8", "logits"
OPSET = 20
TOLERANCE = 1e-3  # of the largest logit, between torch and ONNX Runtime
MOST_BATCH = 256
LARGEST_SIDE = 8192


def write_engine(
    module: nn.Module,
    name: str,
    out: Path,
    *,
    crf: CrfParams | None = None,
    licence: str | None = None,
    classes: Sequence[ClassEntry] | None = None,
) -> Path:
    """Write `module`, the zoo's network `name`, as the engine `out`, named as its folder; give the folder.

    crf: for engine.toml, such as the preset of the zoo's crf_preset. classes: unset, PASCAL VOC's. An engine
    in the folder is replaced, its int8 form, which is of other weights, is removed, and its [crf] is kept.
    Raises EngineError when the exported graph differs from the network, or has another number of classes,
    and OutputError; then nothing is written.
    """
    entry = find_network(name)
    out = out.absolute()
    served = Served(module, entry.preprocessing)
    named = tuple(classes or (ClassEntry(name=label, colour=colour) for label, colour in VOC21.items()))
    if len(named) != (count := class_count(served, entry.size_multiple)):
        given = f"{len(named)} names are given" if classes else "no names are given"
        raise EngineError(f"{name}: the network has {count} classes, but {given}; --labels FILE gives them")
    with written(out / "engine.toml") as toml, written(out / FP32) as graph:  # both, or neither
        export_onnx(served, graph, multiple=entry.size_multiple)
        spec = _spec_of(out, entry, graph, named, crf, licence)
        toml.write_text(spec_text(kept_settings(out, spec)), "utf-8")
    (out / INT8).unlink(missing_ok=True)
    return out


def class_count(served: nn.Module, multiple: int) -> int:
    """How many classes a network as it is served tells apart."""
    with torch.no_grad():
        return int(served.eval()(torch.zeros(1, 8 * multiple, 8 * multiple, 3, dtype=torch.uint8)).shape[1])


def _spec_of(
    out: Path,
    entry: Network,
    graph: Path,
    classes: tuple[ClassEntry, ...],
    crf: CrfParams | None,
    licence: str | None,
) -> EngineSpec:
    return EngineSpec(
        name=out.name,
        network=entry.name,
        licence=licence or SOURCES[entry.name].licence,
        label_set="voc-21" if [c.name for c in classes] == list(VOC21) else f"{out.name}-{len(classes)}",
        input_size=entry.input_size,
        normalisation=Normalisation(
            mean=entry.preprocessing.mean, std=entry.preprocessing.std, in_graph=True
        ),
        weights={"fp32": weights_entry(graph, FP32)},
        classes=classes,
        size_multiple=entry.size_multiple,
        output_stride=entry.output_stride,
        crf=crf or CrfParams(),
    )


def export_onnx(
    served: nn.Module, path: Path, *, multiple: int = 8, reference: Callable[[Tensor], Tensor] | None = None
) -> None:
    """Write `served`, uint8 RGB (N, H, W, 3) to float32 logits (N, C, h, w), as an ONNX graph.

    N is free, H and W are any multiples of `multiple`. The graph is compared with `reference` (unset:
    `served`) on another size than the exported one; raises EngineError when they differ, and writes nothing.
    """
    example = torch.zeros(2, 8 * multiple, 12 * multiple, 3, dtype=torch.uint8)
    side = {"min": 2, "max": LARGEST_SIDE // multiple}
    dim = torch.export.Dim
    shapes = {
        0: dim("n", min=1, max=MOST_BATCH),
        1: multiple * dim("h", **side),
        2: multiple * dim("w", **side),
    }
    with written(path) as beside:
        with _quiet_exporter():
            torch.onnx.export(
                served.eval(),
                (example,),
                str(beside),
                dynamo=True,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=(shapes,),
                external_data=False,
                verbose=False,
            )
        _remove_metadata(beside)
        difference = _difference(reference or served, multiple, beside)
        if not difference < TOLERANCE:
            raise EngineError(f"{path}: the exported graph differs from the network by {difference:.2g}")


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Without its warnings about optional libraries that are not installed."""
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        exporter.setLevel(level)


def _remove_metadata(path: Path) -> None:
    """Remove the exporter's stack traces: they name local folders and change with every line of code."""
    model = onnx.load(path)
    graph = model.graph
    parts = (*graph.node, *graph.initializer, *graph.value_info, *graph.input, *graph.output)
    for part in (model, graph, *parts):
        del part.metadata_props[:]
        part.doc_string = ""
    onnx.save(model, path)


def _difference(reference: Callable[[Tensor], Tensor], multiple: int, graph: Path) -> float:
    """The largest difference of logits between torch and ONNX Runtime, as a share of the largest logit."""
    import onnxruntime as ort

    generator = torch.Generator().manual_seed(1)
    shape = (1, 9 * multiple, 13 * multiple, 3)
    picture = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    with torch.no_grad():
        want = reference(picture)
    session = ort.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    got = torch.from_numpy(session.run([OUTPUT], {INPUT: picture.numpy()})[0])
    if got.shape != want.shape:
        return float("inf")
    return float((got - want).abs().max() / want.abs().max().clamp(min=1e-6))
