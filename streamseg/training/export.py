"""A checkpoint becomes an engine: a folder with graphs, engine.toml and a model card."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from torch import nn

from streamseg.config import EngineConfig
from streamseg.errors import TrainingError
from streamseg.evaluation import Scores
from streamseg.evaluation.dataset import pictures_of
from streamseg.evaluation.engines import evaluate_engine
from streamseg.inference.spec import (
    FP32,
    INT8,
    EngineSpec,
    Normalisation,
    Weights,
    read_spec,
)
from streamseg.inference.spec_text import kept_settings, spec_text
from streamseg.inference.weights import weights_entry
from streamseg.models.quantise import PICTURES, calibration_parts, quantise
from streamseg.models.slim import AUXILIARY_STRIDE, OUTPUT_STRIDE, SIZE_MULTIPLE, Slim, count_macs
from streamseg.runtime.files import written
from streamseg.training.card import CardFacts, Run, write_card
from streamseg.training.checkpoint import (
    Checkpoint,
    load_checkpoint,
    mean_checkpoint,
    recipe_of,
    trained_network,
)
from streamseg.training.networks import Trainable, served_part, write_graph
from streamseg.training.recipe import TrainRecipe


def export_engine(
    checkpoint: Path,
    out: Path,
    data: Path | None = None,
    val: Path | None = None,
    stride8: bool = False,
    others: Sequence[Path] = (),
) -> Path:
    """Make the engine `out`, named as its folder, of a checkpoint of a training run; give its folder.

    With `others`, checkpoints of other runs, the weights are the mean of all. With `data`, a labelled folder
    of training images, an int8 form is calibrated on some of them. With `val` the card has the scores of each
    form on it. Takes about a minute; raises TrainingError. An engine of the same name is replaced; of its
    README.md only the text between the card's markers.
    """
    runs = [(path, load_checkpoint(path)) for path in (checkpoint, *others)]
    loaded = mean_checkpoint(runs)
    recipe, network = recipe_of(loaded), trained_network(loaded)
    if stride8 and not isinstance(network, Slim):
        raise TrainingError(f"{checkpoint}: {recipe.network} has no logits at 1/8; only slim has")
    out = out.absolute()
    quantised = None
    with contextlib.ExitStack() as files:  # all of them, or none
        toml = files.enter_context(written(out / "engine.toml"))
        graph = files.enter_context(written(out / FP32))
        write_graph(network, graph, stride8)
        weights = {"fp32": weights_entry(graph, FP32)}
        if data is not None:
            pictures = pictures_of(str(data), PICTURES)
            smaller = files.enter_context(written(out / INT8))
            quantised = quantise(graph, smaller, *calibration_parts(pictures, recipe.input_size))
            weights["int8"] = weights_entry(smaller, INT8)
        stride = AUXILIARY_STRIDE if stride8 else OUTPUT_STRIDE
        toml.write_text(spec_text(engine_spec(out, recipe, network, weights, stride)), "utf-8")
    if data is None:
        (out / INT8).unlink(missing_ok=True)
    precisions = list(read_spec(out).weights)
    scores: dict[str, Scores] = {}
    if val is not None:
        for precision in precisions:
            config = EngineConfig(name=f"{out}{os.sep}", backend="onnx", precision=precision)  # type: ignore[arg-type]
            scores[precision] = evaluate_engine(config, val)
    part = served_part(network, stride8)
    facts = CardFacts(
        name=out.name,
        recipe=recipe,
        run=run_of(loaded),
        others=[run_of(other) for _, other in runs[1:]],
        parameters=sum(p.numel() for p in part.parameters()),
        macs=count_macs(part, recipe.input_size),
        quantised=quantised,
        scores=scores,
        megabytes={p: (out / w.file).stat().st_size / 1e6 for p, w in read_spec(out).weights.items()},
    )
    write_card(out / "README.md", facts)
    return out


def run_of(checkpoint: Checkpoint) -> Run:
    recipe = recipe_of(checkpoint)
    teachers = checkpoint.get("teachers") or ()
    return Run(checkpoint.get("init"), teachers, recipe.seed, int(checkpoint["epoch"]), recipe.epochs)


def engine_spec(
    folder: Path,
    recipe: TrainRecipe,
    network: nn.Module,
    weights: dict[str, Weights],
    output_stride: int = OUTPUT_STRIDE,
) -> EngineSpec:
    """The engine.toml of these weights in `folder`; its [crf] and thin classes are kept."""
    levels = cast("Trainable", network)
    spec = EngineSpec(
        name=folder.name,
        network=recipe.network,
        licence=recipe.licence,
        label_set=recipe.label_set,
        input_size=recipe.input_size,
        normalisation=Normalisation(mean=levels.mean, std=levels.std, in_graph=True),
        weights=weights,
        classes=tuple(recipe.classes),
        size_multiple=SIZE_MULTIPLE,
        output_stride=output_stride,
    )
    return kept_settings(folder, spec)
