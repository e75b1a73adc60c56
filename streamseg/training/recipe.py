"""The recipe of a training run: all its settings, read from TOML."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from streamseg.config import Settings, build_settings
from streamseg.errors import ConfigError
from streamseg.inference.spec import ClassEntry

Fraction = Annotated[float, Meta(ge=0, le=1)]


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
        tuple[Annotated[int, Meta(ge=32, multiple_of=8)], Annotated[int, Meta(ge=32, multiple_of=8)]],
        Meta(description="[height, width] of the crops, multiples of 8."),
    ] = (288, 384)
    scale_min: Annotated[float, Meta(gt=0, le=10, description="Smallest scale of the picture.")] = 0.65
    scale_max: Annotated[float, Meta(gt=0, le=10, description="Largest scale of the picture.")] = 2.0
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


class TrainRecipe(Settings, frozen=True):
    """A training run: the same recipe, data and machine give the same weights."""

    network: Annotated[
        Literal["slim", "deeplab", "deeplab-msc", "deeplab-largefov", "deeplab-msc-largefov"],
        Meta(description="What to train from scratch: slim, or a head of the first paper on its backbone."),
    ] = "slim"
    width: Annotated[
        int, Meta(ge=12, le=512, multiple_of=12, description="Channels of the network at 1/8.")
    ] = 96
    label_set: Annotated[str, Meta(min_length=1, description="Name of the set of classes.")] = "camvid-11"
    licence: Annotated[
        str, Meta(min_length=1, description="Licence of the weights, as the licence of the data demands.")
    ] = "not stated; ask who trained it"
    classes: Annotated[
        tuple[ClassEntry, ...], Meta(min_length=2, max_length=255, description="The classes, in order.")
    ] = CAMVID_CLASSES
    input_size: Annotated[
        tuple[Annotated[int, Meta(ge=32, multiple_of=8)], Annotated[int, Meta(ge=32, multiple_of=8)]],
        Meta(
            description="[height, width] the network is meant for; images are scaled to about as many pixels."
        ),
    ] = (360, 480)
    seed: Annotated[int, Meta(ge=0, le=2**31, description="Seed of everything random.")] = 1
    epochs: Annotated[int, Meta(ge=1, le=100_000, description="Passes over the training images.")] = 400
    batch_size: Annotated[int, Meta(ge=1, le=1024, description="Crops in one step.")] = 8
    learning_rate: Annotated[float, Meta(gt=0, le=1, description="Highest learning rate of AdamW.")] = 4e-3
    weight_decay: Annotated[float, Meta(ge=0, le=1, description="Weight decay, on matrices only.")] = 2e-2
    warmup: Annotated[Fraction, Meta(description="Share of the run in which the rate rises.")] = 0.03
    hold: Annotated[
        Fraction,
        Meta(description="Share of the run up to which the rate stays high; then half a cosine to 0."),
    ] = 0.25
    clip_norm: Annotated[float, Meta(gt=0, description="Gradients are scaled down to this norm.")] = 5.0
    ema: Annotated[
        Annotated[float, Meta(ge=0, lt=1)], Meta(description="Decay of the weight average, each step.")
    ] = 0.998
    auxiliary_weight: Annotated[float, Meta(ge=0, description="Weight of the loss at 1/8.")] = 0.4
    class_balance: Annotated[
        float, Meta(gt=1, description="Class weights are 1/ln(this + share); larger is more even.")
    ] = 1.10
    lovasz_weight: Annotated[float, Meta(ge=0, description="Weight of the Lovasz-softmax loss.")] = 1.0
    lovasz_from: Annotated[
        Fraction, Meta(description="Share of the run after which the Lovasz-softmax loss counts.")
    ] = 0.35
    augment: Annotated[AugmentRecipe, Meta(description="Changes to the pictures.")] = AugmentRecipe()
    evaluate_every: Annotated[
        int, Meta(ge=1, description="Epochs between two evaluations on the validation images.")
    ] = 20
    device: Annotated[str, Meta(description="cpu, cuda, cuda:N; auto takes CUDA when there is one.")] = "auto"
    threads: Annotated[int, Meta(ge=0, le=256, description="CPU threads; 0 leaves the choice to torch.")] = 0
    loader_threads: Annotated[
        int, Meta(ge=1, le=64, description="Threads that prepare pictures; the result does not depend on it.")
    ] = 1

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.classes)


def load_recipe(path: Path) -> TrainRecipe:
    """Read a recipe from TOML. Raises ConfigError naming every key that is wrong."""
    try:
        return build_settings(TrainRecipe, tomllib.loads(path.read_text("utf-8")))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not valid TOML: {error}") from error
