"""A .tflite graph computes in ONNX what the reference interpreter computes, at its own size and at others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import onnxruntime as ort
import pytest

from streamseg.errors import WeightsError
from streamseg.inference.backends.onnx import EXACT_INT8
from streamseg.models.tflite_convert import convert, is_quantised
from streamseg.models.tflite_end import find_end
from streamseg.models.tflite_graph import Conversion, Converted
from streamseg.models.tflite_layers import LAYERS
from streamseg.models.weights.tflite import Graph, read_graph
from tests.tflite import Net, deeplab

Numbers = np.ndarray[Any, np.dtype[np.float32]]
SIDE = 32
MADE: dict[str, Callable[[], bytes]] = {}  # small networks by what is in them


def made(function: Callable[[], bytes]) -> Callable[[], bytes]:
    MADE[function.__name__] = function
    return function


def picture(height: int = SIDE, width: int = SIDE, seed: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
    coarse = np.random.default_rng(seed).integers(
        0, 256, (1 + height // 8, 1 + width // 8, 3), dtype=np.uint8
    )
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def run(converted: Converted, shown: np.ndarray[Any, np.dtype[np.uint8]]) -> Numbers:
    options = ort.SessionOptions()
    options.add_session_config_entry(*EXACT_INT8)
    session = ort.InferenceSession(converted.model, options, providers=["CPUExecutionProvider"])
    answer: Numbers = session.run(None, {"image_u8": shown[None]})[0]
    return answer


def interpreted(file: bytes, shown: np.ndarray[Any, np.dtype[np.uint8]]) -> Numbers:
    """What LiteRT computes of one picture, dequantised, (h, w, C)."""
    litert = pytest.importorskip("ai_edge_litert.interpreter", reason="needs ai-edge-litert")
    kernels = litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = litert.Interpreter(model_content=file, experimental_op_resolver_type=kernels)
    interpreter.allocate_tensors()
    (taken,), (given,) = interpreter.get_input_details(), interpreter.get_output_details()
    fed = (shown.astype(np.float32) - np.float32(127.5)) / np.float32(127.5)
    if taken["dtype"] != np.float32:
        fed = shown.astype(np.int32) - (128 if taken["dtype"] == np.int8 else 0)
    interpreter.set_tensor(taken["index"], fed[None].astype(taken["dtype"]))
    interpreter.invoke()
    answer = interpreter.get_tensor(given["index"])[0].astype(np.float32)
    scale, zero = given["quantization"]
    return np.asarray((answer - zero) * scale if scale else answer, np.float32)


def stem(net: Net, stride: int = 1, channels: int = 8, fused: int = 0) -> int:
    side = SIDE // stride
    return net.conv(0, (1, side, side, channels), 3, 11, inputs=3, stride=stride, fused=fused)


@made
def even_strides_and_a_multiplied_depthwise() -> bytes:
    net = Net((1, SIDE, SIDE, 3))
    x = stem(net, 2, fused=1)
    x = net.conv(x, (1, 8, 8, 16), 5, 2, inputs=1, depthwise=True, stride=2, fused=3)
    return net.file(net.conv(x, (1, 8, 8, 5), 1, 3, inputs=16))


@made
def padding_before_a_valid_convolution() -> bytes:
    net = Net((1, SIDE, SIDE, 3))
    margins = net.constant([[0, 0], [0, 1], [0, 1], [0, 0]], "int32")
    x = net.op("PAD", [0, margins], net.tensor((1, 33, 33, 3)))
    x = net.conv(x, (1, 16, 16, 8), 3, 1, inputs=3, stride=2, padding=1, fused=3)
    more = net.constant([[0, 0], [1, 1], [1, 1], [0, 0]], "int32")
    x = net.op("MIRROR_PAD", [x, more], net.tensor((1, 18, 18, 8)), mode=0)
    return net.file(net.conv(x, (1, 16, 16, 5), 3, 2, inputs=8, padding=1))


@made
def a_dilation_taken_apart_into_a_batch() -> bytes:
    net = Net((1, SIDE, SIDE, 3))
    x = stem(net, 2)
    block, none = net.constant([3, 3], "int32"), net.constant([[0, 2], [0, 2]], "int32")
    margins = net.constant([[3, 5], [3, 5]], "int32")  # 16 + 8 = 24, a multiple of 3
    x = net.op("SPACE_TO_BATCH_ND", [x, block, margins], net.tensor((9, 8, 8, 8)))
    x = net.conv(x, (9, 6, 6, 8), 3, 4, inputs=1, depthwise=True, padding=1, fused=3)
    x = net.op("BATCH_TO_SPACE_ND", [x, block, none], net.tensor((1, 16, 16, 8)))
    return net.file(net.conv(x, (1, 16, 16, 5), 1, 5, inputs=8))


@made
def a_decoder_of_transposed_convolutions_with_skips() -> bytes:
    net = Net((1, SIDE, SIDE, 3))
    whole = stem(net, fused=1)
    pooled = net.op("MAX_POOL_2D", [whole], net.tensor((1, 16, 16, 8)), padding=0, stride_w=2, stride_h=2,
                    filter_w=2, filter_h=2)  # fmt: skip
    x = net.conv(pooled, (1, 16, 16, 12), 3, 5, inputs=8, fused=1)
    rng = np.random.default_rng(6)
    sides, weight = net.constant([1, 32, 32, 6], "int32"), net.constant(rng.normal(0, 0.2, (6, 3, 3, 12)))
    bias = net.constant(rng.normal(size=6))
    x = net.op("TRANSPOSE_CONV", [sides, weight, x, bias], net.tensor((1, 32, 32, 6)), padding=0, stride_w=2,
               stride_h=2)  # fmt: skip
    x = net.op("CONCATENATION", [x, whole], net.tensor((1, 32, 32, 14)), axis=-1)
    return net.file(net.conv(x, (1, 32, 32, 5), 1, 7, inputs=14))


@made
def attention_by_a_mean_and_matrix_products() -> bytes:
    net = Net((1, SIDE, SIDE, 3))
    x = stem(net, 2)
    x = net.op("HARD_SWISH", [x], net.tensor((1, 16, 16, 8)))
    axes = net.constant([1, 2], "int32")
    y = net.op("MEAN", [x, axes], net.tensor((1, 8)), keep_dims=0)
    rng = np.random.default_rng(3)
    weights = [net.constant(rng.normal(0, 0.5, shape)) for shape in ((4, 8), (8, 4))]
    biases = [net.constant(rng.normal(size=n)) for n in (4, 8)]
    y = net.op("FULLY_CONNECTED", [y, weights[0], biases[0]], net.tensor((1, 4)), fused=1)
    y = net.op("FULLY_CONNECTED", [y, weights[1], biases[1]], net.tensor((1, 8)))
    y = net.op("LOGISTIC", [y], net.tensor((1, 8)))
    shape = net.constant([1, 1, 1, 8], "int32")
    y = net.op("RESHAPE", [y, shape], net.tensor((1, 1, 1, 8)))
    x = net.op("MUL", [x, y], net.tensor((1, 16, 16, 8)))
    return net.file(net.conv(x, (1, 16, 16, 5), 1, 5, inputs=8))


@made
def activations_and_arithmetic_with_constants() -> bytes:
    net = Net((1, SIDE, SIDE, 3))
    x = stem(net, 2)
    shape = (1, 16, 16, 8)
    slope = net.constant(np.linspace(0.1, 0.5, 8).reshape(1, 1, 8))
    a = net.op("PRELU", [x, slope], net.tensor(shape))
    b = net.op("LEAKY_RELU", [x], net.tensor(shape), alpha=0.2)
    c = net.op("SUB", [a, b], net.tensor(shape), fused=0)
    d = net.op("TANH", [c], net.tensor(shape))
    e = net.op("MUL", [d, net.constant(np.linspace(1, 2, 8))], net.tensor(shape))
    f = net.op("ADD", [e, net.constant(np.full((), 0.25))], net.tensor(shape), fused=1)
    g = net.op("SOFTMAX", [f], net.tensor(shape), beta=1.0)
    h = net.op("MAXIMUM", [g, x], net.tensor(shape))
    i = net.op("MINIMUM", [h, net.constant(np.full((1, 1, 1, 8), 0.75))], net.tensor(shape))
    j = net.op("DIV", [i, net.constant(np.linspace(1, 3, 8))], net.tensor(shape), fused=0)
    k = net.op("RELU6", [j], net.tensor(shape))
    return net.file(net.conv(k, (1, 16, 16, 5), 1, 5, inputs=8))


@made
def channels_cut_and_joined() -> bytes:
    net = Net((1, SIDE, SIDE, 3))
    x = stem(net, 2)
    half = (1, 16, 16, 4)
    axis = net.constant(np.array(3), "int32")
    parts = [net.tensor(half), net.tensor(half)]
    net.op("SPLIT", [axis, x], parts, count=2)
    limits = [net.constant(v, "int32") for v in ([0, 0, 0, 2], [1, 16, 16, 6], [1, 1, 1, 2])]
    c = net.op("STRIDED_SLICE", [x, *limits], net.tensor((1, 16, 16, 2)), begin_mask=7, end_mask=7)
    start, size = net.constant([0, 0, 0, 5], "int32"), net.constant([1, -1, -1, 3], "int32")
    d = net.op("SLICE", [x, start, size], net.tensor((1, 16, 16, 3)))
    y = net.op("CONCATENATION", [parts[1], d, parts[0], c], net.tensor((1, 16, 16, 13)), axis=3)
    block = net.op("DEPTH_TO_SPACE", [x], net.tensor((1, 32, 32, 2)), block=2)
    y = net.conv(y, (1, 16, 16, 8), 1, 8, inputs=13)
    y = net.op("DEPTH_TO_SPACE", [y], net.tensor((1, 32, 32, 2)), block=2)
    return net.file(net.op("ADD", [y, block], net.tensor((1, 32, 32, 2)), fused=0))


def scaled(kind: str, **how: int) -> bytes:
    net = Net((1, SIDE, SIDE, 3))
    whole = stem(net)
    x = net.conv(whole, (1, 8, 8, 8), 3, 4, inputs=8, stride=4, padding=0)
    sides = net.constant([16, 16], "int32")
    if how.get("align_corners"):  # free only where another tensor has the size
        other = net.conv(whole, (1, 16, 16, 8), 3, 5, inputs=8, stride=2)
        x = net.op(kind, [x, sides], net.tensor((1, 16, 16, 8)), **how)
        x = net.op("ADD", [x, other], net.tensor((1, 16, 16, 8)), fused=0)
    else:
        x = net.op(kind, [x, sides], net.tensor((1, 16, 16, 8)), **how)
    return net.file(net.conv(x, (1, 16, 16, 5), 1, 6, inputs=8))


for how in ("half_pixel_centers", "align_corners", ""):
    for kind in ("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"):
        MADE[f"{kind.lower()} {how}"] = lambda k=kind, h=how: scaled(k, **({h: 1} if h else {}))  # type: ignore[misc]


@made
def weights_in_half_precision() -> bytes:
    net = Net((1, SIDE, SIDE, 3))
    rng = np.random.default_rng(8)
    half = [net.constant(rng.normal(0, 0.3, shape), "float16") for shape in ((5, 3, 3, 3), (5,))]
    full = [net.op("DEQUANTIZE", [i], net.tensor(s)) for i, s in zip(half, ((5, 3, 3, 3), (5,)), strict=True)]
    y = net.tensor((1, 16, 16, 5))
    return net.file(net.op("CONV_2D", [0, *full], y, padding=0, stride_h=2, stride_w=2))


def quantised(kind: str, *, channels: bool, side: int = SIDE) -> Net:
    """Convolutions and a sum in 8 bits; uint8 for the whole tensor, or int8 for each channel."""
    rng = np.random.default_rng(9)
    zero = 128 if kind == "uint8" else 0
    net = Net((1, side, side, 3), kind, scale=1 / 128, zero=zero)
    half = -(-side // 2)
    x, scale_x, inputs = 0, 1 / 128, 3
    made_of = []
    for outputs, kernel, stride, fused in ((6, 3, 2, 3), (6, 3, 1, 0), (5, 1, 1, 0)):
        scales = rng.uniform(0.004, 0.006, outputs) if channels else np.array([0.005])
        stored = rng.integers(-100, 100, (outputs, kernel, kernel, inputs)) + (zero if kind == "uint8" else 0)
        weight = net.constant(stored, kind, scale=scales, zero=zero, axis=0)
        bias = net.constant(rng.integers(-2000, 2000, outputs), "int32", scale=scales * scale_x, zero=0)
        lowest = 0 if kind == "uint8" else -128
        out_scale, out_zero = (6 / 255, lowest) if fused else (0.05, zero)
        y = net.tensor((1, half, half, outputs), kind, scale=out_scale, zero=out_zero)
        net.op("CONV_2D", [x, weight, bias], y, padding=0, stride_h=stride, stride_w=stride, fused=fused)
        made_of.append(y)
        x, scale_x, inputs = y, out_scale, outputs
        if len(made_of) == 2:
            x = net.tensor((1, half, half, 6), kind, scale=0.06, zero=zero)
            net.op("ADD", made_of, x, fused=0)
            scale_x = 0.06
    return net


MADE["uint8 for the whole tensor"] = lambda: last(quantised("uint8", channels=False))
MADE["int8 for each channel"] = lambda: last(quantised("int8", channels=True))


def last(net: Net) -> bytes:
    return net.file(len(net.tensors) - 1)


def whole_graph(graph: Graph, quantised: bool = False) -> Converted:
    """The graph without a border, as it is at the file's own size."""
    end = find_end(graph)
    middle = 128.0 if is_quantised(graph) else 127.5
    return Conversion(graph, end, free=True, quantised=quantised, mean=(middle,) * 3, std=(middle,) * 3).run(
        LAYERS
    )


