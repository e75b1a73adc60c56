"""A checkpoint becomes an engine: a folder with graphs, engine.toml and a model card."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from streamseg.config import EngineConfig
from streamseg.engine.spec import CrfDefaults, read_spec
from streamseg.errors import TrainingError
from streamseg.evaluation import LabelledFolder, Scores
from streamseg.evaluation.engines import evaluate_engine
from streamseg.models.slim import AUXILIARY_STRIDE, OUTPUT_STRIDE, SIZE_MULTIPLE, Slim, count_macs
from streamseg.preprocess import scale_picture
from streamseg.training.card import CardFacts, write_card
from streamseg.training.checkpoint import load_checkpoint, recipe_of, trained_network
from streamseg.training.graph import write_graph
from streamseg.training.loop import MEAN, STD
from streamseg.training.quantise import Quantised, quantise
from streamseg.training.recipe import TrainRecipe

FP32, INT8 = "model.onnx", "model.int8.onnx"
CALIBRATION_IMAGES = 32
COMPARED_IMAGES = 16


def export_engine(
    checkpoint: Path, out: Path, data: Path | None = None, val: Path | None = None, stride8: bool = False
) -> Path:
    """Make the engine `out` (its name is the folder's) of a checkpoint of a training run; give its folder.

    With `data`, a labelled folder of training images, an int8 form is calibrated on some of them. With `val`
    the card tells the scores of each form on it. Takes about a minute; raises TrainingError. An engine of the
    same name is replaced, and of its README.md only what lies between the card's markers.
    """
    loaded = load_checkpoint(checkpoint)
    recipe, network = recipe_of(loaded), trained_network(loaded)
    if stride8 and not isinstance(network, Slim):
        raise TrainingError(f"{checkpoint}: {recipe.network} has no form with logits at 1/8; slim has")
    out = out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    write_graph(network, out / FP32, stride8)
    quantised = _quantise(out, recipe, data) if data is not None else None
    if quantised is None:
        (out / INT8).unlink(missing_ok=True)
    _write_text(out / "engine.toml", engine_toml(out, recipe, AUXILIARY_STRIDE if stride8 else OUTPUT_STRIDE))
    precisions = list(read_spec(out).weights)
    scores: dict[str, Scores] = {}
    if val is not None:
        for precision in precisions:
            config = EngineConfig(name=f"{out}{os.sep}", precision=precision)  # type: ignore[arg-type]
            scores[precision] = evaluate_engine(config, val)
    part = network
    if isinstance(network, Slim):
        part = network.stride8() if stride8 else network.stride4()
    facts = CardFacts(
        name=out.name,
        recipe=recipe,
        epoch=int(loaded["epoch"]),
        parameters=sum(p.numel() for p in part.parameters()),
        macs=count_macs(part, recipe.input_size),
        quantised=quantised,
        calibrated_on=CALIBRATION_IMAGES,
        scores=scores,
        megabytes={p: (out / w.file).stat().st_size / 1e6 for p, w in read_spec(out).weights.items()},
    )
    write_card(out / "README.md", facts)
    return out


def engine_toml(folder: Path, recipe: TrainRecipe, output_stride: int = OUTPUT_STRIDE) -> str:
    """The text of engine.toml for the weights that lie in `folder`."""
    crf = CrfDefaults()
    lines = [
        f"name = {_quoted(folder.name)}",
        f"network = {_quoted(recipe.network)}",
        f"licence = {_quoted(recipe.licence)}",
        f"label_set = {_quoted(recipe.label_set)}",
        f"input_size = [{recipe.input_size[0]}, {recipe.input_size[1]}]  # (height, width)",
        f"size_multiple = {SIZE_MULTIPLE}  # of the input's sides",
        f"output_stride = {output_stride}  # of the logits",
        "",
        "[normalisation]  # (level - mean) / std of RGB levels 0..255",
        f"mean = {list(MEAN)}",
        f"std = {list(STD)}",
        "in_graph = true  # the graph takes uint8 RGB (N, H, W, 3) and normalises it itself",
    ]
    for precision, file in (("fp32", FP32), ("int8", INT8)):
        if (folder / file).exists():
            digest = hashlib.sha256((folder / file).read_bytes()).hexdigest()
            lines += ["", f"[weights.{precision}]", f"file = {_quoted(file)}", f'sha256 = "{digest}"']
    for entry in recipe.classes:
        lines += ["", "[[classes]]", f"name = {_quoted(entry.name)}", f"colour = {list(entry.colour)}"]
        lines += ["thin = true"] if entry.thin else []
    lines += ["", "[crf]"]
    lines += [f"{key} = {getattr(crf, key)}" for key in crf.__struct_fields__]
    return "\n".join(lines) + "\n"


def _quantise(out: Path, recipe: TrainRecipe, data: Path) -> Quantised:
    folder = LabelledFolder(data, len(recipe.classes))
    if len(folder) < 2:
        raise TrainingError(f"{data}: calibration needs two images at least")
    chosen = [len(folder) * i // CALIBRATION_IMAGES for i in range(CALIBRATION_IMAGES)]
    calibrate = sorted(set(chosen))
    left = [i for i in range(len(folder)) if i not in set(calibrate)] or calibrate
    compare = left[:: max(len(left) // COMPARED_IMAGES, 1)]
    pictures = {i: scale_picture(folder[i].rgb, recipe.input_size) for i in {*calibrate, *compare}}
    return quantise(out / FP32, out / INT8, [pictures[i] for i in calibrate], [pictures[i] for i in compare])


def _write_text(path: Path, text: str) -> None:
    beside = path.with_name(path.name + ".part")
    beside.write_text(text, "utf-8")
    os.replace(beside, path)


def _quoted(text: str) -> str:
    """A TOML basic string; JSON's escapes are a subset of TOML's."""
    return json.dumps(text, ensure_ascii=False)
