"""A tiny run on pictures drawn here: it learns, goes on exactly, says what is wrong, becomes an engine."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from streamseg.errors import ConfigError, TrainingError, UsageError  # noqa: E402
from streamseg.evaluation import LabelledFolder  # noqa: E402
from streamseg.inference.spec import ClassEntry, read_spec  # noqa: E402
from streamseg.inference.weights import read_weights  # noqa: E402
from streamseg.training import augment, loop  # noqa: E402
from streamseg.training.checkpoint import load_checkpoint, mean_checkpoint, recipe_of, save_checkpoint  # noqa: E402
from streamseg.training.data import TrainingImages  # noqa: E402
from streamseg.training.log import RunProgress, read_log  # noqa: E402
from streamseg.training.loop import Inputs, learning_rate, train  # noqa: E402
from streamseg.training.loss import cross_entropy, lovasz_softmax, thin_labels  # noqa: E402
from streamseg.training.networks import build_network  # noqa: E402
from streamseg.training.recipe import AugmentRecipe, TrainRecipe, load_recipe  # noqa: E402
from tests.once import made_once  # noqa: E402

CLASSES = (
    ClassEntry(name="ground", colour=(90, 90, 90)),
    ClassEntry(name="sky", colour=(0, 0, 255)),
    ClassEntry(name="post", colour=(255, 0, 0), thin=True),
)
RECIPE = TrainRecipe(
    width=12,
    classes=CLASSES,
    label_set="drawn",
    input_size=(64, 96),
    epochs=4,
    batch_size=4,
    learning_rate=0.01,
    warmup=0.0,
    lovasz_from=0.5,
    augment=AugmentRecipe(crop_size=(64, 96), rare_share=0.1),
    evaluate_every=2,
    device="cpu",
    threads=1,
)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pictures of blue above grey, with a red post."""
    folder = tmp_path_factory.mktemp("drawn")
    rng = np.random.default_rng(0)
    for sub in ("images", "labels"):
        (folder / sub).mkdir()
    for index in range(12):
        labels = np.zeros((64, 96), np.uint8)
        horizon = int(rng.integers(20, 44))
        labels[:horizon] = 1
        post = int(rng.integers(8, 80))
        labels[10:50, post : post + 4] = 2
        rgb = np.array([c.colour for c in CLASSES], np.uint8)[labels]
        noisy = np.clip(rgb + rng.normal(0, 12, rgb.shape), 0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / "images" / f"{index:02}.png"), noisy[..., ::-1])
        cv2.imwrite(str(folder / "labels" / f"{index:02}.png"), labels)
    return folder


