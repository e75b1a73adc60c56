"""An engine's folder: what engine.toml may say, and its weights."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from streamseg.config import Precision, Settings, build_settings, parse_toml
from streamseg.config.settings import CONTROL_CHARACTERS
from streamseg.config.text_file import read_text
from streamseg.crf.params import KERNEL_KEYS, CrfParams
from streamseg.errors import ConfigError, EngineError, did_you_mean
from streamseg.inference.engine_folders import RELEASED_ENGINES, engine_folder, found_engines, how_to_fetch
from streamseg.types import IGNORE, AnswerKind, ClassInfo, LabelSet

FP32, INT8 = "model.onnx", "model.int8.onnx"

LARGEST_SIDE = 8192
SMALLEST_SIGMA = 0.01  # pixels or levels; the lattice of a picture of the largest side still fits
MOST_CLASSES = IGNORE  # ids are below it

InputType = Literal["uint8", "float16", "float32"]
Layout = Literal["nchw", "nhwc"]
Fit = Literal["keep", "letterbox", "stretch"]
Output = Literal["logits", "probabilities", "labels", "binary"]

_Level = Annotated[int, Meta(ge=0, le=255)]
_Side = Annotated[int, Meta(ge=1, le=LARGEST_SIDE)]
_Mean = Annotated[float, Meta(ge=-1e4, le=1e4)]
_Std = Annotated[float, Meta(ge=1e-6, le=1e4)]


class Normalisation(Settings, frozen=True):
    """How RGB levels become the network's input: (level − mean) / std, in 0..255."""

    mean: Annotated[tuple[_Mean, _Mean, _Mean], Meta(description="Of each RGB channel, in levels.")]
    std: Annotated[tuple[_Std, _Std, _Std], Meta(description="Of each RGB channel, in levels.")]
    in_graph: Annotated[bool, Meta(description="The graph takes levels 0..255 and does this itself.")]


class Weights(Settings, frozen=True):
    """One graph with its weights, in one file or with other files beside it."""

    file: Annotated[str, Meta(pattern=r"^[^/\\]+$", description="Its name, in the engine's folder.")]
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$", description="Its SHA-256, in hexadecimal.")]
    data: Annotated[
        dict[
            Annotated[str, Meta(min_length=1, description="a file in the engine's folder")],
            Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$", description="SHA-256 in hexadecimal.")],
        ],
        Meta(description="The SHA-256 of each file of weights that the graph refers to."),
    ] = msgspec.field(default_factory=dict)

    @property
    def digest(self) -> str:
        """SHA-256 of the graph and of all its weights."""
        if not self.data:
            return self.sha256
        return hashlib.sha256(json.dumps([self.sha256, sorted(self.data.items())]).encode()).hexdigest()


class ClassEntry(Settings, frozen=True):
    """One class; its id is its position."""

    name: Annotated[str, Meta(min_length=1, description="Its name.")]
    colour: Annotated[tuple[_Level, _Level, _Level], Meta(description="Its colour, RGB.")]
    thin: Annotated[bool, Meta(description="Narrower than the CRF's kernels.")] = False


