"""`engine import`: other people's graphs give the labels that their own framework gives."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra torch")
pytest.importorskip("onnx", reason="needs the extra torch")

import torch.nn.functional as F  # noqa: E402

from streamseg.errors import EngineError, UsageError  # noqa: E402
from streamseg.evaluation.engines import segment  # noqa: E402
from streamseg.inference.spec import EngineSpec, read_spec  # noqa: E402
from streamseg.models.weights.datasets import DATASETS, classes_of, dataset_of  # noqa: E402
from streamseg.models.weights.onnx_import import Taken, find_graph, import_graph, new_engine, new_folder  # noqa: E402
from streamseg.types import U8  # noqa: E402
from tests.foreign import graph_of  # noqa: E402
from tests.networks import (  # noqa: E402
    BiSeNet,
    DeepLab,
    SegFormer,
    UNet,
    Wrapped,
    beside,
    in_half_precision,
    made,
    onnx_of,
    with_metadata,
)

SIZE = (64, 96)
IMAGENET = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
HALF_MEAN = np.array([127.5] * 3), np.array([127.5] * 3)
UNIT = np.array([0.0] * 3), np.array([255.0] * 3)
PICTURES, LEAST = 20, 0.999
ULTRALYTICS = {
    "author": "Ultralytics",
    "description": "Ultralytics YOLO26n-sem model trained on cityscapes.yaml",
    "task": "semantic",
    "imgsz": str(list(SIZE)),
    "stride": "32",
    "license": "APGL-3.0",
    "names": str({i: entry.name for i, entry in enumerate(classes_of("cityscapes"))}),
}

Norm = tuple[Any, Any]


def pictures(count: int, size: tuple[int, int] = SIZE) -> Iterator[U8]:
    """Pictures of smooth fields of colour with some noise."""
    rng = np.random.default_rng(7)
    for _ in range(count):
        coarse = torch.from_numpy(rng.uniform(0, 255, (1, 3, 4, 5)))
        smooth = F.interpolate(coarse, size, mode="bicubic")[0].permute(1, 2, 0).numpy()
        yield np.clip(smooth + rng.normal(0, 8, smooth.shape), 0, 255).astype(np.uint8)


def planes(picture: U8, norm: Norm) -> Any:
    return torch.from_numpy((picture - norm[0]) / norm[1]).permute(2, 0, 1)[None].float()


def labels_by_torch(network: Any, picture: U8, norm: Norm) -> U8:
    """The framework's own labels: logits scaled to the picture, then argmax."""
    with torch.inference_mode():
        y = network(planes(picture, norm))
        y = y["out"] if isinstance(y, dict) else y
        y = F.interpolate(y, picture.shape[:2], mode="bilinear", align_corners=False)
        best = (y[:, 0] > 0) if y.shape[1] == 1 else y.argmax(1)
    return np.asarray(best[0].numpy().astype(np.uint8))


def imported(path: Path, folder: Path, **given: Any) -> tuple[EngineSpec, Any, Taken]:
    taken, engine = import_graph(path, "e", folder, given, lambda: next(pictures(1)))
    return read_spec(folder), engine, taken


def agreement(engine: Any, reference: Callable[[U8], U8], count: int = PICTURES) -> float:
    same = [np.mean(segment(engine, picture) == reference(picture)) for picture in pictures(count)]
    return float(np.mean(same))


def hugging_face(folder: Path, network: Any, classes: int, **prepare: Any) -> Path:
    folder.mkdir()
    (folder / "onnx").mkdir()
    (folder / "onnx/model.onnx").write_bytes(onnx_of(network, (1, 3, *SIZE), name="pixel_values"))
    ade = classes_of("ade20k")
    names = {str(i): ade[i].name for i in range(classes)}
    (folder / "config.json").write_text(
        json.dumps(
            {
                "architectures": ["SegformerForSemanticSegmentation"],
                "model_type": "segformer",
                "id2label": names,
            }
        )
    )
    default = {
        "do_normalize": True,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "rescale_factor": 1 / 255,
        "size": {"height": SIZE[0], "width": SIZE[1]},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(default | prepare))
    return folder


def test_a_huggingface_folder_says_everything(tmp_path: Path) -> None:
    network = made(SegFormer(150))
    spec, engine, taken = imported(hugging_face(tmp_path / "hf", network, 150), tmp_path / "e")
    assert (spec.network, spec.output_stride, spec.fit) == ("segformer", 4, "stretch")
    assert (spec.input_size, spec.label_set) == (SIZE, "ade20k-150")
    assert spec.classes == classes_of("ade20k")
    assert np.allclose(spec.normalisation.mean, IMAGENET[0])
    assert all(guess.source for guess in taken.guesses)
    assert agreement(engine, lambda p: labels_by_torch(network, p, IMAGENET)) >= LEAST
    engine.close()