@pytest.fixture(scope="module")
def finished(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of four epochs that nothing interrupted."""

    def run(out: Path) -> None:
        assert train(RECIPE, Inputs(drawn, drawn), out, resume=False) == out / "best.pt"

    return made_once(tmp_path_factory, "finished-run", run)


def test_training_lowers_the_loss_and_logs_every_epoch(finished: Path) -> None:
    entries = read_log(finished)
    assert [e.epoch for e in entries] == [1, 2, 3, 4]
    assert entries[1].loss < entries[0].loss  # before Lovasz joins
    assert [e.scores is not None for e in entries] == [False, True, False, True]
    assert entries[3].scores is not None
    assert entries[3].scores.images == 12
    assert json.loads((finished / "log.jsonl").read_text().splitlines()[0])["epoch"] == 1


def test_the_log_is_plotted(finished: Path) -> None:
    plot = cv2.imread(str(finished / "log.png"))
    assert plot is not None
    assert (plot != 255).any(axis=2).sum() > 1000


def test_an_interrupted_run_goes_on_as_if_it_had_not_been(
    drawn: Path,
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    crop = TrainingImages.crop

    def interrupted(self: TrainingImages, epoch: int, *which: Any) -> object:
        if epoch == 2:
            raise KeyboardInterrupt
        return crop(self, epoch, *which)

    monkeypatch.setattr(TrainingImages, "crop", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(RECIPE, Inputs(drawn, drawn), tmp_path, resume=False)
    monkeypatch.undo()
    assert load_checkpoint(tmp_path / "last.pt")["epoch"] == 2
    with caplog.at_level(logging.INFO, "streamseg"):
        train(RECIPE, Inputs(drawn, drawn), tmp_path, resume=True)
    told = [message.split(":")[0] for message in caplog.messages if message.startswith("epoch")]
    assert told == ["epoch 3/4", "epoch 4/4"]
    whole, resumed = (load_checkpoint(folder / "last.pt") for folder in (finished, tmp_path))
    for part in ("network", "ema"):
        assert whole[part].keys() == resumed[part].keys()
        assert all(torch.equal(whole[part][name], resumed[part][name]) for name in whole[part])
    assert [e.loss for e in read_log(tmp_path)] == [e.loss for e in read_log(finished)]


def test_crops_do_not_depend_on_the_number_of_threads(drawn: Path) -> None:
    one = TrainingImages(LabelledFolder(drawn, 3), RECIPE)
    three = TrainingImages(LabelledFolder(drawn, 3), msgspec.structs.replace(RECIPE, loader_threads=3))
    for a, b in zip(one.batches(5), three.batches(5), strict=True):
        np.testing.assert_array_equal(a.rgb, b.rgb)
        np.testing.assert_array_equal(a.labels, b.labels)
    other = next(iter(one.batches(6)))[0]
    assert not np.array_equal(other, next(iter(one.batches(5)))[0])


def test_pictures_of_other_sizes_are_scaled_as_an_engine_would_scale_them(tmp_path: Path) -> None:
    for sub, shape in (("images", (90, 300, 3)), ("labels", (90, 300))):
        (tmp_path / sub).mkdir()
        for name in "abcd":
            cv2.imwrite(str(tmp_path / sub / f"{name}.png"), np.ones(shape, np.uint8))
    images = TrainingImages(LabelledFolder(tmp_path, 3), RECIPE)
    rgb, labels = next(iter(images.batches(0)))[:2]
    assert rgb.shape == (4, 64, 96, 3)  # the crop's size
    seen = (labels == 1).mean((1, 2))
    assert (seen > 0.2).all()  # 40x144 at a scale of 0.65 or more, in 64x96
    assert images.shares.tolist() == [0, 1, 0]


def test_a_run_is_not_overwritten_unless_it_is_resumed(drawn: Path, finished: Path) -> None:
    with pytest.raises(UsageError, match="already holds a run; add --resume"):
        train(RECIPE, Inputs(drawn), finished, resume=False)


def test_resuming_where_nothing_is_says_so(drawn: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"last\.pt: does not exist"):
        train(RECIPE, Inputs(drawn), tmp_path, resume=True)


def test_a_run_is_not_resumed_as_another_one(drawn: Path, finished: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    before = (run / "last.pt").read_bytes()
    exchanged = msgspec.structs.replace(RECIPE, classes=(CLASSES[1], CLASSES[0], CLASSES[2]), epochs=6)
    with pytest.raises(TrainingError, match="was trained with another recipe or data: classes; --resume"):
        train(exchanged, Inputs(drawn, drawn), run, resume=True)
    with pytest.raises(TrainingError, match="another recipe or data: the validation images; --resume"):
        train(RECIPE, Inputs(drawn), run, resume=True)
    assert (run / "last.pt").read_bytes() == before


def test_too_few_images_for_a_batch_are_refused(drawn: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"has 12 images, fewer than batch_size \(16\)"):
        train(msgspec.structs.replace(RECIPE, batch_size=16), Inputs(drawn), tmp_path, resume=False)


def test_a_device_that_is_not_here_is_refused(drawn: Path, tmp_path: Path) -> None:
    for name in ("cuda", "cuda:99"):
        if name == "cuda" and torch.cuda.is_available():
            continue
        with pytest.raises(UsageError, match=f"device: is {name}, but torch finds"):
            train(msgspec.structs.replace(RECIPE, device=name), Inputs(drawn), tmp_path, resume=False)


@pytest.mark.parametrize(("given", "cores", "threads"), [(0, 4, 4), (0, 64, 14), (3, 64, 3)])
def test_a_gpu_is_fed_by_the_cores_and_cudnn_chooses_its_kernels(
    monkeypatch: pytest.MonkeyPatch, drawn: Path, tmp_path: Path, given: int, cores: int, threads: int
) -> None:
    """As far as there need not be one: until the network is made."""

    class Made(Exception):
        pass

    def made(recipe: TrainRecipe) -> None:
        raise Made

    monkeypatch.setattr(loop, "_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(loop, "FirstNotFinite", lambda device: None)
    monkeypatch.setattr(loop, "usable_cores", lambda: cores)
    monkeypatch.setattr(loop, "build_network", made)
    for name in ("benchmark", "allow_tf32"):
        monkeypatch.setattr(torch.backends.cudnn, name, name == "allow_tf32")
    run = loop._Run.__new__(loop._Run)
    with pytest.raises(Made):
        run.__init__(
            msgspec.structs.replace(RECIPE, loader_threads=given, arithmetic="fp32"),
            Inputs(drawn),
            tmp_path,
            False,
        )
    assert run.images.threads == threads
    assert torch.backends.cudnn.benchmark
    assert not torch.backends.cudnn.allow_tf32, "fp32 is fp32"


def test_a_loss_that_is_no_number_ends_the_run_before_it_is_saved(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamseg.training.loop.cross_entropy", lambda logits, *_: logits.sum() * np.nan)
    with pytest.raises(TrainingError, match="epoch 1, step 1: the loss is not finite before anything was"):
        train(RECIPE, Inputs(drawn), tmp_path, resume=False)
    assert not (tmp_path / "last.pt").exists()


def test_a_checkpoint_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"epoch": 1})
    with pytest.raises(Exception, match="pickle"):
        save_checkpoint(path, {"epoch": (step for step in range(2))})
    assert load_checkpoint(path)["epoch"] == 1


@pytest.mark.parametrize("content", [b"", b"not a checkpoint"])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "last.pt").write_bytes(content)
    with pytest.raises(TrainingError, match=r"last\.pt: .*; it must be a checkpoint of streamseg train"):
        load_checkpoint(tmp_path / "last.pt")


def test_progress_is_plain_lines_where_there_is_no_terminal(
    finished: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "streamseg"), RunProgress(epochs=4, first=3, steps=3) as progress:
        progress.epoch(read_log(finished)[3])
    (line,) = caplog.messages
    assert line.startswith("epoch 4/4: loss ")
    assert "val mIoU" in line
    assert line.endswith("0:00:00 left")


def test_a_recipe_is_read_and_its_wrong_keys_are_all_named(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text("epochs = 7\n[augment]\nblur = 0.5\n")
    recipe = load_recipe(path)
    assert (recipe.epochs, recipe.augment.blur, recipe.augment.noise) == (7, 0.5, AugmentRecipe().noise)
    path.write_text("epoch = 7\nbatch_size = 0\n")
    with pytest.raises(ConfigError) as caught:
        load_recipe(path)
    assert "did you mean epochs" in str(caught.value)
    assert "batch_size: must be" in str(caught.value)


@pytest.mark.parametrize(("name", "network"), [("slim", "slim"), ("lite", "lite0")])
def test_the_recipes_of_camvid_are_valid(name: str, network: str) -> None:
    recipe = load_recipe(Path(__file__).parents[2] / "configs" / f"train-camvid-{name}.toml")
    assert recipe.network == network
    assert len(recipe.classes) == 11


def test_the_learning_rate_rises_stays_and_falls_to_nothing() -> None:
    recipe = TrainRecipe(learning_rate=0.1, warmup=0.1, hold=0.4)
    rates = [learning_rate(recipe, p) for p in (0.05, 0.1, 0.39, 0.7, 1.0)]
    assert rates == pytest.approx([0.05, 0.1, 0.1, 0.05, 0.0], abs=1e-6)


def test_thinned_labels_use_every_pixel_in_the_middle_of_a_cell() -> None:
    labels = torch.arange(64).reshape(1, 8, 8)
    assert [thin_labels(labels, 4, phase)[0, 0, 0].item() for phase in range(4)] == [9, 17, 10, 18]
    assert [thin_labels(labels, 2, phase)[0, 0, 0].item() for phase in range(4)] == [0, 8, 1, 9]


def test_lovasz_is_nothing_when_right_and_one_when_all_is_wrong() -> None:
    labels = torch.tensor([[[0, 0, 1, 1], [0, 255, 1, 2]]])
    onehot = torch.nn.functional.one_hot(labels.clamp(max=2), 3).permute(0, 3, 1, 2).float()
    assert lovasz_softmax(40 * onehot, labels).item() == pytest.approx(0, abs=1e-6)
    assert lovasz_softmax(-40 * onehot, labels).item() == pytest.approx(1, abs=0.26)
    nothing = torch.full_like(labels, 255)
    assert lovasz_softmax(onehot, nothing).item() == 0


def test_lovasz_at_hard_errors_is_one_minus_the_iou() -> None:
    labels = torch.tensor([[[0, 0, 0, 1, 1, 1]]])
    predicted = torch.tensor([[[0, 0, 1, 1, 1, 1]]])
    logits = 60 * torch.nn.functional.one_hot(predicted, 2).permute(0, 3, 1, 2).float()
    # class 0: 2 of 3 in the union, class 1: 3 of 4
    assert lovasz_softmax(logits, labels).item() == pytest.approx(1 - (2 / 3 + 3 / 4) / 2, abs=1e-5)


def test_unlabelled_pixels_do_not_weigh_in_the_loss() -> None:
    logits = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.full((1, 16, 16), 255, dtype=torch.uint8)
    labels[:, :8] = 1
    flipped = logits.clone()
    flipped[:, :, 3:] = -flipped[:, :, 3:]  # two rows below the labelled half
    weights = torch.ones(3)
    assert cross_entropy(logits, labels, weights, 0) == cross_entropy(flipped, labels, weights, 0)


def test_a_crop_keeps_pixels_and_labels_together() -> None:
    labels = np.zeros((64, 96), np.uint8)
    labels[20:40, 30:60] = 2
    rgb = np.where(labels[..., None] == 2, 200, 20).astype(np.uint8).repeat(3, axis=2)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        view = augment.random_view(rng, RECIPE.augment, (64, 96), (30.0, 45.0))
        seen, truth = augment.warp(rgb, labels, view, (64, 96))
        post = np.pad((truth == 2).astype(np.uint8), 3)
        inside = cv2.erode(post, np.ones((5, 5), np.uint8))[3:-3, 3:-3] > 0
        assert inside.any()
        assert (seen[inside] > 150).all()


def test_pasting_brings_the_wanted_classes_alone() -> None:
    rgb, labels = np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8)
    donor_labels = np.array([[1, 2, 1, 2]] * 4, np.uint8)
    wanted = np.zeros(256, np.bool_)
    wanted[2] = True
    augment.paste(rgb, labels, np.full((4, 4, 3), 9, np.uint8), donor_labels, wanted)
    assert labels[0].tolist() == [0, 2, 0, 2]
    assert rgb[0, :, 0].tolist() == [0, 9, 0, 9]


@pytest.fixture(scope="module")
def engine(drawn: Path, finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnxscript")
    from streamseg.training.export import export_engine

    return made_once(
        tmp_path_factory, "drawn", lambda folder: export_engine(finished / "best.pt", folder, drawn, drawn)
    )


def test_the_exported_graph_equals_the_network(finished: Path, engine: Path) -> None:
    import onnxruntime as ort

    from streamseg.training.checkpoint import trained_network
    from streamseg.training.networks import normalise

    network = trained_network(load_checkpoint(finished / "best.pt"))
    session = ort.InferenceSession(str(engine / "model.onnx"), providers=["CPUExecutionProvider"])
    for shape in ((1, 64, 96, 3), (3, 40, 72, 3)):
        rgb = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
        with torch.no_grad():
            want = network(normalise(rgb, network, torch.device("cpu"))).numpy()
        (got,) = session.run(None, {"image_u8": rgb})
        assert got.shape == want.shape
        np.testing.assert_allclose(got, want, atol=1e-3)


def test_the_stride_8_network_can_be_exported_too(finished: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    from streamseg.config import EngineConfig
    from streamseg.inference.plans.load import load_engine
    from streamseg.training.export import export_engine

    folder = export_engine(finished / "best.pt", tmp_path / "drawn-stride8", stride8=True)
    assert read_spec(folder).output_stride == 8
    engine = load_engine(EngineConfig(name=f"{folder}/"))
    assert engine(np.zeros((1, 64, 96, 3), np.uint8)).shape == (1, 3, 8, 12)
    engine.close()


def test_the_graphs_do_not_tell_where_they_were_made(engine: Path) -> None:
    for file in ("model.onnx", "model.int8.onnx"):
        content = (engine / file).read_bytes()
        assert b".py" not in content
        assert str(engine.parent).encode() not in content


def test_the_engine_folder_reads_back_whole(engine: Path) -> None:
    spec = read_spec(engine)
    assert spec.name == "drawn"
    assert spec.input_size == (64, 96)
    assert spec.output_stride == 4
    assert [(c.name, c.thin) for c in spec.classes] == [("ground", False), ("sky", False), ("post", True)]
    assert spec.normalisation.in_graph
    assert len(read_weights(engine, spec, "int8")) < len(read_weights(engine, spec, "fp32"))


def test_int8_is_really_quantised_and_agrees_with_fp32(engine: Path) -> None:
    import onnx
    import onnxruntime as ort

    graph = onnx.load(engine / "model.int8.onnx").graph
    assert sum(node.op_type == "DequantizeLinear" for node in graph.node) > 30
    rgb = np.random.default_rng(2).integers(0, 256, (1, 64, 96, 3), dtype=np.uint8)
    both = [
        ort.InferenceSession(str(engine / file), providers=["CPUExecutionProvider"]).run(
            None, {"image_u8": rgb}
        )
        for file in ("model.onnx", "model.int8.onnx")
    ]
    assert (both[0][0].argmax(1) == both[1][0].argmax(1)).mean() > 0.9


def test_the_model_card_keeps_what_people_wrote(finished: Path, engine: Path, tmp_path: Path) -> None:
    from streamseg.training.export import export_engine

    engine = shutil.copytree(engine, tmp_path / "drawn")
    card = engine / "README.md"
    text = card.read_text()
    assert "| **mIoU** |" in text
    assert "seed 1" in text
    card.write_text(text.replace("# drawn", "# drawn\n\nWritten by hand.") + "\nAnd below.\n")
    export_engine(finished / "best.pt", engine)
    text = card.read_text()
    assert "Written by hand." in text
    assert text.rstrip().endswith("And below.")
    assert "| **mIoU** |" not in text  # this time nothing was scored
    assert not (engine / "model.int8.onnx").exists()
    assert "int8" not in read_spec(engine).weights


def test_the_mean_of_two_runs(finished: Path, tmp_path: Path) -> None:
    first = load_checkpoint(finished / "best.pt")
    moved = {name: tensor + 1 for name, tensor in first["ema"].items()}
    save_checkpoint(tmp_path / "other.pt", {**first, "ema": moved})
    paths = (finished / "best.pt", tmp_path / "other.pt")
    mean = mean_checkpoint([(path, load_checkpoint(path)) for path in paths])
    for name, tensor in first["ema"].items():
        expected = tensor + 0.5 if tensor.is_floating_point() else tensor
        torch.testing.assert_close(mean["ema"][name], expected)

    wider = msgspec.structs.replace(RECIPE, width=RECIPE.width + 12)
    weights = build_network(wider).state_dict()
    save_checkpoint(tmp_path / "wider.pt", {**first, "recipe": msgspec.to_builtins(wider), "ema": weights})
    with pytest.raises(TrainingError, match=r"wider\.pt: is of another network or of other classes than"):
        mean_checkpoint([(path, load_checkpoint(path)) for path in (paths[0], tmp_path / "wider.pt")])


def test_the_checkpoint_tells_its_recipe(finished: Path) -> None:
    assert recipe_of(load_checkpoint(finished / "best.pt")) == RECIPE
