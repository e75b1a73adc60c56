"""Caffe's files come back as they were written, and damaged ones are refused by name."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from streamseg.errors import WeightsError  # noqa: E402
from streamseg.models.weights.caffe import read_caffemodel, read_layers  # noqa: E402
from streamseg.models.weights.files import import_weights  # noqa: E402
from tests.caffe import Encoding, Layout, blob, caffemodel, chunk, layer, net, number  # noqa: E402
from tests.narrow import NARROW, narrow_network  # noqa: E402

CAFFE_NETWORKS = [name for name in NARROW if name.startswith(("deeplab-v1", "deeplab-v2"))]


def read(data: bytes) -> dict[str, list[np.ndarray]]:  # type: ignore[type-arg]
    return read_layers(np.frombuffer(data, np.uint8))


@pytest.mark.parametrize("layout", ["V1", "new"])
@pytest.mark.parametrize("encoding", ["packed", "unpacked", "double", "unpacked double"])
@pytest.mark.parametrize("legacy", [True, False])
def test_blobs_come_back_in_every_encoding(layout: Layout, encoding: Encoding, legacy: bool) -> None:
    weight = np.random.default_rng(0).normal(size=(6, 5, 3, 3)).astype(np.float32)
    bias = np.array([1, -2, np.nan, np.inf, 0, 6], np.float32)
    blobs = [blob(a, encoding=encoding, legacy=legacy) for a in (weight, bias)]
    layers = read(net(layer("conv", blobs, layout), layer("relu", [], layout)))
    assert list(layers) == ["conv"]
    np.testing.assert_array_equal(layers["conv"][0], weight)
    np.testing.assert_array_equal(layers["conv"][1].ravel(), bias)


def test_unpacked_runs_that_are_interrupted_are_joined() -> None:
    values = np.arange(40, dtype=np.float32)
    parts = [b"".join(b"\x2d" + v.tobytes() for v in values[a:b]) for a, b in ((0, 1), (1, 33))]
    body = parts[0] + number(1, 1) + parts[1] + chunk(5, values[33:].tobytes())
    shape = number(2, 1) + number(3, 5) + number(4, 8)
    assert read(net(layer("c", [body + shape], "new")))["c"][0].shape == (1, 1, 5, 8)
    np.testing.assert_array_equal(read(net(layer("c", [body + shape], "new")))["c"][0].ravel(), values)


@pytest.mark.parametrize("layout", ["V1", "new"])
@pytest.mark.parametrize("name", CAFFE_NETWORKS)
def test_a_whole_network_comes_back_and_computes_the_same(name: str, layout: Layout, tmp_path: Path) -> None:
    network = narrow_network(name)
    file = tmp_path / "train_iter_6000.caffemodel"
    file.write_bytes(caffemodel(network, layout, last="pascal" if layout == "V1" else "voc12"))
    loaded = import_weights(file, name, **NARROW[name])
    image = torch.randn(1, 3, 65, 73, generator=torch.Generator().manual_seed(1)) * 50
    with torch.no_grad():
        want, got = network(image), loaded(image)
    torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4 * float(want.abs().max()))


def test_the_layers_of_the_other_two_scales_are_skipped(tmp_path: Path) -> None:
    name = "deeplab-v2-resnet101-3scale"
    file = tmp_path / "x.caffemodel"
    other = layer("conv1_res075", [blob(np.zeros((9, 9), np.float32))], "new")
    last = layer("fc1_voc12_c0_res05", [blob(np.zeros((9, 9), np.float32))], "new")
    file.write_bytes(caffemodel(narrow_network(name), "new", last="voc12") + other + last)
    import_weights(file, name, **NARROW[name])


def test_a_batch_norm_whose_scale_is_zero_has_no_statistics_yet(tmp_path: Path) -> None:
    name = "deeplab-v2-resnet101"
    file = tmp_path / "x.caffemodel"
    file.write_bytes(caffemodel(narrow_network(name), "new", scale_factor=0.0))
    network = import_weights(file, name, **NARROW[name])
    assert float(network.get_buffer("bn_conv1.running_var").abs().max()) == 0


def test_missing_surplus_and_misshapen_layers_are_listed_by_name(tmp_path: Path) -> None:
    network = narrow_network("deeplab-v1-largefov")
    data = caffemodel(network, "new").replace(b"conv3_2", b"conv9_2")
    file = tmp_path / "x.caffemodel"
    file.write_bytes(data)
    with pytest.raises(WeightsError) as caught:
        import_weights(file, "deeplab-v1-largefov", **{**NARROW["deeplab-v1-largefov"], "classes": 7})
    assert str(caught.value) == (
        f"{file}: does not fit the network; missing: conv3_2.weight, conv3_2.bias; "
        "surplus: conv9_2.weight, conv9_2.bias; of another shape: "
        "fc8.weight (5, 8, 1, 1) instead of (7, 8, 1, 1), fc8.bias (5,) instead of (7,)"
    )


ONE = np.ones((2, 3), np.float32)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "no layer has weights"),
        (net(layer("relu", [], "new")), "no layer has weights"),
        (net(layer("c", [blob(ONE)], "new"), layer("c", [blob(ONE)], "new")), "two layers are named 'c'"),
        (net(layer("c", [blob(ONE)] * 17, "new")), "more than 16 blobs"),
        (net(layer("c", [chunk(5, bytes(7))], "new")), "7 bytes of numbers of 4"),
        (
            net(layer("c", [chunk(7, chunk(1, b"\x02\x03")) + chunk(5, bytes(20))], "new")),
            r"5 numbers .*\(2, 3\)",
        ),
        (net(layer("c", [chunk(7, chunk(1, b"\x01" * 40))], "new")), "more than 32"),
        (net(layer("c", [number(1, 1 << 62) + number(2, 1 << 62)], "new")), "has 0 numbers"),
        (net(layer("c" * 600, [blob(ONE)], "new")), "name of 600 bytes"),
        (chunk(100, chunk(1, b"\xff\xfe")), "not UTF-8"),
        (net(layer("c", [blob(ONE)], "new"))[:-1], "claims"),
        (number(100, 3), "is not a message"),
        (b"\x00\x01", "field number 0"),
        (b"\x0b", "wire type 3"),
        (b"\xff" * 11, "more than ten bytes"),
        (b"\x0d\x01", "cut off"),
        (b"\x80", "cut off inside a number"),
        (chunk(100, chunk(1, b"c"))[:-1] + b"", "claims"),
    ],
)
def test_a_damaged_file_says_where(data: bytes, says: str) -> None:
    with pytest.raises(WeightsError, match=says):
        read(data)


def test_claims_of_terabytes_allocate_nothing(tmp_path: Path) -> None:
    huge = b"\xff\xff\xff\xff\xff\xff\x7f"
    claims = [
        b"\xa2\x06" + huge,
        net(layer("c", [b"\x2a" + huge], "new")),
        net(layer("c", [chunk(7, chunk(1, huge + huge))], "new")),
        net(layer("c", [number(1, 1 << 20) + number(2, 1 << 20) + number(3, 1) + number(4, 1)], "V1")),
    ]
    for data in claims:
        file = tmp_path / "x.caffemodel"
        file.write_bytes(data)
        tracemalloc.start()
        try:
            with pytest.raises(WeightsError, match=r"damaged or not a \.caffemodel"):
                read_caffemodel(file)
            assert tracemalloc.get_traced_memory()[1] < 1_000_000
        finally:
            tracemalloc.stop()


def test_a_sparse_file_of_many_gigabytes_is_refused_unread(tmp_path: Path) -> None:
    file = tmp_path / "x.caffemodel"
    with file.open("wb") as sparse:
        sparse.truncate(20 << 30)
    with pytest.raises(WeightsError, match=r"21\.5 GB"):
        read_caffemodel(file)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"none\.caffemodel: cannot be read \(No such file"):
        read_caffemodel(tmp_path / "none.caffemodel")


def test_millions_of_tiny_fields_are_given_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamseg.runtime.protobuf.MOST_FIELDS", 1000)
    with pytest.raises(WeightsError, match="more than 1000 fields"):
        read(b"\x08\x01" * 2000)
