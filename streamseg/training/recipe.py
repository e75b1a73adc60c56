"""The recipe of a training run: all its settings, read from TOML."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from streamseg.config import Settings, build_settings, read_toml
from streamseg.errors import ConfigError
from streamseg.inference.spec import LARGEST_SIDE, MOST_CLASSES, ClassEntry, class_problems

Fraction = Annotated[float, Meta(ge=0, le=1)]
Side = Annotated[int, Meta(ge=32, le=LARGEST_SIDE, multiple_of=8)]

LITE = ("lite0", "lite1", "lite2")
STAGES = 8  # of lite's backbone, with the stem
LITE_SETTINGS = (
    "head_width", "output_stride", "cut_blocks",
    "backbone_rate", "stage_decay", "frozen_stages", "frozen_batch_norm",
)  # fmt: skip

CAMVID_CLASSES = (
    ClassEntry(name="sky", colour=(128, 128, 128)),
    ClassEntry(name="building", colour=(128, 0, 0)),
    ClassEntry(name="pole", colour=(192, 192, 128), thin=True),
    ClassEntry(name="road", colour=(128, 64, 128)),
    ClassEntry(name="pavement", colour=(60, 40, 222)),
    ClassEntry(name="tree", colour=(128, 128, 0)),
    ClassEntry(name="sign_symbol", colour=(192, 128, 128), thin=True),
    ClassEntry(name="fence", colour=(64, 64, 128)),
    ClassEntry(name="car", colour=(64, 0, 128)),
    ClassEntry(name="pedestrian", colour=(64, 64, 0)),
    ClassEntry(name="bicyclist", colour=(0, 128, 192)),
)


class AugmentRecipe(Settings, frozen=True):
    """Augmentation of the training pictures."""

    crop_size: Annotated[
        tuple[Side, Side],
        Meta(description="[height, width] of the crops, multiples of 8."),
    ] = (288, 384)
    scale_min: Annotated[float, Meta(ge=0.1, le=10, description="Smallest scale of the picture.")] = 0.65
    scale_max: Annotated[float, Meta(ge=0.1, le=10, description="Largest scale of the picture.")] = 2.0
    aspect: Annotated[float, Meta(ge=0, le=1, description="Largest change of width against height.")] = 0.12
    rotate_deg: Annotated[float, Meta(ge=0, le=180, description="Largest rotation (degrees).")] = 6.0
    flip: Annotated[Fraction, Meta(description="Share of pictures that are mirrored.")] = 0.5
    rare_crops: Annotated[Fraction, Meta(description="Share of crops centred on a rare class.")] = 0.35
    rare_share: Annotated[
        Fraction, Meta(description="A class with a smaller share of all pixels than this is rare.")
    ] = 0.015
    paste: Annotated[
        Fraction, Meta(description="Share of pictures that get rare things of another picture pasted in.")
    ] = 0.3
    light: Annotated[
        Fraction, Meta(description="Share with other brightness, contrast, gamma and white balance.")
    ] = 0.9
    colour: Annotated[Fraction, Meta(description="Share with another hue and saturation.")] = 0.6
    shadow: Annotated[Fraction, Meta(description="Share with cast shadows or uneven light.")] = 0.35
    blur: Annotated[Fraction, Meta(description="Share blurred.")] = 0.2
    noise: Annotated[Fraction, Meta(description="Share with sensor noise.")] = 0.2
    jpeg: Annotated[Fraction, Meta(description="Share compressed as JPEG of low quality.")] = 0.12


class DistilRecipe(Settings, frozen=True):
    """What is learnt from teachers; without --teacher nothing of it counts."""

    weight: Annotated[
        float, Meta(ge=0, le=100, description="Weight of the loss against the teachers' soft labels.")
    ] = 1.0
    label_weight: Annotated[
        float,
        Meta(ge=0, le=100, description="Weight of the losses against labels; 0: the teachers' alone count."),
    ] = 1.0
    temperature: Annotated[
        float,
        Meta(ge=0.5, le=20, description="Soft labels and logits are divided by it before the softmax."),
    ] = 2.0
    scales: Annotated[
        tuple[Annotated[float, Meta(ge=0.25, le=4)], ...],
        Meta(
            min_length=1, max_length=8, description="Scales of the picture a teacher's answer is a mean of."
        ),
    ] = (1.0,)
    mirrored: Annotated[bool, Meta(description="The mean is also of mirrored pictures; twice the time.")] = (
        True
    )
    unlabelled_share: Annotated[
        Fraction, Meta(description="Share of each batch that comes from --unlabelled, where that is given.")
    ] = 0.5
    every: Annotated[
        int, Meta(ge=1, le=10_000, description="Of an unlabelled video every so many frames are learnt from.")
    ] = 5
    sure: Annotated[
        Fraction,
        Meta(description="Pixels of unlabelled pictures where the teachers are less sure have no label."),
    ] = 0.7
    classes: Annotated[
        dict[
            Annotated[str, Meta(min_length=1, description="a teacher's class")],
            Annotated[str, Meta(min_length=1, description="One of the recipe's classes.")],
        ],
        Meta(description="The recipe's name of a teacher's class, where the two differ."),
    ] = msgspec.field(default_factory=dict)


class TrainRecipe(Settings, frozen=True):
    """A training run: the same recipe, data and machine give the same weights."""

    network: Annotated[
        Literal[
            "slim", "deeplab", "deeplab-msc", "deeplab-largefov", "deeplab-msc-largefov",
            "lite0", "lite1", "lite2",
        ],
        Meta(
            description="slim, a head of the first paper on its backbone, or EfficientNet-Lite (lite0 to "
            "lite2), which is meant to start from ImageNet weights (--init lite0)."
        ),
    ] = "slim"  # fmt: skip
    width: Annotated[
        int, Meta(ge=12, le=512, multiple_of=12, description="slim, deeplab: channels of the network at 1/8.")
    ] = 96
    head_width: Annotated[
        int,
        Meta(
            ge=16, le=512, multiple_of=16, description="lite: channels of the pyramid, twice the decoder's."
        ),
    ] = 128
    output_stride: Annotated[
        Literal[8, 16], Meta(description="lite: of the backbone; 8 is more accurate, and slower.")
    ] = 16
    cut_blocks: Annotated[
        int,
        Meta(
            ge=0, le=8, description="lite: blocks left out at the backbone's end; without 2 a fifth faster."
        ),
    ] = 0
    backbone_rate: Annotated[
        float,
        Meta(ge=0, le=1, description="lite: learning rate of the backbone's last stage, times the run's."),
    ] = 0.3
    stage_decay: Annotated[
        float,
        Meta(gt=0, le=1, description="lite: learning rate of each stage, times that of the one behind it."),
    ] = 1.0
    frozen_stages: Annotated[
        int,
        Meta(
            ge=0,
            le=STAGES,
            description="lite: stages that are not trained, from the stem (1) on; 0 trains all, 8 none.",
        ),
    ] = 0
    frozen_batch_norm: Annotated[
        bool, Meta(description="lite: keep the backbone's batch normalisation as it came; for small batches.")
    ] = False
    label_set: Annotated[str, Meta(min_length=1, description="Name of the set of classes.")] = "camvid-11"
    licence: Annotated[
        str, Meta(min_length=1, description="Licence of the weights, as the licence of the data demands.")
    ] = "not stated; ask who trained it"
    classes: Annotated[
        tuple[ClassEntry, ...],
        Meta(min_length=2, max_length=MOST_CLASSES, description="The classes, in order."),
    ] = CAMVID_CLASSES
    input_size: Annotated[
        tuple[Side, Side],
        Meta(
            description="[height, width] the network is meant for; images are scaled to about as many pixels."
        ),
    ] = (360, 480)
    seed: Annotated[int, Meta(ge=0, le=2**31, description="Seed of everything random.")] = 1
    epochs: Annotated[int, Meta(ge=1, le=100_000, description="Passes over the training images.")] = 400
    batch_size: Annotated[int, Meta(ge=1, le=1024, description="Crops in one step.")] = 8
    learning_rate: Annotated[float, Meta(gt=0, le=1, description="Highest learning rate of AdamW.")] = 4e-3
    weight_decay: Annotated[float, Meta(ge=0, le=1, description="Weight decay, on matrices only.")] = 2e-2
    warmup: Annotated[float, Meta(ge=0, lt=1, description="Share of the run in which the rate rises.")] = 0.03
    hold: Annotated[
        Fraction,
        Meta(description="Share of the run up to which the rate stays high; then half a cosine to 0."),
    ] = 0.25
    clip_norm: Annotated[float, Meta(gt=0, le=1e6, description="Gradients are scaled down to this norm.")] = (
        5.0
    )
    ema: Annotated[
        Annotated[float, Meta(ge=0, lt=1)], Meta(description="Decay of the weight average, each step.")
    ] = 0.998
    auxiliary_weight: Annotated[float, Meta(ge=0, le=100, description="Weight of the loss at 1/8.")] = 0.4
    class_balance: Annotated[
        float, Meta(ge=1.01, le=100, description="Class weights are 1/ln(this + share); larger is more even.")
    ] = 1.10
    lovasz_weight: Annotated[float, Meta(ge=0, le=100, description="Weight of the Lovasz-softmax loss.")] = (
        1.0
    )
    lovasz_from: Annotated[
        Fraction, Meta(description="Share of the run after which the Lovasz-softmax loss counts.")
    ] = 0.35
    temporal_weight: Annotated[
        float,
        Meta(
            ge=0,
            le=100,
            description="Weight of the loss between neighbouring frames of each --clip, or between crops and "
            "the same ones moved.",
        ),
    ] = 0.0
    temporal_moved: Annotated[
        int,
        Meta(
            ge=0,
            le=2048,
            description="Crops of a batch that are others of it once more, moved as a camera moves from one "
            "frame to the next: instead of clips.",
        ),
    ] = 0
    temporal_pairs: Annotated[
        int, Meta(ge=1, le=256, description="Pairs of frames in a step, beside the batch's crops.")
    ] = 2
    temporal_every: Annotated[
        int, Meta(ge=2, le=10_000, description="Of a clip a pair of frames in so many is used.")
    ] = 5
    augment: Annotated[AugmentRecipe, Meta(description="Changes to the pictures.")] = AugmentRecipe()
    distil: Annotated[DistilRecipe, Meta(description="Learning from teachers.")] = DistilRecipe()
    evaluate_every: Annotated[
        int, Meta(ge=1, le=100_000, description="Epochs between two evaluations on the validation images.")
    ] = 20
    device: Annotated[
        str,
        Meta(
            pattern=r"^(auto|cpu|cuda(:[0-9]{1,3})?)$",
            description="cpu, cuda, cuda:N; auto takes CUDA when there is one.",
        ),
    ] = "auto"
    threads: Annotated[int, Meta(ge=0, le=256, description="CPU threads; 0 leaves the choice to torch.")] = 0
    loader_threads: Annotated[
        int,
        Meta(
            ge=0,
            le=64,
            description="Threads that prepare pictures; the result does not depend on it. 0: one, and for "
            "a GPU one for each core, 14 at most.",
        ),
    ] = 0
    arithmetic: Annotated[
        Literal["auto", "fp32", "bf16"],
        Meta(description="Of convolutions; auto takes bf16 where the device computes it fast and right."),
    ] = "auto"

    def __post_init__(self) -> None:
        """Raises ConfigError for values that cannot be, one by one or together."""
        super().__post_init__()
        if problems := [*class_problems(self.classes), *_relations(self)]:
            raise ConfigError(*problems)

    @property
    def pretrained(self) -> bool:
        """Whether the network has a backbone with released weights."""
        return self.network in LITE

    @property
    def drawn_crops(self) -> int:
        """Crops of a batch that are not others of it, moved."""
        return self.batch_size - self.temporal_moved

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.classes)


def _relations(recipe: TrainRecipe) -> Iterator[str]:
    """What is wrong with values that are right one by one."""
    augment, (height, width) = recipe.augment, recipe.input_size
    if augment.scale_min > augment.scale_max:
        yield (
            f"augment.scale_min: must be at most augment.scale_max ({augment.scale_max:g}); "
            f"is {augment.scale_min:g}"
        )
    elif math.prod(augment.crop_size) > height * width * augment.scale_max**2:
        yield (
            f"augment.crop_size: must have at most as many pixels as input_size {[height, width]} has at "
            f"augment.scale_max ({augment.scale_max:g}), or a part of every crop is empty; "
            f"is {list(augment.crop_size)}"
        )
    for theirs, ours in recipe.distil.classes.items():
        if ours not in recipe.class_names:
            yield (
                f"distil.classes.{theirs}: must be one of the recipe's classes "
                f"({', '.join(recipe.class_names)}); is {ours!r}"
            )
    if 2 * recipe.temporal_moved > recipe.batch_size:
        yield (
            f"temporal_moved: must be at most half of batch_size ({recipe.batch_size}); "
            f"is {recipe.temporal_moved}"
        )
    if recipe.temporal_moved and not recipe.temporal_weight:
        yield "temporal_moved: goes with a temporal_weight above 0; is 0"
    if recipe.pretrained and recipe.batch_size == 1:
        yield (
            f"batch_size: must be at least 2 for {recipe.network}, whose pyramid normalises over the batch; "
            "is 1"
        )


def load_recipe(path: Path) -> TrainRecipe:
    """Read a recipe from TOML. Raises ConfigError naming every key that is wrong."""
    table = read_toml(path)
    recipe = build_settings(TrainRecipe, table)
    others = ("width",) if recipe.network in LITE else LITE_SETTINGS
    if given := [key for key in others if key in table]:
        raise ConfigError(*(f"{key}: is no setting of {recipe.network}; remove it" for key in given))
    return recipe