class EngineSpec(Settings, frozen=True):
    """One engine's folder, as its engine.toml describes it."""

    name: Annotated[str, Meta(min_length=1, description="The engine's name.")]
    network: Annotated[str, Meta(min_length=1, description="The network it is an instance of.")]
    licence: Annotated[str, Meta(min_length=1, description="The licence of the weights.")]
    label_set: Annotated[str, Meta(min_length=1, description="Id of the classes.")]
    input_size: Annotated[tuple[_Side, _Side], Meta(description="(height, width) it was trained for.")]
    normalisation: Normalisation
    weights: Annotated[dict[str, Weights], Meta(description="Files of weights: fp32, and maybe int8.")]
    classes: Annotated[
        tuple[ClassEntry, ...],
        Meta(min_length=2, max_length=MOST_CLASSES, description="The classes, in order of their ids."),
    ]
    size_multiple: Annotated[int, Meta(ge=1, le=512, description="Input sides are multiples of this.")] = 8
    output_stride: Annotated[
        Annotated[int, Meta(ge=1, le=64)] | None,
        Meta(description="Input pixels for each logit; unset: as the graph has it."),
    ] = None
    input_name: Annotated[str, Meta(description="The graph's input; unset: its only one.")] = ""
    input_type: Annotated[
        InputType | None,
        Meta(description="What the input takes; unset: uint8 with in_graph = true, else float32."),
    ] = None
    layout: Annotated[
        Layout | None,
        Meta(
            description="nchw: channels before height and width; nhwc: behind them; unset: nhwc with "
            "in_graph = true, else nchw."
        ),
    ] = None
    channels: Annotated[Literal["rgb", "bgr"], Meta(description="The order of the input's channels.")] = "rgb"
    size: Annotated[
        Literal["free", "fixed"] | None,
        Meta(description="free: any size; fixed: input_size only; unset: as the graph has it."),
    ] = None
    fit: Annotated[
        Fit | None,
        Meta(
            description="How a picture of another shape becomes the input. keep: the input takes its shape, "
            "with as many pixels as input_size; letterbox: it is placed in input_size between grey bars, of "
            "which no label leaves; stretch: it is scaled to input_size. Unset: keep where the size is free, "
            "else stretch."
        ),
    ] = None
    batch: Annotated[
        Annotated[int, Meta(ge=1, le=1024)] | None,
        Meta(description="Pictures in each run, exactly; unset: as the graph has it."),
    ] = None
    output_name: Annotated[str, Meta(description="The graph's output; unset: its only one.")] = ""
    output: Annotated[
        Output,
        Meta(
            description="logits: a number for each class, before softmax; probabilities: after it; labels: "
            "one class id for each pixel; binary: a sigmoid for each class but the first, which is where "
            "all of them are below one half."
        ),
    ] = "logits"
    output_layout: Annotated[
        Layout, Meta(description="nchw: the output's classes are before height and width; nhwc: behind them.")
    ] = "nchw"
    sigmoid_in_graph: Annotated[
        bool, Meta(description="binary: the output has passed the sigmoid; false: it has not.")
    ] = True
    temperature: Annotated[
        float,
        Meta(
            ge=0.1,
            le=10,
            description="Logits are divided by it for the confidence, so that it is the share of right "
            "labels (streamseg engine calibrate).",
        ),
    ] = 1.0
    crf: CrfParams = CrfParams()

    def __post_init__(self) -> None:
        """Raises ConfigError for values that do not go together."""
        problems = [*_text_problems(self), *class_problems(self.classes), *_form_problems(self)]
        problems += _crf_problems(self.crf, len(self.classes))
        problems += [
            f"weights.{name}: must be fp32 or int8" for name in self.weights.keys() - {"fp32", "int8"}
        ]
        if not self.weights:
            problems.append("weights: must have a table fp32 or int8; is empty")
        if self.output_stride is not None and self.output_stride > min(self.input_size):
            problems.append(
                f"output_stride: must be at most the input's smaller side; is {self.output_stride} for "
                f"{list(self.input_size)}"
            )
        if problems:
            raise ConfigError(*problems)

    def weights_of(self, precision: Precision) -> Weights:
        """The file of a precision: int8 has its own, the others start from fp32's; raises EngineError."""
        file = "int8" if precision == "int8" else "fp32"
        if file not in self.weights:
            make = "streamseg engine quantise" if file == "int8" else "streamseg engine export"
            raise EngineError(
                f"engine {self.name}: has no {file} weights, only {', '.join(self.weights)}; "
                f"make them with {make}, or choose another engine.precision"
            )
        return self.weights[file]

    @property
    def feed(self) -> tuple[InputType, Layout]:
        """The type and layout of the input."""
        inside = self.normalisation.in_graph
        return self.input_type or ("uint8" if inside else "float32"), self.layout or (
            "nhwc" if inside else "nchw"
        )

    @property
    def gives(self) -> AnswerKind:
        """What an engine gives; binary comes as logits or probabilities of all classes."""
        if self.output == "binary":
            return "probabilities" if self.sigmoid_in_graph else "logits"
        return self.output

    @property
    def usual_output(self) -> bool:
        """Whether the graph has one output, logits (N, C, h, w)."""
        return (self.output, self.output_layout, self.output_name) == ("logits", "nchw", "")

    @property
    def usual(self) -> bool:
        """Whether the graph takes uint8 RGB (N, H, W, 3) of any size and gives logits, as our own do."""
        feed = (*self.feed, self.channels, self.input_name, self.normalisation.in_graph)
        return self.usual_output and feed == ("uint8", "nhwc", "rgb", "", True)

    @property
    def labels(self) -> LabelSet:
        return LabelSet(self.label_set, tuple(ClassInfo(c.name, c.colour, c.thin) for c in self.classes))


def _text_problems(spec: EngineSpec) -> Iterator[str]:
    """Texts that show nothing."""
    texts = {key: getattr(spec, key) for key in ("name", "network", "licence", "label_set")}
    texts |= {f"weights.{key}.file": entry.file for key, entry in spec.weights.items()}
    texts |= {f"classes[{i}].name": entry.name for i, entry in enumerate(spec.classes)}
    for key, text in texts.items():
        if text.isspace():
            yield f"{key}: must be one line of text; is {text[:40]!r}"


