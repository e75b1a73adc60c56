"""int8 from fp32: static quantisation of an exported graph, calibrated without the validation images.

Weights are int8 for each output channel, activations uint8 with a zero point, as Q/DQ nodes that ONNX Runtime
fuses into integer convolutions (QuantizeLinear, DequantizeLinear). x86 processors without
VNNI sum two products in 16 bits, which weights of 8 bits can overflow; with 7, -64 to 64, they are exact and
fast there, too. Depthwise convolutions sum nothing so and keep 8. The first
and the last convolutions stay fp32: in slim together 1 % of the arithmetic. Measured for slim on AVX-512 VNNI
with one thread: 9.0 ms; with the first convolution in int8 11.2 ms; with int8 instead of uint8 activations
25 ms, as fp32. Calibration by entropy chose the same ranges as minmax, so it is not tried.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)

from streamseg.errors import TrainingError
from streamseg.inference.backends.onnx import EXACT_INT8
from streamseg.inference.backends.onnx_edit import fold_batch_norm
from streamseg.inference.scaling import fit_size
from streamseg.inference.spec import INT8, find_engine
from streamseg.inference.spec_text import spec_text
from streamseg.inference.weights import read_weights, weights_entry
from streamseg.runtime.files import written
from streamseg.types import U8, Size
from streamseg.types.picture import scale_picture

logger = logging.getLogger(__name__)

Images = Sequence[npt.NDArray[np.uint8]]

QUANTISED = ("Conv", "Add", "MaxPool", "AveragePool", "Concat", "Clip")
PICTURES = 48  # used by default, two thirds of them to calibrate
IN_8_BITS = {"quant_type": QuantType.QInt8, "reduce_range": False, "symmetric": True, "axis": 0}
AT_ONCE = 4  # images whose activations are in memory together


class Calibration(NamedTuple):
    """One way of choosing the range of an activation."""

    name: str
    method: Any
    options: dict[str, Any]


CALIBRATIONS = (
    Calibration("minmax", CalibrationMethod.MinMax, {}),
    Calibration("percentile 99.99", CalibrationMethod.Percentile, {"CalibPercentile": 99.99}),
    Calibration("percentile 99.999", CalibrationMethod.Percentile, {"CalibPercentile": 99.999}),
)


class Quantised(NamedTuple):
    """The chosen calibration, and how often each one's labels agree with fp32 on other images, in %."""

    calibration: str
    agreement: dict[str, float]  # of every candidate
    pictures: int  # that it was calibrated on
    compared: int  # pictures that the agreement was measured on


def quantise_engine(
    name: str, pictures: Images, size: Size | None = None, weight_bits: int = 8
) -> tuple[Path, Quantised]:
    """Give the engine `name` an int8 form, calibrated on RGB pictures (H, W, 3); returns its folder.

    A third of the pictures is used to compare. size: the input size, unset the engine's own. weight_bits: 8,
    or 7 for processors without VNNI. Other files stay as they are. Raises StreamsegError.
    """
    folder, spec = find_engine(name)
    read_weights(folder, spec, "fp32")  # checks them
    if not spec.normalisation.in_graph:
        raise TrainingError(f"engine {spec.name}: its graph does not take uint8 pictures; export it again")
    parts = calibration_parts(pictures, size or spec.input_size, spec.size_multiple)
    with written(folder / "engine.toml") as toml, written(folder / INT8) as beside:  # both, or neither
        quantised = quantise(folder / spec.weights["fp32"].file, beside, *parts, weight_bits)
        weights = {"fp32": spec.weights["fp32"], "int8": weights_entry(beside, INT8)}
        toml.write_text(spec_text(msgspec.structs.replace(spec, weights=weights)), "utf-8")
    return folder, quantised


def calibration_parts(pictures: Images, size: Size, multiple: int = 8) -> tuple[list[U8], list[U8]]:
    """Scale RGB pictures to about `size`: two thirds to calibrate on, and the others to compare on.

    Raises TrainingError for fewer than two pictures.
    """
    if len(pictures) < 2:
        raise TrainingError(f"calibration needs at least two pictures, not {len(pictures)}")
    compared = set(range(1, len(pictures), 3 if len(pictures) > 2 else 2))
    scaled = [scale_picture(p, fit_size((p.shape[0], p.shape[1]), size, multiple)) for p in pictures]
    return (
        [p for i, p in enumerate(scaled) if i not in compared],
        [p for i, p in enumerate(scaled) if i in compared],
    )