@pytest.mark.parametrize("name", MADE)
def test_every_operator_computes_what_the_reference_interpreter_does(name: str) -> None:
    file = MADE[name]()
    want = interpreted(file, picture())
    graph = read_graph(file)
    span = float(np.abs(want).max())
    got = run(convert(graph), picture())[0].transpose(1, 2, 0)
    assert got.shape == want.shape
    if not is_quantised(graph):
        np.testing.assert_allclose(got, want, atol=2e-5 * span)
        return
    np.testing.assert_allclose(got, want, atol=0.25)  # some steps of 0.05
    exact = run(convert(graph, quantised=True), picture())[0].transpose(1, 2, 0)
    assert (np.abs(exact - want) < 0.051).all()  # a step where rounding is of a half
    assert (np.abs(exact - want) < 1e-4).mean() > 0.85


@pytest.mark.parametrize("name", MADE)
def test_every_network_runs_at_other_sizes_and_in_batches(name: str) -> None:
    graph = read_graph(MADE[name]())
    for converted in (convert(graph), convert(graph, quantised=is_quantised(graph))):
        assert converted.size is None
        unit = converted.size_multiple
        shown = np.stack([picture(5 * unit, 7 * unit, seed) for seed in (1, 2)])
        session = ort.InferenceSession(converted.model, providers=["CPUExecutionProvider"])
        both = session.run(None, {"image_u8": shown})[0]
        stride = converted.output_stride
        assert both.shape == (2, converted.classes, 5 * unit // stride, 7 * unit // stride)
        alone = session.run(None, {"image_u8": shown[1:]})[0]
        np.testing.assert_allclose(both[1:], alone, atol=1e-4 * np.abs(both).max() + 1e-6)


def test_the_graph_without_its_end_computes_what_the_interpreter_does() -> None:
    net = deeplab(argmax=False)
    file = last(net)
    want = interpreted(file, picture(33, 33))
    graph = read_graph(file)
    logits = run(whole_graph(graph), picture(33, 33))
    torch = pytest.importorskip("torch")
    shown = torch.nn.functional.interpolate(
        torch.from_numpy(logits), (33, 33), mode="bilinear", align_corners=True
    )
    np.testing.assert_allclose(shown[0].permute(1, 2, 0).numpy(), want, atol=2e-5 * np.abs(want).max())


def test_what_stands_behind_the_logits_is_left_out() -> None:
    with_argmax, without = (read_graph(last(deeplab(argmax=a))) for a in (True, False))
    assert convert(with_argmax).model == convert(without).model
    converted = convert(with_argmax)
    assert (converted.classes, converted.output_stride, converted.size_multiple) == (4, 4, 4)
    assert converted.size is None


def test_aligned_corners_stay_right_at_other_sizes() -> None:
    """Each logit lies where its own pixels are: upsampled as the pipeline does, it is the file's.

    Sides of 4k + 1 line up in the file; the pipeline gives our graph the first 4k pixels.
    """
    torch = pytest.importorskip("torch")
    graph = read_graph(last(deeplab(65)))
    shown = picture(65, 97, 4)
    upsample = torch.nn.functional.interpolate
    of_file = torch.from_numpy(run(whole_graph(graph), shown))
    want = upsample(of_file, (65, 97), mode="bilinear", align_corners=True)[0, :, :64, :96]
    ours = torch.from_numpy(run(convert(graph), shown[:64, :96].copy()))
    assert ours.shape == (1, 4, 16, 24)
    got = upsample(ours, (64, 96), mode="bilinear", align_corners=False)[0]
    inside = (slice(None), slice(12, 52), slice(12, 84))  # the border is grey, where the file's has zeros
    errors = {
        (dy, dx): float((got[inside] - want.roll((dy, dx), (1, 2))[inside]).square().mean())
        for dy in (-2, 0, 2)  # half a pixel is left
        for dx in (-2, 0, 2)
    }
    assert min(errors, key=lambda at: errors[at]) == (0, 0), errors
    assert errors[0, 0] < 0.1 * float(want[inside].var())


def test_a_scaling_of_other_sides_than_aligned_corners_give_stays_in_the_graph() -> None:
    """Corners aligned from 8 to 32 pixels are no stride: the file's own scaling is kept, at any size."""
    net = Net((1, SIDE, SIDE, 3))
    x = net.conv(0, (1, 8, 8, 5), 3, 4, inputs=3, stride=4)
    whole = net.constant([SIDE, SIDE], "int32")
    net.op("RESIZE_BILINEAR", [x, whole], net.tensor((1, SIDE, SIDE, 5)), align_corners=1)
    converted = convert(read_graph(last(net)))
    assert (converted.output_stride, converted.size, converted.size_multiple) == (1, None, 4)
    want = interpreted(last(net), picture())
    np.testing.assert_allclose(run(converted, picture())[0].transpose(1, 2, 0), want, atol=1e-5)


def test_a_graph_with_a_constant_for_each_pixel_is_of_one_size() -> None:
    net = Net((1, SIDE, SIDE, 3))
    x = stem(net, 2)
    plane = net.constant(np.random.default_rng(0).normal(size=(1, 16, 16, 8)))
    x = net.op("ADD", [x, plane], net.tensor((1, 16, 16, 8)), fused=0)
    net.conv(x, (1, 16, 16, 5), 1, 5, inputs=8)
    converted = convert(read_graph(last(net)))
    assert (converted.size, converted.output_stride) == ((SIDE, SIDE), 2)
    assert run(converted, picture()).shape == (1, 5, 16, 16)


def test_one_channel_becomes_two_classes_that_say_the_same() -> None:
    net = Net((1, SIDE, SIDE, 3))
    x = stem(net)
    x = net.conv(x, (1, SIDE, SIDE, 1), 1, 5, inputs=8)
    net.op("LOGISTIC", [x], net.tensor((1, SIDE, SIDE, 1)))
    converted = convert(read_graph(last(net)))
    assert converted.classes == 2
    logits = run(converted, picture())[0]
    assert (logits[0] == 0).all()
    assert logits[1].std() > 0


def test_a_quantised_file_keeps_its_weights_as_they_are_stored() -> None:
    graph = read_graph(last(quantised("uint8", channels=False)))
    assert is_quantised(graph)
    onnx = pytest.importorskip("onnx")
    model = onnx.load_from_string(convert(graph, quantised=True).model)
    onnx.checker.check_model(model, full_check=True)
    stored = [t for t in model.graph.initializer if t.name.endswith("_stored") and t.data_type == 3]
    assert len(stored) == 3
    first = graph.tensors[graph.operators[0].inputs[1]].data
    assert first is not None
    wanted = first.astype(int).transpose(0, 3, 1, 2) - 128
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(stored[0]), wanted)
    assert not is_quantised(read_graph(last(deeplab())))


