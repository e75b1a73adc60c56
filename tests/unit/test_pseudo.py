"""Learning from teachers: soft labels, pseudo-labels, what is kept, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

torch = pytest.importorskip("torch")

from streamseg.cli.train import command  # noqa: E402
from streamseg.errors import StreamsegError, TrainingError, UsageError  # noqa: E402
from streamseg.evaluation import LabelledFolder, evaluate  # noqa: E402
from streamseg.inference.spec import ClassEntry  # noqa: E402
from streamseg.training import pseudo  # noqa: E402
from streamseg.training.checkpoint import load_checkpoint, trained_network  # noqa: E402
from streamseg.training.data import TrainingImages  # noqa: E402
from streamseg.training.log import read_log  # noqa: E402
from streamseg.training.loop import Inputs, predictor, train  # noqa: E402
from streamseg.training.pseudo import Lessons  # noqa: E402
from streamseg.training.recipe import AugmentRecipe, DistilRecipe, TrainRecipe  # noqa: E402
from streamseg.training.teachers import open_teachers  # noqa: E402
from tests.engines import TINY_CLASSES, write_tiny_engine  # noqa: E402
from tests.media import write_video  # noqa: E402

SIZE = (48, 64)
CPU = torch.device("cpu")
CLASSES = tuple(ClassEntry(name=name, colour=colour) for name, colour in TINY_CLASSES.items())
RECIPE = TrainRecipe(
    width=12,
    classes=CLASSES,
    label_set="tiny-4",
    input_size=SIZE,
    epochs=3,
    batch_size=4,
    learning_rate=0.02,
    warmup=0.0,
    lovasz_weight=0.0,
    ema=0.5,
    augment=AugmentRecipe(
        crop_size=SIZE, scale_min=1, scale_max=1.2, colour=0, light=0, shadow=0, rare_share=0.2
    ),
    distil=DistilRecipe(mirrored=False, every=2),
    device="cpu",
    threads=1,
    arithmetic="fp32",
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CACHE_DIRECTORY", raising=False)
    return tmp_path / "cache" / "streamseg" / "soft-labels"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher, labelled pictures of coloured boxes of three drives, and a video of a box that wanders."""
    root = tmp_path_factory.mktemp("world")
    write_tiny_engine(root / "teacher")
    rng = np.random.default_rng(0)
    colours = np.array([(90, 90, 90), (255, 0, 0), (0, 255, 0), (0, 0, 255)], np.uint8)
    for sub in ("images", "labels"):
        (root / "data" / sub).mkdir(parents=True)
    for number in range(12):
        labels = np.zeros(SIZE, np.uint8)
        for colour in (1, 2, 3):
            y, x = rng.integers(0, 28), rng.integers(0, 40)
            labels[y : y + 20, x : x + 24] = colour
        name = f"drive{'abc'[number % 3]}_{number:02}.png"
        noisy = np.clip(colours[labels] + rng.normal(0, 6, (*SIZE, 3)), 0, 255).astype(np.uint8)
        cv2.imwrite(str(root / "data/images" / name), noisy[..., ::-1])
        cv2.imwrite(str(root / "data/labels" / name), labels)
    frames = [np.full((*SIZE, 3), 90, np.uint8) for _ in range(9)]
    for number, frame in enumerate(frames):
        frame[10:40, 4 + 3 * number : 30 + 3 * number] = (255, 0, 0)
    write_video(root / "clip.mkv", frames)
    return root


def changed(**distil: Any) -> TrainRecipe:
    return msgspec.structs.replace(RECIPE, distil=msgspec.structs.replace(RECIPE.distil, **distil))


def lessons_of(world: Path, recipe: TrainRecipe = RECIPE, *sources: str) -> list[Any]:
    with open_teachers([str(world / "teacher")], recipe, CPU) as groups:
        return list(Lessons(groups, recipe).unlabelled(sources))


