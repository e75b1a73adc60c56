"""A network becomes an engine: a folder with an ONNX graph, of any size and batch, and engine.toml."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator
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
    kept_settings,
    weights_in,
    write_spec,
)
from streamseg.models.served import Served
from streamseg.models.sources import SOURCES
from streamseg.models.zoo import VOC21, find_network
from streamseg.runtime.files import replaced

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
) -> Path:
    """Write `module`, the zoo's network `name`, as the engine `out`, named as its folder; give the folder.

    crf: for engine.toml, such as the preset of the zoo's crf_preset. An engine in the folder is replaced, its
    int8 form, which is of other weights, is removed, and its [crf] is kept. Raises EngineError when the
    exported graph differs from the network; then nothing is written.
    """
    entry = find_network(name)
    out = out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    export_onnx(Served(module, entry.preprocessing), out / FP32, multiple=entry.size_multiple)
    (out / INT8).unlink(missing_ok=True)
    spec = EngineSpec(
        name=out.name,
        network=entry.name,
        licence=licence or SOURCES[name].licence,
        label_set="voc-21",
        input_size=entry.input_size,
        normalisation=Normalisation(
            mean=entry.preprocessing.mean, std=entry.preprocessing.std, in_graph=True
        ),
        weights=weights_in(out),
        classes=tuple(ClassEntry(name=label, colour=colour) for label, colour in VOC21.items()),
        size_multiple=entry.size_multiple,
        output_stride=entry.output_stride,
        crf=crf or CrfParams(),
    )
    write_spec(out, kept_settings(out, spec))
    return out


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
    with replaced(path) as beside:
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