def detector() -> bytes:
    net = Net((1, SIDE, SIDE, 3))
    stem(net)
    return net.file([len(net.tensors) - 1, 0])


def sound(net: Net) -> int:
    return net.conv(0, (1, 16, 16, 4), 3, 1, inputs=3, stride=2)


def wrong_sides() -> bytes:
    net = Net((1, SIDE, SIDE, 3))
    x = net.conv(0, (1, 15, 15, 4), 3, 1, inputs=3, stride=2)
    return net.file(net.conv(x, (1, 16, 16, 4), 3, 1, inputs=4))


def wrong_channels() -> bytes:
    net = Net((1, SIDE, SIDE, 3))
    return net.file(net.conv(0, (1, 16, 16, 4), 3, 1, inputs=5, stride=2))


def no_stride() -> bytes:
    net = Net((1, SIDE, SIDE, 3))
    return net.file(net.conv(0, (1, 16, 16, 4), 3, 1, inputs=3, stride=0))


def unknown_operator() -> bytes:
    net = Net((1, SIDE, SIDE, 3))
    x = sound(net)
    return net.file(net.op("GATHER", [x], net.tensor((1, 16, 16, 4))))


def a_classifier() -> bytes:
    net = Net((1, SIDE, SIDE, 3))
    x, axes = sound(net), net.constant([1, 2], "int32")
    return net.file(net.op("MEAN", [x, axes], net.tensor((1, 4)), keep_dims=0))


