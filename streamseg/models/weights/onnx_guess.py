"""From what a graph says, what lies beside it and a trial run to its engine.toml; each guess has a source.

What was given on the command line is no guess, and comes first. What cannot be an engine raises EngineError.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from streamseg.errors import EngineError, UsageError
from streamseg.inference.forms import Array, feed_of
from streamseg.inference.onnx_file import Port
from streamseg.inference.scaling import make_batch
from streamseg.inference.spec import FP32, LARGEST_SIDE, ClassEntry, EngineSpec, Normalisation, Weights
from streamseg.models.weights.class_names import name_classes
from streamseg.models.weights.datasets import BACKGROUND
from streamseg.models.weights.onnx_answer import read_answer
from streamseg.models.weights.onnx_facts import Facts
from streamseg.models.weights.onnx_hints import Guess, Hints
from streamseg.types import U8, Size

GIVEN = "given"
USUAL_SIZE, USUAL_MULTIPLE = (512, 512), 32
IMAGENET = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)

Trial = Callable[[dict[str, Array]], dict[str, Array]]
"""Runs the graph: inputs by name → outputs by name; raises EngineError."""


class Importing:
    """Everything that is found out about one graph; `spec` is its engine.toml, without hashes."""

    def __init__(
        self,
        graph: Path,
        facts: Facts,
        hints: Hints,
        given: dict[str, Any],
        name: str,
        picture: Callable[[], U8],
    ) -> None:
        """given: fields of engine.toml, and mean, std, scale, in_graph, labels (a file) and dataset.

        picture: gives one to try it on, when it is needed.
        """
        self.guesses: list[Guess] = []
        self._what = graph.name
        self._facts = facts
        self._hints = hints
        self._given = given
        self._name = name
        self._picture = picture

    def spec(self, trial: Trial) -> EngineSpec:
        """Find out everything; runs the graph once. Raises EngineError and UsageError of one line."""
        port = self._input_port()
        network = self._pick("network", "network", "an ONNX graph", "nothing says more")
        layout = self._layout(port)
        size = self._size(port, layout)
        norm, kind = self._normalisation(port, layout)
        channels = self._pick("channels", "channels", *self._own_channels())
        first = EngineSpec(
            name=self._name,
            network=network,
            licence=self._pick("licence", "licence", "unknown: see where the weights are from", "not said"),
            label_set="trial",
            input_size=size,
            normalisation=norm,
            weights={"fp32": Weights(file=FP32, sha256="0" * 64)},
            classes=(BACKGROUND, ClassEntry(name="other", colour=(255, 255, 255))),
            input_type=kind if kind != ("uint8" if norm.in_graph else "float32") else None,
            layout=layout if layout != ("nhwc" if norm.in_graph else "nchw") else None,
            channels=channels,
            size_multiple=1,
        )
        batch = (1 if self._batch(port) is None else self._batch(port)) or 1
        pictures = make_batch([self._picture()], size).repeat(batch, 0)
        answers = trial({port.name: feed_of(pictures, first)})
        return self._with_output(first, port, answers, size, batch)

    def note(self, what: str, value: object, source: str) -> None:
        """Add a line to what is printed."""
        self.guesses.append(Guess(what, str(value), source))

    def _pick(self, key: str, hint: str, usual: Any, why: str) -> Any:
        """What was given, else a hint, else what is usual; noted."""
        if key in self._given:
            value, source = self._given[key], GIVEN
        elif hint in self._hints:
            value, source = self._hints[hint]
        else:
            value, source = usual, why
        self.note(key, value, source)
        return value

    def _input_port(self) -> Port:
        ports = self._facts.surface.inputs
        names = "; ".join(map(str, ports)) or "none"
        if len(ports) != 1:
            raise EngineError(f"{self._what} has {len(ports)} inputs ({names}); wanted is one, the picture")
        (port,) = ports
        if port.type not in ("uint8", "float16", "float32"):
            raise EngineError(f"{self._what} takes {port}; wanted are pictures in float32, float16 or uint8")
        if port.shape is not None and len(port.shape) != 4:
            raise EngineError(f"{self._what} takes {port}; wanted is one picture, which has four axes")
        self.note("input", port, "the graph")
        return port

    def _layout(self, port: Port) -> Any:
        if "layout" in self._given:
            layout, source = self._given["layout"], GIVEN
        elif port.shape is None or (port.shape[1] is None and port.shape[3] is None):
            layout, source = ("nhwc" if port.type == "uint8" else "nchw"), f"usual for {port.type}"
        elif 3 in (port.shape[1], port.shape[3]):
            layout, source = ("nchw" if port.shape[1] == 3 else "nhwc"), "the input's shape"
        else:
            layout, source = ("nhwc" if port.shape[3] in (1, 4) else "nchw"), ""
        at, other, where = (3, 1, "first") if layout == "nhwc" else (1, 3, "last")
        if port.shape is not None and port.shape[other] == 3 and port.shape[at] != 3:
            raise EngineError(f"{self._what} takes {port}, with its channels {where}; leave out --layout")
        if port.shape is not None and port.shape[at] not in (None, 3):
            raise EngineError(
                f"{self._what} takes {port}, pictures of {port.shape[at]} channels; wanted are 3, RGB"
            )
        self.note("layout", layout, source)
        return layout

    def _batch(self, port: Port) -> int | None:
        return self._given.get("batch") or (port.shape[0] if port.shape else None)

    def _size(self, port: Port, layout: str) -> Size:
        sides: tuple[int | None, ...] = (None, None)
        if port.shape is not None:
            sides = port.shape[1:3] if layout == "nhwc" else port.shape[2:4]
        given, hint = self._given.get("input_size"), self._hints.get("input_size")
        size: Any
        if None not in sides:
            if given and tuple(given) != sides:
                raise UsageError(
                    f"--input-size: {self._what} takes pictures of {sides[0]}x{sides[1]} only; is "
                    f"{given[0]}x{given[1]} (height x width)"
                )
            size, source = (sides[0], sides[1]), "the input's shape, which is fixed"
        elif given:
            size, source = tuple(given), GIVEN
        elif hint and hint.value:
            size, source = hint
        else:
            size, source = USUAL_SIZE, "the input is free; usual"
        unit = 1 if None not in sides else self._multiple()
        size = tuple(
            max(1, round((of or wanted) / unit)) * unit for of, wanted in zip(sides, size, strict=True)
        )
        if max(size) > LARGEST_SIDE:
            raise EngineError(
                f"{self._what}: pictures of {size[0]}x{size[1]} ({source}); sides of at most {LARGEST_SIDE} "
                "pixels are supported"
            )
        self.note("input_size", f"{size[0]}x{size[1]} (height x width)", source)
        return size[0], size[1]

    def _multiple(self) -> int:
        hint = self._hints.get("multiple")
        return int(self._given.get("size_multiple") or (hint.value if hint else USUAL_MULTIPLE))

    def _normalisation(self, port: Port, layout: str) -> tuple[Normalisation, Any]:
        given, hints = self._given, self._hints
        kind: Any = port.type
        if levels := sorted(given.keys() & {"mean", "std", "scale"}):
            if given.get("in_graph") or kind == "uint8":
                why = (
                    "--in-graph says that levels are taken as they are"
                    if given.get("in_graph")
                    else (f"{self._what} takes levels as they are (uint8)")
                )
                raise UsageError(f"--{levels[0]}: {why}; leave it out")
            mean, std, source = *given_levels(given), GIVEN
        elif given.get("in_graph") or kind == "uint8":
            source = GIVEN if given.get("in_graph") else "it takes uint8"
            return self._in_graph(source), kind
        elif "in_graph" not in given and "mean" in hints and "std" in hints:
            (mean, source), (std, _) = hints["mean"], hints["std"]
        elif "in_graph" not in given and (own := self._own_arithmetic()):
            if own == "levels":
                return self._in_graph("the graph normalises levels itself"), kind
            mean, std, source = (0.0,) * 3, (255.0,) * 3, "the graph normalises 0..1 itself"
        elif layout == "nhwc":
            mean, std, source = (127.5,) * 3, (127.5,) * 3, "usual for channels last: -1..1"
        else:
            mean, std, source = *IMAGENET, "usual: ImageNet's"
        self.note("mean, std", f"{_numbers(mean)}, {_numbers(std)} of RGB levels 0..255", source)
        return Normalisation(mean=mean, std=std, in_graph=False), kind

    def _in_graph(self, source: str) -> Normalisation:
        self.note("mean, std", "none: levels 0..255 as they are", source)
        return Normalisation(mean=(0.0,) * 3, std=(1.0,) * 3, in_graph=True)

    def _own_arithmetic(self) -> str:
        """What the graph's own normalisation takes: levels, or 0..1; empty where it has none."""
        for at, step in enumerate(self._facts.first):
            largest = max(map(abs, step.constant))
            if (step.operation == "Div" and largest > 20) or (step.operation == "Mul" and largest < 0.05):
                return "levels"
            if step.operation in ("Sub", "Add") and at == 0 and largest > 2:
                return "levels"
        return "0..1" if self._facts.first else ""

    def _own_channels(self) -> tuple[str, str]:
        """rgb, or bgr for a graph that subtracts ImageNet's mean in that order."""
        for step in self._facts.first:
            levels = [abs(v) * (255 if max(map(abs, step.constant)) <= 1 else 1) for v in step.constant]
            if (
                len(levels) == 3
                and max(abs(a - b) for a, b in zip(levels, IMAGENET[0][::-1], strict=True)) < 3
            ):
                return "bgr", "the mean that the graph subtracts"
        return "rgb", "usual"

    def _with_output(
        self, first: EngineSpec, port: Port, answers: dict[str, Array], size: Size, batch: int
    ) -> EngineSpec:
        answer = read_answer(self._what, self._facts, self._given, answers, size, batch, first.feed[1])
        classes, label_set, guess = name_classes(
            self._what, self._name, answer, given=self._given, hints=self._hints
        )
        self.guesses += [*answer.guesses, guess]
        fixed = self._given.get("size") == "fixed" or (
            port.shape is not None
            and None not in (port.shape[1:3] if first.feed[1] == "nhwc" else port.shape[2:4])
        )
        form: dict[str, Any] = {
            "output": answer.output,
            "output_name": answer.name if len(self._facts.surface.outputs) > 1 else "",
            "output_layout": answer.layout,
            "sigmoid_in_graph": answer.sigmoid_in_graph,
            "output_stride": answer.stride,
            "size": self._given.get("size"),
            "batch": self._given.get("batch"),
            "fit": self._fit(fixed, size, answer.stride),
            "size_multiple": 8 if fixed else self._multiple(),
            "classes": classes,
            "label_set": label_set,
        }
        return EngineSpec(**{**{f: getattr(first, f) for f in first.__struct_fields__}, **form})

    def _fit(self, fixed: bool, size: Size, stride: int) -> Any:
        boxes = all(side % stride == 0 for side in size)
        if "fit" in self._given:
            fit, source = self._given["fit"], GIVEN
        elif "fit" in self._hints:
            fit, source = self._hints["fit"]
        elif fixed:
            fit, source = "stretch", "usual for a fixed size; --fit letterbox keeps the shape of pictures"
            if "box" in self._hints and boxes:
                fit, source = "letterbox", self._hints["box"].source
        else:
            fit, source = "keep", "the size is free"
        self.note("fit", fit, source)
        return fit


def given_levels(given: Mapping[str, Any]) -> tuple[Any, Any]:
    """--mean and --std, which are of levels × --scale; without it numbers up to 1 are of 0..1."""
    mean, std = given.get("mean"), given.get("std")
    scale = given.get("scale")
    if scale is None:
        small = all(abs(v) <= 1 for v in (mean or (0.0,))) and all(v <= 1 for v in (std or (1.0,)))
        scale = 1 / 255 if small and (mean or std) else 1.0
    return tuple(v / scale for v in mean or (0.0,) * 3), tuple(v / scale for v in std or (1.0,) * 3)


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{v:.4g}" for v in values)