def quantise(model: Path, out: Path, calibrate: Images, compare: Images, weight_bits: int = 8) -> Quantised:
    """Write the int8 form of `model` to `out`.

    Each calibration is tried on the images `calibrate`; the one whose labels agree most often with fp32 on
    the images `compare` is kept. Needs no ground truth. Raises TrainingError without images.
    """
    if not calibrate or not compare:
        raise TrainingError("calibration needs images")
    calibrate = calibrate[: len(calibrate) // AT_ONCE * AT_ONCE] or calibrate
    wanted = [_labels(session, image) for session in [_session(model)] for image in compare]
    agreement: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        model = _folded(model, Path(folder) / "folded.onnx")
        tried: dict[str, Path] = {}
        for calibration in CALIBRATIONS:
            path = Path(folder) / f"{len(tried)}.onnx"
            _quantise(model, path, calibrate, calibration, weight_bits)
            session = _session(path)
            same = [
                (_labels(session, image) == want).mean() for image, want in zip(compare, wanted, strict=True)
            ]
            tried[calibration.name] = path
            agreement[calibration.name] = round(100 * float(np.mean(same)), 3)
            logger.info(
                "int8, %s: %.3f %% of labels as in fp32", calibration.name, agreement[calibration.name]
            )
        best = max(agreement, key=lambda name: agreement[name])
        out.write_bytes(tried[best].read_bytes())
    return Quantised(best, agreement, len(calibrate), len(compare))


def _quantise(model: Path, out: Path, images: Images, calibration: Calibration, weight_bits: int) -> None:
    graph = onnx.load(model).graph
    in_8_bits = depthwise_weights(graph) if weight_bits < 8 else []
    logging.disable(logging.WARNING)  # it recommends a preparation that this graph has had
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            quantize_static(
                model,
                out,
                _Reader(graph.input[0].name, images),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=list(QUANTISED),
                nodes_to_exclude=outer_convolutions(graph),
                per_channel=True,
                reduce_range=weight_bits < 8,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=calibration.method,
                extra_options={
                    "ActivationSymmetric": False,
                    "WeightSymmetric": True,
                    "CalibStridedMinMax": AT_ONCE if len(images) % AT_ONCE == 0 else 1,
                    "TensorQuantOverrides": {name: [IN_8_BITS] for name in in_8_bits},
                    **calibration.options,
                },
            )
    finally:
        logging.disable(logging.NOTSET)


def depthwise_weights(graph: Any) -> list[str]:
    """Names of the weights of depthwise convolutions, except those that stay fp32."""
    outer = outer_convolutions(graph)
    one_each = {tensor.name for tensor in graph.initializer if len(tensor.dims) == 4 and tensor.dims[1] == 1}
    inner = (node for node in graph.node if node.op_type == "Conv" and node.name not in outer)
    return [node.input[1] for node in inner if node.input[1] in one_each]


def outer_convolutions(graph: Any) -> list[str]:
    """Names of the convolutions before which, or after which, there is no other."""
    seen: set[str] = set()  # values that a convolution went into
    first = []
    for node in graph.node:
        behind = any(name in seen for name in node.input)
        if node.op_type == "Conv" and not behind:
            first.append(node.name)
        if behind or node.op_type == "Conv":
            seen.update(node.output)
    wanted: set[str] = set()  # values that go into a convolution
    last = []
    for node in reversed(graph.node):
        before = any(name in wanted for name in node.output)
        if node.op_type == "Conv" and not before:
            last.append(node.name)
        if before or node.op_type == "Conv":
            wanted.update(node.input)
    return sorted({*first, *last})


def _folded(model: Path, out: Path) -> Path:
    """The graph with its batch normalisations folded into the convolutions."""
    graph = onnx.load(model)
    fold_batch_norm(graph.graph)
    onnx.save(graph, out)
    return out


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """Feeds images, some at a time: ONNX Runtime calls set_range."""

    def __init__(self, name: str, images: Images) -> None:
        self._name, self._images = name, images
        self._feeds: Iterator[dict[str, npt.NDArray[np.uint8]]] = iter(())

    def __len__(self) -> int:
        return len(self._images)

    def set_range(self, start_index: int, end_index: int) -> None:
        self._feeds = ({self._name: image[None]} for image in self._images[start_index:end_index])

    def get_next(self) -> dict[str, npt.NDArray[np.uint8]] | None:
        return next(self._feeds, None)


def _session(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.add_session_config_entry(*EXACT_INT8)
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _labels(session: ort.InferenceSession, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    labels: npt.NDArray[np.int64] = session.run(None, {session.get_inputs()[0].name: image[None]})[0].argmax(
        1
    )
    return labels
