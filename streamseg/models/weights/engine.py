"""A network of the zoo becomes an engine: a folder with an ONNX graph and engine.toml."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from streamseg.crf.params import CrfParams
from streamseg.inference.folder import FP32, INT8, kept_settings, weights_of, write_spec
from streamseg.inference.spec import ClassEntry, EngineSpec, Normalisation
from streamseg.models.onnx_graph import export_onnx
from streamseg.models.served import Served
from streamseg.models.weights.sources import SOURCES
from streamseg.models.zoo import VOC21, Network, find_network


def write_engine(
    module: nn.Module,
    name: str,
    out: Path,
    *,
    crf: CrfParams | None = None,
    licence: str | None = None,
) -> Path:
    """Write the engine `out` (its name is the folder's) of `module`, the zoo's `name`, and give its folder.

    crf: the parameters for engine.toml, as streamseg.crf's preset of the zoo's crf_preset has them. An engine
    that is there is replaced, its int8 form, which would be of other weights, removed; its [crf] stays.
    Raises EngineError when the exported graph does not say what the network says; then nothing is written.
    """
    entry = find_network(name)
    out = out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    write_onnx(module, entry, out / FP32)
    (out / INT8).unlink(missing_ok=True)
    spec = EngineSpec(
        name=out.name,
        network=entry.name,
        licence=licence or SOURCES[name].licence,
        label_set="voc-21",
        input_size=entry.input_size,
        normalisation=Normalisation(
            mean=entry.normalisation.mean, std=entry.normalisation.std, in_graph=True
        ),
        weights=weights_of(out),
        classes=tuple(ClassEntry(name=label, colour=colour) for label, colour in VOC21.items()),
        size_multiple=entry.size_multiple,
        output_stride=entry.output_stride,
        crf=crf or CrfParams(),
    )
    write_spec(out, kept_settings(out, spec))
    return out


def write_onnx(module: nn.Module, entry: Network, path: Path) -> None:
    """Export `module`, as an engine runs it, to `path`; raises EngineError (see export_onnx)."""
    export_onnx(Served(module, entry.normalisation), path, multiple=entry.size_multiple)
