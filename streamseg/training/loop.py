"""The training run: epochs, the average of the weights, evaluations, checkpoints."""

from __future__ import annotations

import itertools
import logging
import math
import time
from pathlib import Path
from typing import Any, NamedTuple, cast

import cv2
import msgspec
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from streamseg.config.reading import sha256_of
from streamseg.errors import TrainingError, UsageError, one_line
from streamseg.evaluation import LabelledFolder, Scores, evaluate
from streamseg.evaluation.metrics import Predict
from streamseg.inference.scaling import fit_size, labels_from_logits, make_batch
from streamseg.models.slim import OUTPUT_STRIDE, SIZE_MULTIPLE
from streamseg.runtime.cpus import usable_cores
from streamseg.runtime.files import make_folder
from streamseg.training.arithmetic import check_arithmetic, use_bf16
from streamseg.training.census import Census, class_table, shared_pictures
from streamseg.training.checkpoint import load_checkpoint, save_checkpoint
from streamseg.training.clips import Clips, temporal_loss
from streamseg.training.data import Batch, TrainingImages
from streamseg.training.divergence import FirstNotFinite
from streamseg.training.initial import initial_file, start_from
from streamseg.training.log import EpochEntry, RunProgress, read_log, write_log
from streamseg.training.loss import class_weights, cross_entropy, lovasz_softmax, thin_labels
from streamseg.training.networks import Trainable, build_network, normalise
from streamseg.training.parameters import parameter_groups, train_mode
from streamseg.training.pseudo import Lessons
from streamseg.training.recipe import TrainRecipe
from streamseg.training.resume import check_same_run
from streamseg.training.soft import Known, distillation
from streamseg.training.teachers import open_teachers
from streamseg.types import Size

logger = logging.getLogger(__name__)


class Inputs(NamedTuple):
    """What a run learns from, beside its recipe."""

    data: Path | None  # labelled pictures; None: the teachers' labels of the unlabelled ones alone
    val: Path | None = None
    leave_out: str = ""  # the images of data whose name begins so are the validation images instead of val
    init: str | None = None  # a file of weights to start from, a name of released ones, or an engine
    teachers: tuple[str, ...] = ()  # names of engines, best.pt or folders of runs
    unlabelled: tuple[str, ...] = ()  # folders of pictures, and videos
    clips: tuple[str, ...] = ()  # videos between whose frames the network should not change its mind


def train(recipe: TrainRecipe, inputs: Inputs, out: Path, resume: bool) -> Path:
    """Train on the inputs, choose on the validation images, and give the path of the chosen checkpoint.

    Writes `last.pt` after every epoch, `best.pt` at the best evaluation (without `val`, at the end),
    `log.jsonl` and `log.png` into `out`. With `resume` a run continues from `last.pt` as if it had not been
    stopped; the recipe may then have another number of epochs. Blocks until done. Raises TrainingError or
    UsageError.
    """
    run = _Run(recipe, inputs, out, resume)
    with RunProgress(recipe.epochs, run.epoch, run.images.steps) as progress:
        while run.epoch < recipe.epochs:
            run.train_epoch(progress)
    return out / "best.pt"


def predictor(network: nn.Module, device: torch.device, input_size: Size) -> Predict:
    """A function from RGB (H, W, 3) uint8 to labels (H, W) uint8, in the same steps as an engine."""

    @torch.no_grad()
    def predict(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        size = (rgb.shape[0], rgb.shape[1])
        x = normalise(make_batch([rgb], fit_size(size, input_size, SIZE_MULTIPLE)), network, device)
        logits = network(x.contiguous(memory_format=torch.channels_last))
        return labels_from_logits(logits[0].float().cpu().numpy(), size)[0]

    return predict


def learning_rate(recipe: TrainRecipe, progress: float) -> float:
    """The rate at `progress` (0 to 1) of the run: a rise, a plateau until `hold`, then half a cosine to 0."""
    if progress < recipe.warmup:
        return recipe.learning_rate * max(progress / recipe.warmup, 1e-3)
    if progress < recipe.hold:
        return recipe.learning_rate
    start = max(recipe.hold, recipe.warmup)
    fallen = (progress - start) / max(1 - start, 1e-9)
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * min(fallen, 1)))


