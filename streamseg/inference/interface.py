"""Whether a graph's inputs and outputs are those that engine.toml describes: found out when it is loaded.

First what the file says of itself is compared (declared_limits), before anything is built; then, as graphs
may say little, a plain picture is run (check_runs). Every backend's engine passes both before it serves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from streamseg.config import Precision
from streamseg.errors import EngineError
from streamseg.inference.engine import Engine, Limits
from streamseg.inference.onnx_file import OnnxSurface, Port
from streamseg.inference.spec import EngineSpec
from streamseg.types import F32, U8, Size

if TYPE_CHECKING:
    from streamseg.inference.backends.protocol import BuildSpec

MOST_STRIDE = 64


def declared_limits(spec: EngineSpec, precision: Precision, surface: OnnxSurface) -> Limits:
    """Compare what a graph says of itself with engine.toml → the batch and size that its input fixes.

    Raises EngineError for a graph that takes or gives something else, or is fixed at another size.
    """
    what = f"engine {spec.name}: {spec.weights_of(precision).file}"
    picture = _only(surface.inputs, "input", what)
    answer = _only(surface.outputs, "output", what)
    if problem := _input_problem(picture, spec) or _output_problem(answer, len(spec.classes)):
        raise EngineError(f"{what} {problem}")
    if picture.shape is None:
        return Limits()
    batch, *sides = (picture.shape[i] for i in ((0, 1, 2) if spec.normalisation.in_graph else (0, 2, 3)))
    if sides == [None, None]:
        return Limits(batch=batch)
    height, width = (side or wanted for side, wanted in zip(sides, spec.input_size, strict=True))
    if (height, width) != spec.input_size:
        raise EngineError(
            f"{what} takes pictures of {height}x{width} only ({picture}), but engine.toml has input_size = "
            f"{list(spec.input_size)}; set it to [{height}, {width}]"
        )
    return Limits(batch=batch, size=(height, width))


def _only(ports: tuple[Port, ...], kind: str, what: str) -> Port:
    if len(ports) != 1:
        names = "; ".join(map(str, ports)) or "none"
        wanted = "the picture" if kind == "input" else "the logits"
        raise EngineError(f"{what} has {len(ports)} {kind}s ({names}); it must have one, {wanted}")
    return ports[0]


def _input_problem(port: Port, spec: EngineSpec) -> str:
    """What is wrong with the input, as the end of a sentence; empty where nothing is."""
    inside = spec.normalisation.in_graph
    wanted = "uint8 (N, H, W, 3)" if inside else "float32 (N, 3, H, W)"
    begin = f"takes {port}; wanted is {wanted}"
    if port.type != wanted.split()[0]:
        if port.type == ("float32" if inside else "uint8"):
            return f"{begin}, as engine.toml has in_graph = {'true' if inside else 'false'}; set the other"
        return f"{begin}; export it with such an input"
    if port.shape is None:
        return ""
    if len(port.shape) != 4:
        return f"{begin}; export it with four axes"
    channels, other = (3, 1) if inside else (1, 3)
    if port.shape[channels] != 3 and port.shape[other] == 3:
        return f"{begin}; it has its channels {'first' if inside else 'last'}: export it with another layout"
    if port.shape[channels] not in (None, 3):
        return f"{begin}; export it for RGB pictures"
    return ""


def _output_problem(port: Port, classes: int) -> str:
    """The same of the output."""
    begin = f"gives {port}; wanted are the logits, float32 (N, {classes}, h, w)"
    if not port.type.startswith(("float", "bfloat")):
        return f"{begin}; whole numbers are labels: export it without its ArgMax"
    return "" if port.shape is None else _shape_problem(port.shape, classes, begin)


def _shape_problem(shape: tuple[int | None, ...], classes: int, begin: str) -> str:
    if len(shape) != 4:
        return f"{begin}; export it with four axes"
    if shape[1] == classes or (shape[1] is None and shape[3] != classes):
        return ""
    if shape[3] == classes:
        return f"{begin}; it has its classes last: export it with a Transpose behind them"
    if shape[1] == 1:
        return f"{begin}; one channel is no choice between {classes} classes"
    return f"{begin}; engine.toml must list its {shape[1]} classes"


def check_runs(engine: Engine, spec: BuildSpec) -> None:
    """Run a plain picture and compare the logits with engine.toml; raises EngineError of one line.

    Takes about one run of the network: a batch and a size that differ from the usual ones show whether both
    are as free as the graph says.
    """
    what = f"engine {spec.engine.name}: {spec.engine.weights_of(spec.precision).file}"
    if spec.limits.size is not None:
        _check_answer(engine, spec, (spec.limits.batch or 1, *spec.limits.size), what)
        return
    batch = spec.limits.batch or min(2, spec.shapes.largest[0])
    unit = spec.engine.size_multiple
    _, height, width = spec.shapes.smallest
    other = (height + unit if height < spec.shapes.largest[1] else height, width)
    try:
        _check_answer(engine, spec, (batch, *other), what)
    except _DoesNotRun as error:
        _check_whether_free(engine, spec, batch, what, error)


def _check_whether_free(engine: Engine, spec: BuildSpec, batch: int, what: str, first: _DoesNotRun) -> None:
    """Find out why a graph did not run on a batch that its input allows; raises EngineError if it matters."""
    _, height, width = spec.shapes.usual
    single = spec.limits.batch or 1
    _check_answer(engine, spec, (single, height, width), what)  # else the graph does not run at all
    shape = (
        f"{single},{f'{height},{width},3' if spec.engine.normalisation.in_graph else f'3,{height},{width}'}"
    )
    remedy = (
        "though its input says otherwise; fix the input with: python -m "
        f"onnxruntime.tools.make_dynamic_shape_fixed --input_shape {shape} (and its --input_name)"
    )
    try:
        _check_answer(engine, spec, (single, *_reshaped((height, width), spec.engine.size_multiple)), what)
    except EngineError as error:
        raise EngineError(f"{what} runs on pictures of {height}x{width} only, {remedy}") from error
    if batch == single:
        return  # the first size was too small for it
    try:
        _check_answer(engine, spec, (batch, height, width), what)
    except EngineError:
        raise EngineError(f"{what} runs on one picture at a time only, {remedy}") from first


def _reshaped(size: Size, unit: int) -> Size:
    """A size of about as many pixels and another aspect ratio."""
    longer, shorter = (
        max(1, round(side * by / unit)) * unit for side, by in ((min(size), 1.25), (max(size), 0.8))
    )
    return (longer, shorter) if size[0] <= size[1] else (shorter, longer)


class _DoesNotRun(EngineError):
    """The library refused the batch."""


def _check_answer(engine: Engine, spec: BuildSpec, batch: tuple[int, int, int], what: str) -> None:
    try:
        logits = engine(_plain(batch))
    except EngineError as error:
        raise _DoesNotRun(str(error)) from error
    n, height, width = batch
    classes = len(spec.engine.classes)
    begin = (
        f"{what} gives {logits.shape} for {n} {'picture' if n == 1 else 'pictures'} of {height}x{width}; "
        f"wanted is ({n}, {classes}, {height} / stride, {width} / stride)"
    )
    if problem := _shape_problem(logits.shape, classes, begin):
        raise EngineError(problem)
    stride = _stride((height, width), (logits.shape[2], logits.shape[3]))
    if logits.shape[0] != n or stride is None:
        raise EngineError(begin)
    if spec.engine.output_stride not in (None, stride):
        raise EngineError(
            f"{what} has logits at 1/{stride} ({logits.shape[2]}x{logits.shape[3]} for {height}x{width}), "
            f"but engine.toml has output_stride = {spec.engine.output_stride}; set it to {stride}"
        )
    if not _usable(logits):
        raise EngineError(
            f"{what} computes no numbers (NaN or infinity) from a plain picture; its weights are damaged, or "
            "engine.toml's mean and std are not those it was trained with"
        )


def _stride(size: Size, logits: Size) -> int | None:
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
