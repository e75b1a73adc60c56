"""What a graph's answer is: which of its outputs, logits or probabilities or class ids, and on which grid."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from streamseg.errors import EngineError
from streamseg.inference.forms import Array
from streamseg.inference.interface import stride_of
from streamseg.inference.onnx_file import Port
from streamseg.models.weights.onnx_facts import Facts
from streamseg.models.weights.onnx_hints import Guess
from streamseg.types import IGNORE, Size

_PREFERRED = ("out", "logits", "output", "output0", "semantic", "seg")
_OBJECTS = ("quer", "box", "dets", "scores", "keypoint")
_SLACK = 1e-3  # of a sum of probabilities; half precision has 1e-3


class Form(NamedTuple):
    """How an output lies on the picture's grid."""

    layout: str
    channels: int | None  # None: no axis of classes
    stride: int


class Answer(NamedTuple):
    """What the output is; `most` is the highest class id in the trial, -1 for others."""

    name: str
    output: str
    layout: str
    channels: int | None
    stride: int
    sigmoid_in_graph: bool
    most: int
    guesses: list[Guess]


def read_answer(
    what: str,
    facts: Facts,
    given: dict[str, Any],
    answers: dict[str, Array],
    size: Size,
    batch: int,
    layout: str,
) -> Answer:
    """Find out by the graph, and by its outputs for one picture of `size`; raises EngineError.

    layout: the input's, which the output has too where its shape allows both.
    """
    forms = {name: forms_of(array, size, batch, given, layout) for name, array in answers.items()}
    name, source = _choose(what, facts, given, answers, size, {n: f[0] for n, f in forms.items() if f})
    form, *others = forms[name]
    array = answers[name]
    if not np.isfinite(array.astype(np.float32)).any():
        raise EngineError(
            f"{what} computes no numbers (NaN or infinity); its weights are damaged, or it takes other "
            "levels (--mean, --std, --scale)"
        )
    if array.dtype.kind in "iub" and form.channels not in (None, 1):
        raise EngineError(
            f"{what} gives {array.dtype} in {form.channels} channels, which are neither class ids nor "
            "numbers in float for each class (but quantised ones, or colours); export it with one of these"
        )
    guesses = [Guess("output_name", name, source)] if len(answers) > 1 else []
    if others:
        guesses.append(Guess("output_layout", form.layout, "its shape allows both; as the input"))
    output, why, sigmoid = _kind(facts.made_by.get(name, ""), array, form, given)
    channels = None if output == "labels" else form.channels or 1
    most = int(array[array != IGNORE].max(initial=-1)) if output == "labels" else -1
    at = "full size" if form.stride == 1 else f"1/{form.stride}"
    guesses.append(Guess("output", f"{output}, {'x'.join(map(str, array.shape))}, at {at}", why))
    return Answer(name, output, form.layout, channels, form.stride, sigmoid, most, guesses)


def _choose(
    what: str,
    facts: Facts,
    given: dict[str, Any],
    answers: dict[str, Array],
    size: Size,
    forms: dict[str, Form],
) -> tuple[str, str]:
    ports = facts.surface.outputs
    shown = "; ".join(_shown(port, answers) for port in ports)
    if wanted := given.get("output_name"):
        if wanted not in answers:
            raise EngineError(f"{what} has no output {wanted!r}; its outputs are {shown}")
        if wanted not in forms:
            raise EngineError(f"{what}: its output {wanted!r} is no map of classes; its outputs are {shown}")
        return wanted, "given"
    objects = any(part in port.name.lower() for port in ports for part in _OBJECTS)
    flat = [array for name, array in answers.items() if name not in forms]
    if objects or (forms and any(array.ndim == 3 for array in flat)):
        raise EngineError(
            f"{what} finds objects (it gives {shown}); wanted is a network for semantic segmentation, which "
            "gives one map of classes"
        )
    if not forms:
        if any(array.ndim == 3 and stride_of(size, (array.shape[1], array.shape[2])) for array in flat):
            raise EngineError(
                f"{what} gives {shown} for a picture of {size[0]}x{size[1]}, which has no axis of the batch; "
                "export it with four axes"
            )
        kind = {1: "a classifier", 2: "a classifier", 3: "a detector"}.get(
            max((array.ndim for array in flat), default=0), "another kind of network"
        )
        raise EngineError(
            f"{what} gives no map of classes but {shown} for a picture of {size[0]}x{size[1]}; it is {kind}"
        )
    names = list(forms)
    if len(names) == 1:
        return names[0], "the only map of classes"
    main = [name for name in names if not name.lower().startswith("aux")] or names
    best = next((name for wanted in _PREFERRED for name in main if name.lower() == wanted), main[0])
    others = ", ".join(name for name in names if name != best)
    return best, f"its name; also there: {others} (--output-name)"


def _shown(port: Port, answers: dict[str, Array]) -> str:
    shape = ", ".join(map(str, answers[port.name].shape)) if port.name in answers else "?"
    return f"{port.name[:60]}: {port.type} ({shape})"


def forms_of(array: Array, size: Size, batch: int, given: dict[str, Any], layout: str) -> list[Form]:
    """How an answer may lie on the grid of a picture of this size, that of `layout` first."""
    shape = array.shape
    if array.ndim == 4:
        forms = [
            Form("nchw", shape[1], stride) if first else Form("nhwc", shape[3], stride)
            for first, sides in ((True, shape[2:]), (False, shape[1:3]))
            if min(sides) > 1 and (stride := stride_of(size, (sides[0], sides[1])))
        ]
        chosen = [form for form in forms if given.get("output_layout") in (None, form.layout)]
        return sorted(chosen, key=lambda form: form.layout != layout)
    if array.ndim == 3 and shape[0] != batch:
        return []
    if array.ndim in (2, 3) and min(shape[-2:]) > 1 and (stride := stride_of(size, (shape[-2], shape[-1]))):
        return [Form("nchw", None, stride)]
    return []


def _kind(maker: str, array: Array, form: Form, given: dict[str, Any]) -> tuple[str, str, bool]:
    """The output's kind, from what, and whether a sigmoid is behind it."""
    inside = bool(given.get("sigmoid_in_graph", True))
    if "output" in given:
        return given["output"], "given", inside
    one = form.channels in (None, 1)
    by = f"it ends with {maker}" if maker else "the trial run"
    if array.dtype.kind in "iub" or (maker in ("ArgMax", "ArgMin") and one):
        return "labels", f"it gives {array.dtype}" if array.dtype.kind in "iub" else by, True
    low, high = float(np.nanmin(array)), float(np.nanmax(array))
    within = low >= -_SLACK and high <= 1 + _SLACK
    if one:
        if maker == "Sigmoid" or ("sigmoid_in_graph" not in given and within):
            return "binary", by if maker == "Sigmoid" else "one channel, with numbers from 0 to 1", inside
        return "binary", f"one channel, with numbers from {low:.3g} to {high:.3g}", False
    if maker == "Sigmoid":
        return "probabilities", f"{by}; of one class with its background: --output binary", True
    axis = -1 if form.layout == "nhwc" else 1
    sums = array.astype(np.float64).sum(axis)
    if within and (maker == "Softmax" or np.abs(sums - 1).max() < 10 * _SLACK):
        return "probabilities", by if maker == "Softmax" else "they sum to one", True
    return "logits", by, True
