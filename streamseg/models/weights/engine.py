"""A network of the zoo becomes an engine: a folder with an ONNX graph and engine.toml."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from streamseg.errors import WeightsError
from streamseg.models.served import Served
from streamseg.models.weights.sources import SOURCES
from streamseg.models.zoo import VOC21, Network, find_network

INPUT, OUTPUT = "image_u8", "logits"
GRAPH = "model.onnx"
OPSET = 20
TOLERANCE = 1e-3  # of the largest logit, between torch and ONNX Runtime
MOST_BATCH = 256
LARGEST_SIDE = 8192


def write_engine(
    module: nn.Module,
    name: str,
    out: Path,
    *,
    crf: Mapping[str, float] | None = None,
    licence: str | None = None,
) -> Path:
    """Write the engine `out` (its name is the folder's) of `module`, the zoo's `name`, and give its folder.

    crf: the parameters for engine.toml, as streamseg.crf's preset of the zoo's crf_preset has them. Raises
    WeightsError when the exported graph does not say what the network says; then nothing is written.
    """
    entry = find_network(name)
    out = out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    write_onnx(module, entry, out / GRAPH)
    with (out / GRAPH).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    text = engine_toml(out.name, entry, digest, licence=licence or SOURCES[name].licence, crf=crf)
    beside = out / "engine.toml.part"
    beside.write_text(text, "utf-8")
    os.replace(beside, out / "engine.toml")
    return out


def write_onnx(module: nn.Module, entry: Network, path: Path) -> None:
    """Export `module`: uint8 RGB (N, H, W, 3) in, float32 logits (N, C, H/s, W/s) out.

    N is free, H and W are any multiples of the network's size_multiple. The graph is run beside the network,
    on a size that was not exported, before it is written under its name.
    """
    served = Served(module, entry.normalisation).eval()
    multiple = entry.size_multiple
    example = torch.zeros(2, 8 * multiple, 12 * multiple, 3, dtype=torch.uint8)
    side = {"min": 2, "max": LARGEST_SIDE // multiple}
    dim = torch.export.Dim
    shapes = {
        0: dim("n", min=1, max=MOST_BATCH),
        1: multiple * dim("h", **side),
        2: multiple * dim("w", **side),
    }
    beside = path.with_name(path.name + ".part")
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)  # it warns of libraries that nobody asked for
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                served,
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
        difference = _difference(served, multiple, beside)
        if not difference < TOLERANCE:
            raise WeightsError(f"{path}: the exported graph differs from the network by {difference:.2g}")
        os.replace(beside, path)
    finally:
        exporter.setLevel(level)
        beside.unlink(missing_ok=True)


def engine_toml(
    name: str, entry: Network, sha256: str, *, licence: str, crf: Mapping[str, float] | None = None
) -> str:
    """The text of engine.toml for a graph whose hash is `sha256`."""
    lines = [
        f"name = {_quoted(name)}",
        f"network = {_quoted(entry.name)}",
        f"licence = {_quoted(licence)}",
        'label_set = "voc-21"',
        f"input_size = {list(entry.input_size)}  # (height, width)",
        f"size_multiple = {entry.size_multiple}  # of the input's sides",
        f"output_stride = {entry.output_stride}  # of the logits",
        "",
        "[normalisation]  # (level - mean) / std of RGB levels 0..255",
        f"mean = {list(entry.normalisation.mean)}",
        f"std = {list(entry.normalisation.std)}",
        "in_graph = true  # the graph takes uint8 RGB (N, H, W, 3) and normalises it itself",
        "",
        "[weights.fp32]",
        f"file = {_quoted(GRAPH)}",
        f'sha256 = "{sha256}"',
    ]
    for label, colour in VOC21.items():
        lines += ["", "[[classes]]", f"name = {_quoted(label)}", f"colour = {list(colour)}"]
    if crf is not None:
        lines += ["", "[crf]", *(f"{key} = {value}" for key, value in crf.items())]
    return "\n".join(lines) + "\n"


def _difference(served: Served, multiple: int, graph: Path) -> float:
    """The largest difference of logits between torch and ONNX Runtime, as a share of the largest logit."""
    import onnxruntime as ort

    generator = torch.Generator().manual_seed(1)
    picture = torch.randint(
        0, 256, (1, 9 * multiple, 13 * multiple, 3), dtype=torch.uint8, generator=generator
    )
    with torch.no_grad():
        want: torch.Tensor = served(picture)
    session = ort.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    got = torch.from_numpy(session.run([OUTPUT], {INPUT: picture.numpy()})[0])
    if got.shape != want.shape:
        return float("inf")
    return float((got - want).abs().max() / want.abs().max().clamp(min=1e-6))


def _quoted(text: str) -> str:
    """A TOML basic string; JSON's escapes are a subset of TOML's."""
    return json.dumps(text, ensure_ascii=False)