def _form_problems(spec: EngineSpec) -> Iterator[str]:
    """Settings of the graph's input and output that do not go together."""
    if not spec.normalisation.in_graph and spec.input_type == "uint8":
        yield "input_type: uint8 holds no normalised levels; set normalisation.in_graph = true"
    if spec.temperature != 1 and spec.gives != "logits":
        yield f"temperature: is for logits; the output is {spec.gives}"
    if spec.fit == "keep" and spec.size == "fixed":
        yield 'fit: keep needs size = "free"; choose letterbox or stretch'
    if spec.fit == "letterbox":
        stride = spec.output_stride
        if stride is None:
            yield "output_stride: must be set for fit = letterbox"
        elif any(side % stride for side in spec.input_size):
            yield (
                f"fit: letterbox needs an input_size of multiples of output_stride = {stride}; is "
                f"{list(spec.input_size)}; choose stretch"
            )


def class_problems(classes: tuple[ClassEntry, ...]) -> Iterator[str]:
    """What is wrong with a list of classes as a whole."""
    for i, entry in enumerate(classes):
        if CONTROL_CHARACTERS.search(entry.name):
            yield f"classes[{i}].name: must be one line of text; is {entry.name[:40]!r}"
    counts = Counter(entry.name for entry in classes)
    for name in (name for name, count in counts.items() if count > 1):
        places = [i for i, entry in enumerate(classes) if entry.name == name]
        yield f"classes[{places[1]}].name: must be unique; {name!r} is also that of classes[{places[0]}]"


def _crf_problems(crf: CrfParams, classes: int) -> Iterator[str]:
    for key in KERNEL_KEYS:
        value = getattr(crf, key)
        values = value if isinstance(value, tuple) else (value,)
        if not all(math.isfinite(v) and v <= 1e6 for v in values):
            yield f"crf.{key}: must be finite and at most 1e6; is {value}"
        if "sigma" in key and any(v < SMALLEST_SIGMA for v in values):
            yield f"crf.{key}: must be at least {SMALLEST_SIGMA}; is {value}"
        if isinstance(value, tuple) and len(value) not in (1, 3):
            yield f"crf.{key}: must be one number or three, for red, green and blue; has {len(value)}"
    if crf.compatibility is not None:
        lengths = {len(row) if isinstance(row, tuple) else 0 for row in crf.compatibility}
        if len(crf.compatibility) != classes or lengths not in ({0}, {classes}):
            yield f"crf.compatibility: must be {classes} factors, or {classes} lists of {classes} penalties"


def list_engines(skip: Callable[[EngineError], object]) -> Iterator[tuple[Path, EngineSpec]]:
    """Every engine that is found, in the order of found_engines().

    skip: is called with what is wrong with one that cannot be read, and how to repair it.
    """
    for folder in found_engines().values():
        try:
            spec = read_spec(folder)
        except EngineError as error:
            skip(EngineError(f"{error}; repair or remove that folder"))
            continue
        yield folder, spec


def find_engine(name: str) -> tuple[Path, EngineSpec]:
    """The engine of this name, or in this folder; raises EngineError with the most similar known name."""
    folder = engine_folder(name)
    if folder is not None:
        return folder, read_spec(folder)
    if name in RELEASED_ENGINES:
        raise EngineError(f"engine {name!r} is not here yet; get it with: {how_to_fetch(name)}")
    known = sorted({*RELEASED_ENGINES, *found_engines()})
    raise EngineError(f"unknown engine {name!r}; {did_you_mean(name, known)}")


def read_spec(folder: Path) -> EngineSpec:
    """Read FOLDER/engine.toml; raises EngineError that names the file and every wrong key."""
    try:
        text = read_text(folder / "engine.toml")
    except OSError as error:
        raise EngineError(
            f"engine {folder}: engine.toml cannot be read ({error.strerror}); "
            "streamseg engine list shows the engines"
        ) from error
    except UnicodeError as error:
        raise EngineError(f"engine {folder}: engine.toml {error}") from error
    return parse_spec(text, folder)


def parse_spec(text: str, folder: Path) -> EngineSpec:
    """The text of FOLDER/engine.toml as a specification; raises EngineError that names every wrong key."""
    try:
        tables = parse_toml(text, f"engine {folder}: engine.toml")
    except ConfigError as error:
        raise EngineError(str(error)) from error
    try:
        return build_settings(EngineSpec, tables)
    except ConfigError as error:
        raise EngineError(f"engine {folder}: engine.toml: " + "; ".join(error.problems)) from error