@pytest.mark.slow
def test_a_fixed_size_at_an_eighth_runs_for_every_picture(tmp_path: Path) -> None:
    network = made(BiSeNet(19))
    graph = tmp_path / "bisenet.onnx"
    graph.write_bytes(onnx_of(network, (1, 3, *SIZE), free=False))
    spec, engine, _ = imported(graph, tmp_path / "e", dataset="cityscapes")
    assert (spec.output_stride, spec.fit, spec.classes) == (8, "stretch", classes_of("cityscapes"))
    assert engine.info.limits.size == SIZE
    assert agreement(engine, lambda p: labels_by_torch(network, p, IMAGENET)) >= LEAST
    other = next(pictures(1, (90, 160)))
    assert segment(engine, other).shape == (90, 160)
    engine.close()


@pytest.mark.slow
def test_torchvisions_dictionary_has_its_main_output_chosen(tmp_path: Path) -> None:
    network = made(DeepLab(21))
    graph = tmp_path / "deeplab.onnx"
    graph.write_bytes(onnx_of(network, (1, 3, *SIZE), outputs=("out", "aux")))
    spec, engine, _ = imported(graph, tmp_path / "e", input_size=SIZE)
    assert (spec.output_name, spec.label_set, spec.output_stride) == ("out", "voc-21", 1)
    assert agreement(engine, lambda p: labels_by_torch(network, p, IMAGENET)) >= LEAST
    engine.close()


@pytest.mark.slow
@pytest.mark.parametrize("after", ["", "sigmoid"])
def test_one_channel_is_a_class_and_its_background(tmp_path: Path, after: str) -> None:
    network = made(UNet(1))
    graph = tmp_path / "unet.onnx"
    graph.write_bytes(onnx_of(Wrapped(network, after), (1, 3, *SIZE)))
    (tmp_path / "names.txt").write_text("lane #ff0000\n")
    labels = str(tmp_path / "names.txt")
    spec, engine, _ = imported(graph, tmp_path / "e", input_size=SIZE, labels=labels)
    assert (spec.output, spec.sigmoid_in_graph) == ("binary", after == "sigmoid")
    assert [entry.name for entry in spec.classes] == ["background", "lane"]
    assert agreement(engine, lambda p: labels_by_torch(network, p, IMAGENET)) >= LEAST
    engine.close()


@pytest.mark.slow
@pytest.mark.parametrize("after", ["grow", "grow argmax", "grow softmax"])
def test_ultralytics_metadata_is_read(tmp_path: Path, after: str) -> None:
    network = made(BiSeNet(19))
    graph = tmp_path / "yolo26n-sem.onnx"
    exported = onnx_of(Wrapped(network, after), (1, 3, *SIZE), free=False, name="images")
    graph.write_bytes(with_metadata(exported, **ULTRALYTICS))
    spec, engine, _ = imported(graph, tmp_path / "e")
    wanted = {"grow": "logits", "grow argmax": "labels", "grow softmax": "probabilities"}[after]
    assert (spec.output, spec.fit, spec.input_size) == (wanted, "letterbox", SIZE)
    assert (spec.licence, spec.network) == ("APGL-3.0", "Ultralytics YOLO26n-sem")
    assert spec.classes == classes_of("cityscapes")
    assert agreement(engine, lambda p: labels_by_torch(network, p, UNIT)) >= LEAST
    engine.close()


@pytest.mark.slow
@pytest.mark.parametrize("after", ["", "softmax", "grow argmax flat"])
def test_channels_last_as_tensorflow_has_them(tmp_path: Path, after: str) -> None:
    network = made(BiSeNet(21))
    graph = tmp_path / "tf.onnx"
    last = not after.endswith("flat")
    wrapped: Any = Wrapped(network, after, nhwc=True)
    if not last:
        wrapped = _Ids(network)
    graph.write_bytes(onnx_of(wrapped, (1, *SIZE, 3), free=False))
    spec, engine, _ = imported(graph, tmp_path / "e", dataset="voc")
    assert spec.layout == "nhwc"
    assert spec.output_layout == ("nhwc" if last else "nchw")

    def own(x: Any) -> Any:
        return network(x).softmax(1) if after == "softmax" else network(x)  # which it scales itself

    assert agreement(engine, lambda p: labels_by_torch(own, p, HALF_MEAN)) >= LEAST
    engine.close()


