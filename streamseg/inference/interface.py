"""Whether a graph's inputs and outputs are those that engine.toml describes: found out when it is loaded.

First what the file says of itself is compared (declared_limits), before anything is built; then, as graphs
may say little, a plain picture is run (check_runs). Every backend's engine passes both before it serves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from streamseg.config import Precision
from streamseg.errors import EngineError
from streamseg.inference.engine import Engine, Limits
from streamseg.inference.onnx_file import OnnxSurface, Port
from streamseg.inference.spec import EngineSpec
from streamseg.types import F32, IGNORE, U8, Size

if TYPE_CHECKING:
    from streamseg.inference.backends.protocol import BuildSpec

MOST_STRIDE = 64
_SLACK = 1e-2  # of a probability, for rounding in half precision


def declared_limits(spec: EngineSpec, precision: Precision, surface: OnnxSurface) -> Limits:
    """Compare what a graph says of itself with engine.toml → the batch and size that its input fixes.

    Raises EngineError for a graph that takes or gives something else, or is fixed at another size.
    """
    what = f"engine {spec.name}: {spec.weights_of(precision).file}"
    if len(surface.inputs) != 1:
        names = "; ".join(map(str, surface.inputs)) or "none"
        raise EngineError(f"{what} has {len(surface.inputs)} inputs ({names}); it must have one, the picture")
    (picture,) = surface.inputs
    if spec.input_name not in ("", picture.name):
        raise EngineError(f"{what} has no input {spec.input_name!r}; set input_name to {picture.name!r}")
    answer = _answer(surface.outputs, spec, what)
    if problem := _input_problem(picture, spec) or _output_problem(answer, spec):
        raise EngineError(f"{what} {problem}")
    batch: int | None = None
    sides: list[int | None] = [None, None]
    if picture.shape is not None:
        batch, *sides = (picture.shape[i] for i in ((0, 1, 2) if spec.feed[1] == "nhwc" else (0, 2, 3)))
    if spec.batch is not None and batch not in (None, spec.batch):
        raise EngineError(
            f"{what} takes {picture}, but engine.toml has batch = {spec.batch}; set it to {batch}"
        )
    batch = batch or spec.batch or (1 if _without_batch(answer, spec) else None)
    if sides == [None, None]:
        fixed = spec.size == "fixed" or spec.fit in ("letterbox", "stretch")
        return Limits(batch=batch, size=spec.input_size if fixed else None)
    height, width = (side or wanted for side, wanted in zip(sides, spec.input_size, strict=True))
    begin = f"{what} takes pictures of {height}x{width} only ({picture}), but engine.toml has"
    if (height, width) != spec.input_size:
        raise EngineError(f"{begin} input_size = {list(spec.input_size)}; set it to [{height}, {width}]")
    if spec.size == "free":
        raise EngineError(f'{begin} size = "free"; set size = "fixed"')
    if spec.fit == "keep":
        raise EngineError(f'{begin} fit = "keep"; set fit = "letterbox" or "stretch"')
    return Limits(batch=batch, size=(height, width))


_NOUNS = {
    "logits": "logits",
    "probabilities": "probabilities",
    "labels": "class ids",
    "binary": "sigmoids",
}


def _answer(ports: tuple[Port, ...], spec: EngineSpec, what: str) -> Port:
    names = "; ".join(map(str, ports)) or "none"
    found = [port for port in ports if port.name == spec.output_name] if spec.output_name else list(ports)
    if len(found) == 1:
        return found[0]
    if spec.output_name:
        raise EngineError(f"{what} has no output {spec.output_name!r}; its outputs are {names}")
    raise EngineError(
        f"{what} has {len(ports)} outputs ({names}); it must have one, the {_NOUNS[spec.output]}, "
        "or engine.toml an output_name"
    )


def _without_batch(answer: Port, spec: EngineSpec) -> bool:
    """Whether an output says that it has no batch axis, which one picture at a time allows."""
    return spec.output in ("labels", "binary") and answer.shape is not None and len(answer.shape) == 2


def _input_problem(port: Port, spec: EngineSpec) -> str:
    """What is wrong with the input, as the end of a sentence; empty where nothing is."""
    kind, layout = spec.feed
    last = layout == "nhwc"
    begin = f"takes {port}; wanted is {kind} {'(N, H, W, 3)' if last else '(N, 3, H, W)'}"
    if port.type != kind:
        inside = spec.normalisation.in_graph
        if spec.input_type is None and port.type == ("float32" if inside else "uint8"):
            return f"{begin}, as engine.toml has in_graph = {'true' if inside else 'false'}; set the other"
        if port.type in ("uint8", "float16", "float32"):
            return f'{begin}; set input_type = "{port.type}"'
        return f"{begin}; export it with such an input"
    if port.shape is None:
        return ""
    if len(port.shape) != 4:
        return f"{begin}; export it with four axes"
    channels, other = (3, 1) if last else (1, 3)
    if port.shape[channels] != 3 and port.shape[other] == 3:
        where, other_layout = ("first", "nchw") if last else ("last", "nhwc")
        return f'{begin}; it has its channels {where}: set layout = "{other_layout}"'
    if port.shape[channels] not in (None, 3):
        return f"{begin}; export it for RGB pictures"
    return ""


def _output_problem(port: Port, spec: EngineSpec) -> str:
    """The same of the output."""
    begin = f"gives {port}; wanted are the {_wanted(spec)}"
    if spec.output == "labels":
        return "" if port.shape is None else _ids_problem(port.shape, begin)
    if not port.type.startswith(("float", "bfloat")):
        return f'{begin}; whole numbers are class ids: set output = "labels"'
    return "" if port.shape is None else _shape_problem(port.shape, spec, begin)


def _wanted(spec: EngineSpec) -> str:
    """The answer that engine.toml describes, in words."""
    if spec.output == "labels":
        return "class ids (N, h, w)"
    count = len(spec.classes) - (spec.output == "binary")
    axes = f"(N, h, w, {count})" if spec.output_layout == "nhwc" else f"(N, {count}, h, w)"
    return f"{_NOUNS[spec.output]}, float32 {axes}"


def _ids_problem(shape: tuple[int | None, ...], begin: str) -> str:
    if len(shape) in (2, 3) or (len(shape) == 4 and 1 in (shape[1], shape[3])):
        return ""
    if len(shape) == 4:
        return f'{begin}; several channels are no class ids: set output = "logits"'
    return f"{begin}; export it with three axes"


def _shape_problem(shape: tuple[int | None, ...], spec: EngineSpec, begin: str) -> str:
    """What is wrong with the axes that a graph names."""
    classes, binary, last = len(spec.classes), spec.output == "binary", spec.output_layout == "nhwc"
    if binary and len(shape) in (2, 3) and classes == 2:
        return ""
    if len(shape) != 4:
        return f"{begin}; export it with four axes"
    wanted = classes - binary
    here, other = (shape[3], shape[1]) if last else (shape[1], shape[3])
    if here == wanted or (here is None and other != wanted):
        return ""
    if other == wanted:
        where, other_layout = ("first", "nchw") if last else ("last", "nhwc")
        return f'{begin}; it has its classes {where}: set output_layout = "{other_layout}"'
    return f"{begin}; {_count_problem(here or 0, classes, binary)}"


def _count_problem(channels: int, classes: int, binary: bool) -> str:
    if channels == 1 and not binary:
        return f'one channel is no choice between {classes} classes: set output = "binary"'
    if binary:
        return f"engine.toml must list {channels + 1} classes, the background first"
    return f"engine.toml must list its {channels} classes"


def check_runs(engine: Engine, spec: BuildSpec) -> None:
    """Run a plain picture and compare the logits with engine.toml; raises EngineError of one line.

    Takes about one run of the network: a batch and a size that differ from the usual ones show whether both
    are as free as the graph says.
    """
    what = f"engine {spec.engine.name}: {spec.engine.weights_of(spec.precision).file}"
    batch = spec.limits.batch or min(2, spec.shapes.largest[0])
    unit = spec.engine.size_multiple
    _, height, width = spec.shapes.smallest
    other = (height + unit if height < spec.shapes.largest[1] else height, width)
    try:
        _check_answer(engine, spec, (batch, *(spec.limits.size or other)), what)
    except _DoesNotRun as error:
        _check_whether_free(engine, spec, batch, what, error)


def _check_whether_free(engine: Engine, spec: BuildSpec, batch: int, what: str, first: _DoesNotRun) -> None:
    """Find out why a graph did not run on a batch that its input allows; raises EngineError if it matters."""
    _, height, width = spec.shapes.usual
    single = spec.limits.batch or 1
    _check_answer(engine, spec, (single, height, width), what)  # else the graph does not run at all
    remedy = "though its input says otherwise; set"
    try:
        if spec.limits.size is None:
            reshaped = _reshaped((height, width), spec.engine.size_multiple)
            _check_answer(engine, spec, (single, *reshaped), what)
    except EngineError as error:
        raise FormError(
            f'{what} runs on pictures of {height}x{width} only, {remedy} size = "fixed"', size="fixed"
        ) from error
    if batch == single:
        return  # the first size was too small for it
    try:
        _check_answer(engine, spec, (batch, height, width), what)
    except EngineError:
        raise FormError(f"{what} runs on one picture at a time only, {remedy} batch = 1", batch=1) from first


def _reshaped(size: Size, unit: int) -> Size:
    """A size of about as many pixels and another aspect ratio."""
    longer, shorter = (
        max(1, round(side * by / unit)) * unit for side, by in ((min(size), 1.25), (max(size), 0.8))
    )
    return (longer, shorter) if size[0] <= size[1] else (shorter, longer)


class FormError(EngineError):
    """A graph that is less free than it says; `remedy` are the settings of engine.toml that say so."""

    def __init__(self, text: str, **remedy: Any) -> None:
        super().__init__(text)
        self.remedy = remedy


class _DoesNotRun(EngineError):
    """The library refused the batch, or another number of pictures came out of it."""


def _check_answer(engine: Engine, spec: BuildSpec, batch: tuple[int, int, int], what: str) -> None:
    try:
        logits = engine(_plain(batch))
    except EngineError as error:
        raise _DoesNotRun(str(error)) from error
    n, height, width = batch
    classes, binary = len(spec.engine.classes), spec.engine.output == "binary"
    axes = "" if spec.engine.gives == "labels" else f"{classes}, "
    begin = (
        f"{what} gives {logits.shape} for {n} {'picture' if n == 1 else 'pictures'} of {height}x{width}; "
        f"wanted is ({n}, {axes}{height} / stride, {width} / stride)"
    )
    if logits.ndim != 4:
        raise EngineError(f"{begin}; export it with four axes")
    if logits.shape[0] != n:
        raise _DoesNotRun(begin)
    channels = logits.shape[1]
    if spec.engine.gives == "labels":
        if channels != 1:
            raise EngineError(f'{begin}; several channels are no class ids: set output = "logits"')
    elif channels != classes and logits.shape[3] == classes:
        raise EngineError(f'{begin}; it has its classes last: set output_layout = "nhwc"')
    elif channels != classes:
        raise EngineError(f"{begin}; {_count_problem(channels - binary, classes, binary)}")
    stride = stride_of((height, width), (logits.shape[2], logits.shape[3]))
    if stride is None:
        raise EngineError(begin)
    if spec.engine.output_stride not in (None, stride):
        raise EngineError(
            f"{what} has {_NOUNS[spec.engine.output]} at 1/{stride} ({logits.shape[2]}x{logits.shape[3]} for "
            f"{height}x{width}), but engine.toml has output_stride = {spec.engine.output_stride}; set it to "
            f"{stride}"
        )
    if problem := _values_problem(logits, spec.engine):
        raise EngineError(f"{what} {problem}")


def _values_problem(answer: F32, spec: EngineSpec) -> str:
    """What the numbers of a plain picture cannot be."""
    if not _usable(answer):
        return (
            "computes no numbers (NaN or infinity) from a plain picture; its weights are damaged, or "
            "engine.toml's mean and std are not those it was trained with"
        )
    low, high = float(answer.min()), float(answer.max())
    if spec.gives == "labels":
        known = answer[answer != IGNORE]
        if low < 0 or not (known == np.floor(known)).all():
            return f'gives numbers such as {low:.3g} and {high:.3g}, no class ids; set output = "logits"'
        if known.size and (most := int(known.max())) >= len(spec.classes):
            return f"gives the class id {most}; engine.toml lists {len(spec.classes)} classes, from 0 on"
    if spec.gives == "probabilities" and not (low >= -_SLACK and high <= 1 + _SLACK):
        remedy = "sigmoid_in_graph = false" if spec.output == "binary" else 'output = "logits"'
        return f"gives numbers from {low:.3g} to {high:.3g}, no probabilities; set {remedy}"
    return ""


def stride_of(size: Size, logits: Size) -> int | None:
    """The output stride, the same on both axes, with a rest of less than one cell; None where it is none."""
    stride = round(size[0] / logits[0])
    if not 1 <= stride <= MOST_STRIDE:
        return None
    fits = all(have in (side // stride, -(-side // stride)) for side, have in zip(size, logits, strict=True))
    return stride if fits else None


def _plain(batch: tuple[int, int, int]) -> U8:
    """Pictures of one kind: grey, from black to white."""
    levels = np.linspace(0, 255, batch[2]).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(levels[:, None], (*batch, 3)))


def _usable(logits: F32) -> bool:
    """Whether any cell has a best class."""
    return bool(np.isfinite(logits.max(1)).any())