def test_a_student_learns_from_a_teacher_alone_on_unlabelled_pictures(world: Path, tmp_path: Path) -> None:
    recipe = msgspec.structs.replace(changed(label_weight=0.0), width=36, epochs=14)
    inputs = Inputs(
        None, teachers=(str(world / "teacher"),), unlabelled=(str(world / "data"), str(world / "clip.mkv"))
    )
    best = train(recipe, inputs, tmp_path / "run", resume=False)
    student = trained_network(load_checkpoint(best))
    scores = evaluate(predictor(student, CPU, SIZE), world / "data", recipe.class_names)
    untrained = evaluate(
        predictor(trained_network(_fresh(recipe)), CPU, SIZE), world / "data", recipe.class_names
    )
    assert scores.miou is not None
    assert untrained.miou is not None
    assert scores.miou > 60
    assert untrained.miou < 25


def _fresh(recipe: TrainRecipe) -> dict[str, Any]:
    from streamseg.training.networks import build_network

    torch.manual_seed(0)
    return {"recipe": msgspec.to_builtins(recipe), "ema": build_network(recipe).state_dict()}


def test_an_interrupted_run_with_teachers_goes_on_to_the_bit_and_with_no_others(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = Inputs(world / "data", teachers=(str(world / "teacher"),), unlabelled=(str(world / "clip.mkv"),))
    train(RECIPE, inputs, tmp_path / "whole", resume=False)
    parts = tmp_path / "parts"
    crop = TrainingImages.crop

    def interrupted(self: TrainingImages, epoch: int, *which: int) -> object:
        if epoch == 2:
            raise KeyboardInterrupt
        return crop(self, epoch, *which)

    monkeypatch.setattr(TrainingImages, "crop", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(RECIPE, inputs, parts, resume=False)
    monkeypatch.setattr(TrainingImages, "crop", crop)
    write_tiny_engine(tmp_path / "other", gain=1 / 16)
    for changes, said in (
        ({"teachers": ()}, "the teachers, the unlabelled pictures"),
        ({"teachers": (str(tmp_path / "other"),)}, "the teachers"),
        ({"unlabelled": ()}, "the unlabelled pictures"),
    ):
        given = inputs._replace(
            **{"unlabelled": () if not changes.get("teachers", 1) else inputs.unlabelled, **changes}
        )
        with pytest.raises(TrainingError, match=f"another recipe or data: {said}; --resume"):
            train(RECIPE, given, parts, resume=True)
    with pytest.raises(TrainingError, match=r"distil.temperature \(2.0, now 4.0\)"):
        train(changed(temperature=4.0), inputs, parts, resume=True)
    train(RECIPE, inputs, parts, resume=True)
    one, two = (load_checkpoint(folder / "last.pt") for folder in (tmp_path / "whole", parts))
    assert one["teachers"] == two["teachers"]
    assert all(torch.equal(one["network"][name], two["network"][name]) for name in one["network"])
    assert [e.loss for e in read_log(parts)] == [e.loss for e in read_log(tmp_path / "whole")]


def test_what_teachers_said_is_computed_once(
    world: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = (str(world / "data"), str(world / "clip.mkv"))
    first = lessons_of(world, RECIPE, *sources)
    monkeypatch.setattr(pseudo, "_sequence", None)  # nothing asks again
    again = lessons_of(world, RECIPE, *sources)
    for one, two in zip(first, again, strict=True):
        for mine, kept in zip(one, two, strict=True):
            np.testing.assert_array_equal(mine, kept)
    with pytest.raises(TypeError):
        lessons_of(world, changed(sure=0.9), *sources)  # another setting, another answer
    next(cache.rglob("000001.npz")).write_bytes(b"cut off")
    with pytest.raises(
        TrainingError, match=r"000001.npz: is damaged; remove the folder .*, it is made again"
    ):
        lessons_of(world, RECIPE, str(world / "clip.mkv"))


def test_of_a_video_every_so_many_frames_are_labelled_where_the_teacher_is_sure(world: Path) -> None:
    pictures = lessons_of(world, RECIPE, str(world / "clip.mkv"))
    assert len(pictures) == 5  # 0, 2, 4, 6, 8
    for number, picture in enumerate(pictures):
        left = 4 + 6 * number
        assert (picture.labels[14:36, left + 4 : left + 22] == 1).all()
        assert (picture.labels[2:6] == 0).mean() > 0.9
        assert picture.soft.shape == (12, 16, 5)
        assert (picture.soft[4:8, (left + 8) // 4, 1] == 0).all()  # red is the best class there
    unsure = lessons_of(world, changed(sure=1.0), str(world / "clip.mkv"))
    assert (unsure[0].labels == 255).mean() > (pictures[0].labels == 255).mean()


def test_teachers_of_other_classes_teach_what_they_know(world: Path) -> None:
    classes = (CLASSES[0], msgspec.structs.replace(CLASSES[1], name="ruby"), *CLASSES[2:], *(
        ClassEntry(name=name, colour=(0, 0, 0)) for name in ("snow",)
    ))  # fmt: skip
    distil = msgspec.structs.replace(RECIPE.distil, classes={"red": "ruby"})
    recipe = msgspec.structs.replace(RECIPE, classes=classes, distil=distil)
    with open_teachers([str(world / "teacher")], recipe, CPU) as (group,):
        assert group.known.classes == (0, 1, 2, 3)
    with open_teachers([str(world / "teacher")], msgspec.structs.replace(RECIPE, classes=classes), CPU) as (
        group,
    ):
        assert group.known.classes == (0, 2, 3)
        red = np.full((*SIZE, 3), (255, 0, 0), np.uint8)
        assert group.probabilities(red, (12, 16), recipe).sum(0).max() < 0.1  # it sees none of these
    (picture, *_) = lessons_of(world, recipe, str(world / "clip.mkv"))
    assert (picture.labels == 255).all()  # it might call snow something else


@pytest.mark.parametrize(
    ("changes", "teachers", "said"),
    [
        ({"classes": (CLASSES[1], ClassEntry(name="x", colour=(0, 0, 0)))}, ["teacher"],
         r"--teacher tiny: 1 of its classes \(other, red, green, blue\) are .* \(red, x\); must be 2"),
        ({}, ["teacher", "teacher"], "is given twice"),
        ({}, ["nowhere"], "--teacher .*: unknown engine|--teacher .*engine.toml cannot be read"),
        ({"distil": DistilRecipe(classes={"teal": "red"})}, ["teacher"], "classes.teal: no teacher has"),
    ],
)  # fmt: skip
def test_teachers_that_cannot_teach_are_refused(
    world: Path, changes: dict[str, Any], teachers: list[str], said: str
) -> None:
    recipe = msgspec.structs.replace(RECIPE, **changes)
    with (
        pytest.raises(StreamsegError, match=said) as caught,
        open_teachers([str(world / t) for t in teachers], recipe, CPU),
    ):
        pass
    assert "\n" not in str(caught.value)


def test_soft_labels_go_with_their_picture_and_count_nowhere_outside(world: Path) -> None:
    recipe = msgspec.structs.replace(
        RECIPE,
        augment=AugmentRecipe(
            crop_size=SIZE, scale_min=0.6, scale_max=1.6, paste=0.5, rare_share=0.2
        ),
    )  # fmt: skip
    with open_teachers([str(world / "teacher")], recipe, CPU) as groups:
        lessons = Lessons(groups, recipe)
        images = TrainingImages(LabelledFolder(world / "data", 4), recipe, lessons.soft)
    agree, inside = [], []
    for epoch in range(3):
        for batch in images.batches(epoch):
            assert batch.soft is not None
            middle = batch.labels[:, 2::4, 2::4]
            known = (middle != 255) & (batch.soft[..., 4] > 250)
            agree.append((batch.soft[..., :4].argmin(-1) == middle)[known].mean())
            inside.append((batch.soft[..., 4] > 0)[middle == 255].mean())
    assert np.mean(agree) > 0.9
    assert np.mean(inside) < 0.5  # but for a cell at the border


def test_without_teachers_there_are_no_soft_labels_and_no_cache(world: Path, cache: Path) -> None:
    images = TrainingImages(LabelledFolder(world / "data", 4), RECIPE)
    assert next(iter(images.batches(0))).soft is None
    assert not cache.exists()


def test_a_batch_has_its_share_of_unlabelled_pictures_and_uses_all_of_them(world: Path) -> None:
    recipe = changed(unlabelled_share=0.25)
    pictures = lessons_of(world, recipe, str(world / "clip.mkv"))
    images = TrainingImages(LabelledFolder(world / "data", 4), recipe, None, pictures)
    assert images.steps == 4  # 12 labelled ones, 3 in a batch
    order = list(images._order(0))
    assert [sum(which[0] >= 12 for which in batch) for batch in order] == [1] * 4
    assert len({which for batch in order for which in batch}) == 16
    alone = TrainingImages(None, recipe, None, pictures)
    assert (alone.steps, alone.labelled) == (1, 0)


def test_drives_are_left_out_in_turn_and_go_on(world: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        'width = 12\ninput_size = [48, 64]\nepochs = 1\nbatch_size = 4\ndevice = "cpu"\nthreads = 1\n'
        "augment = { crop_size = [48, 64] }\n"
        + "".join(f'[[classes]]\nname = "{c.name}"\ncolour = {list(c.colour)}\n' for c in CLASSES)
    )
    arguments = ["--recipe", recipe, "--data", world / "data", "--out", tmp_path / "runs"]
    arguments += ["--leave-out", "drivea", "--leave-out", "driveb"]
    first = CliRunner().invoke(command, [str(a) for a in arguments], catch_exceptions=False)
    lines = first.output.splitlines()
    assert [line.split()[0] for line in lines] == ["left", "drivea", "driveb", "mean"]
    assert lines[1].split()[1] == "4"
    scores = [float(line.split()[-1 if line.startswith("mean") else 2]) for line in lines[1:]]
    assert scores[2] == pytest.approx((scores[0] + scores[1]) / 2, abs=0.011)
    again = CliRunner().invoke(command, [*map(str, arguments), "--resume"], catch_exceptions=False)
    assert again.output == first.output
    assert (
        load_checkpoint(tmp_path / "runs/drivea/last.pt")["val"]
        != load_checkpoint(tmp_path / "runs/driveb/last.pt")["val"]
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--data", "DATA", "--unlabelled", "x"], "without --teacher nothing can be learnt from it"),
        (["--teacher", "x"], "--data: is missing; a run without labels needs --teacher and --unlabelled"),
        (["--data", "DATA", "--leave-out", "drivea", "--val", "DATA"], "give no --val"),
        (["--data", "DATA", "--leave-out", "a", "--leave-out", "a"], "are left out twice"),
        (["--data", "DATA", "--leave-out", "drivea", "--leave-out", "driv"], "are left out twice, by 'driv'"),
        (["--data", "DATA", "--leave-out", ""], "must be the beginning of images' names, and no path; is ''"),
        (["--data", "DATA", "--leave-out", "drivea", "--leave-out", ".."], "and no path; is '..'"),
        (["--data", "DATA", "--leave-out", "drivea", "--leave-out", "x/y"], "and no path; is 'x/y'"),
        (["--data", "DATA", "--leave-out", "drivea", "--leave-out", "drivex"], "begins with 'drivex'"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    world: Path, tmp_path: Path, options: list[str], said: str
) -> None:
    given = [str(world / "data") if option == "DATA" else option for option in options]
    with pytest.raises((UsageError, TrainingError), match=said):
        CliRunner().invoke(command, [*given, "--out", str(tmp_path / "run")], catch_exceptions=False)
    assert not (tmp_path / "run").exists(), "nothing has been trained"


def test_a_prefix_that_no_image_has_names_those_there_are(world: Path) -> None:
    folder = LabelledFolder(world / "data", 4)
    with pytest.raises(
        TrainingError, match="no image has a name that begins with 'x'; names begin with drivea, "
    ):
        folder.split("x")
    with pytest.raises(TrainingError, match="every image has a name that begins with 'drive'"):
        folder.split("drive")
    rest, those = folder.split("drivec")
    assert (len(rest), len(those), len(folder)) == (8, 4, 12)