class _Ids(torch.nn.Module):
    """Channels last in, class ids without a batch axis out, as int64."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Any) -> Any:
        x = x.permute(0, 3, 1, 2)
        return F.interpolate(self.network(x), x.shape[2:], mode="bilinear").argmax(1)[0]


@pytest.mark.slow
def test_half_precision_in_and_out(tmp_path: Path) -> None:
    network = made(BiSeNet(8))
    graph = tmp_path / "half.onnx"
    graph.write_bytes(in_half_precision(onnx_of(network, (1, 3, *SIZE))))
    for tensor in network.parameters():
        tensor.data = tensor.data.half().float()
    spec, engine, _ = imported(graph, tmp_path / "e", input_size=SIZE)
    assert spec.input_type == "float16"
    assert agreement(engine, lambda p: labels_by_torch(network, p, IMAGENET)) >= LEAST
    engine.close()


@pytest.mark.slow
@pytest.mark.parametrize("opset", [11, 12, 13, 14, 15, 16, 17, 18, 19, 20])
def test_every_operator_set_runs(tmp_path: Path, opset: int) -> None:
    network = made(BiSeNet(5))
    graph = tmp_path / "net.onnx"
    graph.write_bytes(onnx_of(network, (1, 3, *SIZE), opset=opset))
    _, engine, taken = imported(graph, tmp_path / "e", input_size=SIZE)
    assert taken.opset == opset
    assert agreement(engine, lambda p: labels_by_torch(network, p, IMAGENET), 3) >= LEAST
    engine.close()


@pytest.mark.slow
def test_a_batch_of_one_inside_is_found_by_running_it(tmp_path: Path) -> None:
    """The graph says that its batch is free, and its ids have no batch axis."""
    network = made(BiSeNet(19))
    graph = tmp_path / "net.onnx"
    graph.write_bytes(onnx_of(Wrapped(network, "grow argmax flat"), (1, 3, *SIZE)))
    spec, engine, _ = imported(graph, tmp_path / "e", input_size=SIZE, dataset="cityscapes")
    assert engine.info.limits.batch == 1
    assert spec.output == "labels"
    assert agreement(engine, lambda p: labels_by_torch(network, p, IMAGENET)) >= LEAST
    engine.close()


@pytest.mark.slow
def test_weights_beside_the_graph_are_taken_in(tmp_path: Path) -> None:
    network = made(BiSeNet(19))
    (tmp_path / "a").mkdir()
    path = beside(onnx_of(network, (1, 3, *SIZE)), tmp_path / "a/net.onnx", "net.data")
    spec, engine, _ = imported(path, tmp_path / "e", input_size=SIZE)
    assert list(spec.weights["fp32"].data) == ["net.data"]
    assert {p.name for p in (tmp_path / "e").iterdir()} == {"engine.toml", "model.onnx", "net.data"}
    assert agreement(engine, lambda p: labels_by_torch(network, p, IMAGENET), 5) >= LEAST
    engine.close()


def test_the_cache_of_huggingface_links_to_its_files(tmp_path: Path) -> None:
    hub = tmp_path / "models--x--y"
    snapshot = hub / "snapshots/abc"
    snapshot.mkdir(parents=True)
    (hub / "blobs").mkdir()
    beside(onnx_of(made(BiSeNet(19)), (1, 3, *SIZE)), snapshot / "model.onnx", "model.onnx_data")
    for number, name in enumerate(("model.onnx", "model.onnx_data")):
        (snapshot / name).rename(hub / "blobs" / str(number))
        (snapshot / name).symlink_to(f"../../blobs/{number}")
    spec, engine, _ = imported(snapshot, tmp_path / "e", input_size=SIZE)
    assert not (tmp_path / "e/model.onnx_data").is_symlink()
    assert spec.weights["fp32"].data
    engine.close()


@pytest.mark.slow
def test_mmdeploys_files_are_read(tmp_path: Path) -> None:
    network = made(BiSeNet(19))
    (tmp_path / "m").mkdir()
    (tmp_path / "m/end2end.onnx").write_bytes(
        onnx_of(Wrapped(network, "grow argmax"), (1, 3, *SIZE), free=False)
    )
    (tmp_path / "m/deploy.json").write_text('{"version": "1.3.1", "task": "Segmentor"}')
    steps = [
        {"type": "LoadImageFromFile"},
        {"type": "Resize", "keep_ratio": False, "size": [SIZE[1], SIZE[0]]},
        {"type": "Normalize", "to_rgb": False, "mean": [10.0, 20.0, 30.0], "std": [50.0, 60.0, 70.0]},
    ]
    pipeline = {"pipeline": {"tasks": [{"name": "Preprocess", "transforms": steps}, {"name": "seg"}]}}
    (tmp_path / "m/pipeline.json").write_text(json.dumps(pipeline))
    spec, engine, _ = imported(tmp_path / "m", tmp_path / "e", dataset="cityscapes")
    assert (spec.channels, spec.normalisation.mean, spec.fit) == ("bgr", (30.0, 20.0, 10.0), "stretch")

    def by_torch(picture: U8) -> U8:
        norm = np.array([10.0, 20, 30]), np.array([50.0, 60, 70])
        return labels_by_torch(network, np.ascontiguousarray(picture[..., ::-1]), norm)

    assert agreement(engine, by_torch, 5) >= LEAST
    engine.close()


def test_normalisation_in_the_graph_is_seen(tmp_path: Path) -> None:
    import onnx

    for first, wanted in (
        ([("Div", 255.0), ("Sub", 0.45), ("Div", 0.22)], (True, 1.0)),
        ([("Sub", 0.45), ("Div", 0.22)], (False, 255.0)),
        ([("Sub", 116.0), ("Mul", 0.017)], (True, 1.0)),
    ):
        model = onnx.load_from_string(graph_of())
        name = "x"
        nodes = []
        for at, (operation, number) in enumerate(first):
            model.graph.initializer.append(
                onnx.numpy_helper.from_array(np.full((1, 3, 1, 1), number, np.float32), f"c{at}")
            )
            nodes.append(onnx.helper.make_node(operation, [name, f"c{at}"], [f"v{at}"]))
            name = f"v{at}"
        model.graph.node[0].input[0] = name
        for node in reversed(nodes):
            model.graph.node.insert(0, node)
        path = tmp_path / "n.onnx"
        path.write_bytes(model.SerializeToString())
        spec, engine, _ = imported(path, tmp_path / f"e{first[0]}", input_size=SIZE)
        assert (spec.normalisation.in_graph, spec.normalisation.std[0]) == wanted
        engine.close()


def test_what_is_given_comes_before_every_guess(tmp_path: Path) -> None:
    path = tmp_path / "n.onnx"
    path.write_bytes(graph_of(answer="sigmoid"))
    given = {
        "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25), "channels": "bgr", "input_size": (32, 64),
        "fit": "letterbox", "output": "binary", "network": "mine", "licence": "CC0-1.0",
    }  # fmt: skip
    spec, engine, taken = imported(path, tmp_path / "e", **given)
    assert np.allclose(spec.normalisation.mean, 127.5)
    assert (spec.channels, spec.input_size, spec.fit, spec.output) == ("bgr", (32, 64), "letterbox", "binary")
    assert (spec.network, spec.licence, len(spec.classes)) == ("mine", "CC0-1.0", 4)
    assert sum(guess.source == "given" for guess in taken.guesses) == 7
    engine.close()
    path.write_bytes(graph_of())
    spec, engine, _ = imported(
        path, tmp_path / "f", scale=1 / 127.5, mean=(1.0, 1.0, 1.0), input_size=(32, 64)
    )
    assert np.allclose(spec.normalisation.mean, 127.5)
    assert np.allclose(spec.normalisation.std, 127.5)
    engine.close()


def test_data_sets_have_their_classes() -> None:
    assert {name: len(classes_of(name)) for name in DATASETS} == {
        "ade20k": 150, "camvid": 11, "cityscapes": 19, "coco-stuff": 171, "voc": 21,
    }  # fmt: skip
    for name in DATASETS:
        entries = classes_of(name)
        assert dataset_of(tuple(entry.name for entry in entries)) == name
        if name != "ade20k":  # which gives two of its classes one colour
            assert len({entry.colour for entry in entries}) == len(entries)


def test_a_name_that_is_taken_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("", "../x", "a/b", ".x", "a\nb", "-x", "x" * 200):
        with pytest.raises(UsageError, match=r"^--as: "):
            new_folder(name, tmp_path, False)
    with pytest.raises(UsageError, match="an engine 'camvid-slim' is in"):
        new_folder("camvid-slim", tmp_path, False)
    (tmp_path / "x").mkdir()
    with pytest.raises(UsageError, match="is there already; choose another name, or --replace it"):
        new_folder("x", tmp_path, False)
    assert new_folder("x", tmp_path, True) == tmp_path / "x"


def test_what_fails_leaves_the_earlier_engine(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x/old").write_text("old")
    with pytest.raises(EngineError), new_engine(tmp_path / "x", True) as beside_it:
        find_graph(beside_it)
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
    with new_engine(tmp_path / "x", True) as beside_it:
        beside_it.mkdir()
        (beside_it / "new").write_text("new")
    assert [p.name for p in (tmp_path / "x").iterdir()] == ["new"]
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