def huge() -> bytes:
    net = Net((1, SIDE, SIDE, 3))
    x, sides = sound(net), net.constant([8000, 8000], "int32")
    return net.file(
        net.op("RESIZE_BILINEAR", [x, sides], net.tensor((1, 8000, 8000, 4)), half_pixel_centers=1)
    )


def grey() -> bytes:
    net = Net((1, SIDE, SIDE, 1))
    return net.file(net.conv(0, (1, 16, 16, 4), 3, 1, inputs=1, stride=2))


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (detector, "has 1 inputs and 2 outputs"),
        (wrong_sides, r"operator 0, CONV_2D: gives \[1, 16, 16, 4\], but the file says \[1, 15, 15, 4\]"),
        (wrong_channels, "are not for 3 channels"),
        (no_stride, "its stride is 0x0"),
        (unknown_operator, "operator 1 is GATHER: not supported"),
        (a_classifier, r"gives \[1, 4\]; wanted are logits"),
        (huge, "not supported"),
        (grey, r"takes \[1, 32, 32, 1\]; wanted is a picture"),
    ],
)
def test_what_is_no_segmentation_network_is_refused_in_one_line(
    file: Callable[[], bytes], message: str
) -> None:
    with pytest.raises(WeightsError, match=message) as caught:
        convert(read_graph(file()))
    assert "\n" not in str(caught.value)
