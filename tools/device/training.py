"""Stages train and fulltrain: how fast training is, and the default engine trained."""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path
from typing import Any

from tools.device.common import CARRIED, DATA, DRY, OUT, PARTS, Part, device, small


def train(part: Part) -> None:
    import msgspec
    import torch

    from streamseg.evaluation import LabelledFolder
    from streamseg.training.data import TrainingImages
    from streamseg.training.log import read_log
    from streamseg.training.loop import Inputs
    from streamseg.training.loop import train as run
    from streamseg.training.recipe import TrainRecipe

    found = (CARRIED / "data/train", DATA / "camvid/train")
    folder = _drawn(8) if DRY else next((path for path in found if path.is_dir()), None)
    if folder is None:
        part.put(
            "left_out", "no training images; DATA=FOLDER bash tools/device/prepare.sh, and copy .device/"
        )
        return
    base = TrainRecipe(device=device(), evaluate_every=1000, loader_threads=small(14))
    if DRY:
        base = msgspec.structs.replace(
            base, batch_size=4, width=24, augment=msgspec.structs.replace(base.augment, crop_size=(64, 64))
        )
    begun = time.monotonic()
    images = TrainingImages(LabelledFolder(folder, len(base.classes)), base)
    part.put("images_read_s", round(time.monotonic() - begun, 2))
    for threads in (1, small(14)):
        images._recipe = msgspec.structs.replace(base, loader_threads=threads)
        begun = time.monotonic()
        steps = sum(1 for _ in images.batches(0))
        part.put(f"crops_alone_{threads}_threads_s_an_epoch", round(time.monotonic() - begun, 2))
    part.put("steps_an_epoch", steps)
    epochs = small(4, 1)
    forms = [("batch 8, one loader thread", {"loader_threads": 1}, False), ("batch 8", {}, False),
             ("batch 8, cudnn.benchmark", {}, True), ("batch 32, cudnn.benchmark", {"batch_size": 32}, True),
             ("batch 8, width 192", {"width": 192}, True)]  # fmt: skip
    for name, changes, benchmark in forms[: 2 if DRY else None]:
        with part.step(name):
            torch.backends.cudnn.benchmark = benchmark
            out = PARTS / f"run-{name.replace(' ', '-').replace(',', '')}"
            recipe = msgspec.structs.replace(base, epochs=epochs, **changes)
            with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
                run(recipe, Inputs(folder), out, False)
            seconds = [entry.seconds for entry in read_log(out)]
            row: dict[str, Any] = {
                "form": name,
                "seconds_of_each_epoch": seconds,
                "loss": [entry.loss for entry in read_log(out)],
            }
            row["epochs_in_5_minutes"] = int(300 / max(1e-3, min(seconds)))
            row["images_s"] = round(len(images._images) / max(1e-3, min(seconds)), 1)
            part.add("train", row)


def fulltrain(part: Part) -> None:
    """Train by the default engine's recipe on the original images while time allows; write OUT/engine."""
    import msgspec

    from streamseg.training.export import export_engine
    from streamseg.training.log import read_log
    from streamseg.training.loop import Inputs
    from streamseg.training.loop import train as run
    from streamseg.training.recipe import load_recipe

    data, val = Path(".device-data/train"), Path(".device-data/val")
    if DRY:
        data, val = _drawn(8), _drawn(2)
    if not data.is_dir():
        how = "DATA=FOLDER bash tools/device/prepare.sh --data full, and copy .device-data/"
        part.put("left_out", f"no original images; {how}")
        return
    rows = []
    with contextlib.suppress(OSError, ValueError, KeyError):
        rows = json.loads((PARTS / "train.json").read_text())["train"]
    slowest = max(
        (max(row["seconds_of_each_epoch"][1:] or [0]) for row in rows if row["form"] == "batch 8"), default=0
    )
    seconds = float(os.environ.get("EPOCH_S", "0")) or slowest or 1.0
    epochs = int(os.environ.get("EPOCHS", "0")) or int(
        0.8 * (float(os.environ.get("STAGE_S", "200")) - 40) / seconds
    )
    epochs = 1 if DRY else min(epochs, 600)
    recipe = load_recipe(Path("configs/train-camvid-slim.toml"))
    changes = {"batch_size": 4} if DRY else {}
    recipe = msgspec.structs.replace(
        recipe,
        epochs=epochs,
        threads=0,
        loader_threads=small(14),
        device=device(),
        evaluate_every=max(10, epochs // 8),
        **changes,
    )
    part.put("epochs", epochs)
    out = PARTS / "fulltrain"
    begun = time.monotonic()
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
        best = run(recipe, Inputs(data, val), out, False)
    part.put("seconds", round(time.monotonic() - begun, 1))
    part.put(
        "miou", [(e.epoch, round(e.scores.miou, 2)) for e in read_log(out) if e.scores and e.scores.miou]
    )
    export_engine(best, OUT / "engine", None, None, False)
    part.put("engine", sorted(str(p.name) for p in (OUT / "engine").iterdir()))


def _drawn(count: int) -> Path:
    """A folder of pictures of the demo clip's street, with the labels that they were drawn from."""
    import cv2

    from tools.demo import draw_scene

    made = PARTS / f"drawn-{count}"
    for kind in ("images", "labels"):
        (made / kind).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        rgb, labels = draw_scene(1.2 * number)
        cv2.imwrite(str(made / f"images/{number}.png"), rgb[:, :, ::-1])
        cv2.imwrite(str(made / f"labels/{number}.png"), labels)
    return made