class WeightAverage:
    """An exponential average of a network's weights and of its batch-norm statistics."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._decay = decay
        self._steps = 0
        self._now = [t for t in network.state_dict().values() if t.is_floating_point()]
        self._names = [n for n, t in network.state_dict().items() if t.is_floating_point()]
        self._average = [t.detach().clone() for t in self._now]

    @torch.no_grad()
    def update(self) -> None:
        self._steps += 1
        decay = min(self._decay, self._steps / (self._steps + 10))  # so that the first steps count less
        torch._foreach_lerp_(self._average, self._now, 1 - decay)

    def state_dict(self) -> dict[str, Tensor]:
        return dict(zip(self._names, self._average, strict=True))

    def load(self, state: dict[str, Tensor], steps: int) -> None:
        self._steps = steps
        for name, tensor in zip(self._names, self._average, strict=True):
            tensor.copy_(state[name])


MOST_LOADERS = 14  # threads that keep a GPU busy
BATCHES_SEEN = 12  # for the batch normalisation of a run that starts from an engine


class _Run:
    """The state of a run."""

    def __init__(self, recipe: TrainRecipe, inputs: Inputs, out: Path, resume: bool) -> None:
        self.recipe, self.out = recipe, out
        self.epoch = 0
        self.best_miou = -1.0
        self.history: list[EpochEntry] = []
        self.device = _device(recipe.device)
        self.bf16 = use_bf16(recipe, self.device)
        self.first_bad = FirstNotFinite(self.device)
        if recipe.threads:
            torch.set_num_threads(recipe.threads)
        cv2.setNumThreads(1)  # crops are made in parallel with training; more threads would take its cores
        torch.manual_seed(recipe.seed)
        self.val = _folder(inputs.val, recipe)
        self.images = self._read(inputs)
        if self.device.type == "cuda":
            torch.backends.cudnn.benchmark = True  # crops are all of one size
            # Set here, since teachers in fp32 switch it off: TF32 where bf16 is not used, but not for "fp32".
            torch.backends.cudnn.allow_tf32 = recipe.arithmetic != "fp32"
            self.images.threads = recipe.loader_threads or min(usable_cores(), MOST_LOADERS)
        self.clips = Clips(inputs.clips, recipe) if inputs.clips else None
        self.val_census = self._look_at_data()
        self.network = build_network(recipe).to(self.device)
        self.init: str | None = None
        if inputs.init is not None:
            file = initial_file(inputs.init)
            self.init = f"{file.name} {sha256_of(file)}"
            if not resume:
                crops = (batch.rgb for batch in itertools.islice(self.images.batches(0), BATCHES_SEEN))
                logger.info("--init: %s", start_from(self.network, file, crops))
        if self.bf16:
            check_arithmetic(self.network, recipe, self.device)
        self.network = self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.averaged = build_network(recipe).to(self.device).eval()
        self.average = WeightAverage(self.network, recipe.ema)
        self.weights = class_weights(self.images.shares, recipe.class_balance).to(self.device)
        groups, self.rates = parameter_groups(self.network, recipe)
        self.optimiser = torch.optim.AdamW(
            groups,
            lr=recipe.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=recipe.weight_decay,
            fused=True,
        )
        make_folder(out)
        if resume:
            self._resume()
        elif (out / "last.pt").exists():
            raise UsageError(f"{out}: already holds a run; add --resume, or choose another folder")

    def train_epoch(self, progress: RunProgress) -> None:
        recipe, steps = self.recipe, self.images.steps
        began = time.monotonic()
        torch.manual_seed(recipe.seed + self.epoch)  # for dropout; so that a resumed run draws the same
        train_mode(self.network, recipe)
        total = torch.zeros((), device=self.device)
        for step, batch in enumerate(self.images.batches(self.epoch)):
            done = (self.epoch * steps + step) / (recipe.epochs * steps)
            total += self._step(batch, done, self.epoch * steps + step, (self.epoch + step) % 4)
            progress.step(self.epoch, step + 1)
        self.epoch += 1
        loss = float(total) / steps
        if not math.isfinite(loss):
            raise TrainingError(self.first_bad.advice(self.bf16, recipe.learning_rate, steps))
        seconds = time.monotonic() - began
        scores = self._evaluate() if self._evaluation_due() else None
        rate = float(self.optimiser.param_groups[0]["lr"])
        entry = EpochEntry(
            epoch=self.epoch,
            loss=round(loss, 5),
            learning_rate=rate,
            seconds=round(seconds, 2),
            scores=scores,
        )
        self.history.append(entry)
        self._save(scores)
        write_log(self.out, self.history)
        progress.epoch(entry)

    def _step(self, batch: Batch, done: float, number: int, phase: int) -> Tensor:
        recipe = self.recipe
        for group, factor in zip(self.optimiser.param_groups, self.rates, strict=True):
            group["lr"] = factor * learning_rate(recipe, done)
        pairs = None if self.clips is None else self.clips.draw(*divmod(number, self.images.steps))
        rgb = batch.rgb if pairs is None else np.concatenate([batch.rgb, pairs.now, pairs.before])
        x = normalise(rgb, self.network, self.device)
        truth = torch.from_numpy(batch.labels).to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            logits, auxiliary = cast("Trainable", self.network).supervised(x)
        temporal: Tensor | None = None
        if pairs is not None:
            now, before = logits[len(truth) :].chunk(2)
            temporal = recipe.temporal_weight * temporal_loss(now, before, pairs.where, pairs.trust)
            logits, auxiliary = logits[: len(truth)], auxiliary[: len(truth)]
        elif batch.where is not None:
            moved = len(batch.where)
            steady = temporal_loss(logits[:moved], logits[-moved:], batch.where)
            temporal = recipe.temporal_weight * steady
        loss = cross_entropy(logits, truth, self.weights, phase)
        loss = loss + recipe.auxiliary_weight * cross_entropy(auxiliary, truth, self.weights, phase)
        if recipe.lovasz_weight and done >= recipe.lovasz_from:
            thinned = thin_labels(truth, OUTPUT_STRIDE, phase)
            loss = loss + recipe.lovasz_weight * lovasz_softmax(logits, thinned)
        if batch.soft is not None:
            distil, soft = recipe.distil, torch.from_numpy(batch.soft).to(self.device)
            taught = distillation(logits, soft, self.known, distil.temperature)
            loss = distil.label_weight * loss + distil.weight * taught
        if temporal is not None:
            loss = loss + temporal
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        trained = [p for group in self.optimiser.param_groups for p in group["params"]]
        norm = nn.utils.clip_grad_norm_(trained, recipe.clip_norm)
        self.first_bad.note(number, loss, norm)
        self.optimiser.step()
        self.average.update()
        return loss.detach()

    def _read(self, inputs: Inputs) -> TrainingImages:
        """All pictures, in memory; what teachers say of them is in the cache afterwards."""
        recipe, folder = self.recipe, _folder(inputs.data, self.recipe)
        if folder is not None and inputs.leave_out:
            folder, self.val = folder.split(inputs.leave_out)
        self.known: list[Known] = []
        self.taught: dict[str, Any] = {}
        if not inputs.teachers:
            return TrainingImages(folder, recipe)
        with open_teachers(inputs.teachers, recipe, self.device) as groups:
            self.known = [group.known for group in groups]
            lessons = Lessons(groups, recipe)
            images = TrainingImages(folder, recipe, lessons.soft, lessons.unlabelled(inputs.unlabelled))
            self.taught["teachers"] = [t.identity for group in groups for t in group.teachers]
        if inputs.unlabelled:
            self.taught["unlabelled"] = lessons.seen
        return images

    def _look_at_data(self) -> Census | None:
        """Say what the labels hold, and refuse what teaches nothing; the census of the validation images."""
        train, val = self.images.census, None
        train.refuse_useless("the training set")
        if self.val is not None:
            val = Census.of(self.val, self.recipe.class_names)
            val.refuse_useless("the validation set")
        for line in class_table(train, val):
            logger.info("%s", line)
        warnings = train.warnings("training")
        if val is not None:
            warnings += [*val.warnings("validation"), *shared_pictures(train, val)]
        for line in warnings:
            logger.warning("%s", line)
        return val

    def _identity(self) -> dict[str, Any]:
        """What a run is known by when it is resumed."""
        return {
            "recipe": msgspec.to_builtins(self.recipe),
            "init": self.init,
            "data": self.images.census.digest if self.images.labelled else None,
            "val": None if self.val_census is None else self.val_census.digest,
            **self.taught,
            **({} if self.clips is None else {"clips": self.clips.digest}),
        }

    def _evaluation_due(self) -> bool:
        return self.epoch % self.recipe.evaluate_every == 0 or self.epoch == self.recipe.epochs

    def _evaluate(self) -> Scores | None:
        if self.val is None:
            return None
        self.averaged.load_state_dict(self.average.state_dict(), strict=False)
        predict = predictor(self.averaged, self.device, self.recipe.input_size)
        return evaluate(predict, self.val, self.recipe.class_names)

    def _save(self, scores: Scores | None) -> None:
        miou = None if scores is None else scores.miou
        best = miou is not None and miou > self.best_miou
        if miou is not None:
            self.best_miou = max(miou, self.best_miou)
        checkpoint = self._identity() | {
            "epoch": self.epoch,
            "steps": self.epoch * self.images.steps,
            "best_miou": self.best_miou,
            "network": self.network.state_dict(),
            "ema": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }
        if best or (self.val is None and self.epoch == self.recipe.epochs):
            save_checkpoint(self.out / "best.pt", checkpoint)
        save_checkpoint(self.out / "last.pt", checkpoint)

    def _resume(self) -> None:
        path = self.out / "last.pt"
        checkpoint = load_checkpoint(path, self.device)
        check_same_run(path, checkpoint, self._identity())
        try:
            self.network.load_state_dict(checkpoint["network"])
            self.average.load(checkpoint["ema"], checkpoint["steps"])
            self.optimiser.load_state_dict(checkpoint["optimiser"])
            self.epoch = int(checkpoint["epoch"])
            self.best_miou = float(checkpoint["best_miou"])
            self.init = checkpoint.get("init") or self.init
        except (KeyError, RuntimeError, ValueError, TypeError, AttributeError) as error:
            raise TrainingError(f"{path}: does not fit this recipe ({one_line(error)})") from error
        self.history = [entry for entry in read_log(self.out) if entry.epoch <= self.epoch]
        logger.info("resuming %s after epoch %d", self.out, self.epoch)


def _folder(path: Path | None, recipe: TrainRecipe) -> LabelledFolder | None:
    return None if path is None else LabelledFolder(path, len(recipe.classes))


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    count = torch.cuda.device_count()
    if device.type == "cuda" and not count:
        raise UsageError(f"device: is {name}, but torch finds no CUDA device; use cpu")
    if device.type == "cuda" and (device.index or 0) >= count:
        raise UsageError(f"device: is {name}, but torch finds {count} CUDA devices; the first is cuda:0")
    return device
