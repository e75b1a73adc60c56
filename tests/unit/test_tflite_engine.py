"""A .tflite file becomes an engine that the pipeline runs; the released ones are the networks they say."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from streamseg.cli.engine_import import command as import_command
from streamseg.cli.model import command
from streamseg.cli.segment import command as segment_command
from streamseg.config import EngineConfig
from streamseg.errors import EngineError, StreamsegError, UsageError, WeightsError
from streamseg.inference.backends import device
from streamseg.inference.engine_folders import RELEASED_ENGINES, is_missing
from streamseg.inference.plans.load import load_engine
from streamseg.inference.spec import ClassEntry, find_engine, read_spec
from streamseg.models.released import fetch_engine, write_released
from streamseg.models.sources import RELEASED
from streamseg.models.tflite_engine import convert_file, import_tflite, write_tflite_engine
from streamseg.models.weights.tflite import read_tflite
from streamseg.models.zoo import VOC21
from tests.tflite import Net, deeplab
from tests.unit.test_tflite_convert import last, picture, quantised

WEIGHTS = Path(__file__).resolve().parents[3] / "shared" / "data" / "weights"


def released_file(name: str) -> Path:
    path = WEIGHTS / RELEASED[name].source.file
    if not path.is_file():
        pytest.skip(f"{path} is not there; streamseg model fetch {name} gets it")
    return path


def write(path: Path, net: Net) -> Path:
    path.write_bytes(last(net))
    return path


def test_a_float_file_becomes_an_engine_with_the_names_that_are_given(tmp_path: Path) -> None:
    file = write(tmp_path / "net.tflite", deeplab())
    names = tuple(ClassEntry(name=name, colour=(i, 0, 0)) for i, name in enumerate("abcd"))
    folder = write_tflite_engine(
        file, tmp_path / "mine", network="deeplab", licence="MIT", classes=names, input_size=(32, 48)
    )
    spec = read_spec(folder)
    assert (spec.name, spec.input_size, spec.size_multiple, spec.output_stride) == ("mine", (32, 48), 4, 4)
    assert [entry.name for entry in spec.classes] == list("abcd")
    assert list(spec.weights) == ["fp32"]
    assert sorted(p.name for p in folder.iterdir()) == ["engine.toml", "model.onnx"]
    with closing(load_engine(EngineConfig(name=str(folder), threads=1))) as engine:
        assert engine(np.stack([picture(32, 48)])).shape == (1, 4, 8, 12)


def test_a_quantised_file_brings_its_own_int8(tmp_path: Path) -> None:
    file = write(tmp_path / "net.tflite", quantised("uint8", channels=False))
    folder = write_tflite_engine(file, tmp_path / "mine", network="net", licence="MIT")
    assert list(read_spec(folder).weights) == ["fp32", "int8"]
    answers = []
    for precision in ("fp32", "int8"):
        config = EngineConfig(name=str(folder), threads=1, precision=precision)  # type: ignore[arg-type]
        with closing(load_engine(config)) as engine:
            answers.append(engine(np.stack([picture()])))
    np.testing.assert_allclose(*answers, atol=0.25)


def test_openvino_refuses_int8_that_overflows_on_this_processor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file's weights have 8 bits; without VNNI two products with them are summed in 16."""
    pytest.importorskip("openvino")
    from streamseg.inference.backends.openvino import OpenvinoBackend
    from streamseg.inference.backends.protocol import build_spec

    file = write(tmp_path / "net.tflite", quantised("uint8", channels=False))
    folder = write_tflite_engine(file, tmp_path / "mine", network="net", licence="MIT")
    spec = build_spec(EngineConfig(name=str(folder), threads=1), folder, read_spec(folder), "int8")
    monkeypatch.setattr(device, "cpu_features", lambda: ("avx2",))
    monkeypatch.setattr(device.platform, "machine", lambda: "x86_64")
    with pytest.raises(EngineError, match="int8 overflows on a processor without VNNI with weights of more"):
        OpenvinoBackend().build(spec, tmp_path / "plan", lambda *_: None)
    monkeypatch.setattr(device, "cpu_features", lambda: ("avx2", "avx_vnni"))
    OpenvinoBackend().build(spec, tmp_path / "plan", lambda *_: None)
    assert (tmp_path / "plan").stat().st_size > 0


def test_engine_import_takes_a_tflite_file(tmp_path: Path) -> None:
    file = write(tmp_path / "net.tflite", quantised("int8", channels=True))
    (tmp_path / "names.txt").write_text("water\nland\nice\nsnow\nrock #806040\n")
    picture_file = tmp_path / "shown.png"
    cv2.imwrite(str(picture_file), picture(48, 64))
    asked = [str(file), "--as", "mine", "--out", str(tmp_path / "engines"), "--picture", str(tmp_path)]
    done = CliRunner().invoke(
        import_command, [*asked, "--labels", str(tmp_path / "names.txt")], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    assert "quantised, with an int8 of its own" in done.output
    assert "classes  5: water, land, ice, snow, rock  (given)" in done.output
    guessed = CliRunner().invoke(import_command, [*asked, "--replace"], catch_exceptions=False)
    assert "(their number; name them with --labels FILE, or --dataset)" in guessed.output
    CliRunner().invoke(
        import_command, [*asked, "--replace", "--labels", str(tmp_path / "names.txt")], catch_exceptions=False
    )
    folder = tmp_path / "engines" / "mine"
    assert sorted(p.name for p in folder.iterdir()) == [
        "check.jpg", "engine.toml", "model.int8.onnx", "model.onnx"
    ]  # fmt: skip
    spec = read_spec(folder)
    assert spec.name == "mine"
    assert [entry.name for entry in spec.classes] == ["water", "land", "ice", "snow", "rock"]
    for option in (["--layout", "nchw"], ["--input-size", "31", "32"]):
        with pytest.raises(UsageError, match=option[0]):
            CliRunner().invoke(import_command, [*asked, "--replace", *option], catch_exceptions=False)
    assert read_spec(folder) == spec


def test_names_may_be_json_and_levels_are_read_as_of_a_graph(tmp_path: Path) -> None:
    file = write(tmp_path / "net.tflite", deeplab())
    names = tmp_path / "names.txt"
    names.write_text('{\n"1": "b",\n"0": "a",\n"3": "d", "2": "c"}\n')  # as many lines as classes
    given = {"labels": names, "mean": (0.5, 0.4, 0.3)}
    spec = read_spec(import_tflite(file, "mine", tmp_path / "mine", given))
    assert [entry.name for entry in spec.classes] == list("abcd")
    assert np.allclose(spec.normalisation.mean, (127.5, 102, 76.5))
    assert spec.normalisation.std == (255, 255, 255)
    bytes_file = write(tmp_path / "bytes.tflite", quantised("uint8", channels=False))
    with pytest.raises(UsageError, match="--mean: a file that takes bytes says this itself"):
        import_tflite(bytes_file, "b", tmp_path / "b", {"mean": (1.0, 2.0, 3.0)})


def test_another_number_of_names_than_classes_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    file = write(tmp_path / "net.tflite", deeplab())
    names = tuple(ClassEntry(name=name, colour=(i, 0, 0)) for i, name in enumerate("abc"))
    with pytest.raises(EngineError, match="the file has 4 classes, but 3 names are given"):
        write_tflite_engine(file, tmp_path / "mine", network="net", licence="MIT", classes=names)
    assert not (tmp_path / "mine" / "engine.toml").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is damaged or not a .tflite file"),
        (b"\x08\x00\x00\x00TFL3", "refers to byte"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (b"PK\x03\x04" + bytes(60), "a ZIP archive"),
        (b"\x10\x00\x00\x00TFL3" + b"\xff" * 60, "is damaged or not a .tflite file"),
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.tflite").write_bytes(content)
    with pytest.raises(WeightsError, match=message) as caught:
        convert_file(tmp_path / "x.tflite")
    assert str(caught.value).startswith(str(tmp_path / "x.tflite"))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="cannot be read"):
        convert_file(tmp_path / "x.tflite")


RELEASED_ONE = "deeplabv3-mobilenet-v2-voc"


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small file stands in for the published one; it lies in the cache, so nothing is downloaded."""
    content = last(deeplab(33, 21))
    source = dataclasses.replace(
        RELEASED[RELEASED_ONE].source, file="small.tflite", sha256_start=hashlib.sha256(content).hexdigest()
    )
    monkeypatch.setitem(RELEASED, RELEASED_ONE, dataclasses.replace(RELEASED[RELEASED_ONE], source=source))
    monkeypatch.delenv("CACHE_DIRECTORY", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "cache" / "streamseg" / "weights" / "small.tflite"
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    return file


def test_fetching_a_released_engine_makes_it(published: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(command, ["fetch", RELEASED_ONE], catch_exceptions=False)
    assert f"streamseg run --engine {RELEASED_ONE} --source" in done.output
    assert "licence: Apache-2.0" in done.output
    folder, spec = find_engine(RELEASED_ONE)
    assert folder == tmp_path / "cache" / "streamseg" / "engines" / RELEASED_ONE
    assert spec.label_set == "voc-21"
    assert {entry.name: entry.colour for entry in spec.classes} == VOC21
    assert spec.crf.appearance_sigma_xy == 67
    published.write_bytes(published.read_bytes()[:-1])
    with pytest.raises(StreamsegError, match="is not the published file"):
        CliRunner().invoke(command, ["fetch", RELEASED_ONE, "--out", "here"], catch_exceptions=False)


def test_a_released_engine_is_fetched_when_it_is_first_asked_for(published: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=f"not here yet; get it with: streamseg model fetch {RELEASED_ONE}"):
        find_engine(RELEASED_ONE)
    with pytest.raises(EngineError, match=f"did you mean '{RELEASED_ONE}'"):
        find_engine(RELEASED_ONE[:-1])
    assert is_missing(RELEASED_ONE)
    assert set(RELEASED) == set(RELEASED_ENGINES)
    cv2.imwrite("grey.png", np.full((33, 33, 3), 128, np.uint8))
    asked = ["grey.png", "--engine", RELEASED_ONE, "--backend", "onnx", "--format", "json"]
    done = CliRunner().invoke(segment_command, asked, catch_exceptions=False)
    assert done.exit_code == 0
    assert f"{RELEASED_ONE}: fetched; licence: Apache-2.0" in done.output
    assert not is_missing(RELEASED_ONE)
    assert ": fetched" not in CliRunner().invoke(segment_command, asked).output
    published.unlink()
    shutil.rmtree(tmp_path / "cache" / "streamseg" / "engines")
    source = dataclasses.replace(RELEASED[RELEASED_ONE].source, url=None)
    RELEASED[RELEASED_ONE] = dataclasses.replace(RELEASED[RELEASED_ONE], source=source)
    with pytest.raises(WeightsError, match=r"small\.tflite: must be downloaded by hand; download .* put it"):
        fetch_engine(RELEASED_ONE)


def test_two_who_fetch_a_released_engine_at_once_make_it_once(
    published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both, written = threading.Barrier(2), []

    def write(*given: Any, **options: Any) -> Path:
        with contextlib.suppress(threading.BrokenBarrierError):
            both.wait(0.3)  # for another one that would write, too
        written.append(given)
        return write_tflite_engine(*given, **options)

    monkeypatch.setattr("streamseg.models.released.write_tflite_engine", write)
    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(fetch_engine, [RELEASED_ONE] * 2)
    assert first == second == find_engine(RELEASED_ONE)[0]
    assert len(written) == 1
    assert [path.name for path in first.parent.iterdir()] == [RELEASED_ONE]


def test_only_a_released_engine_has_a_folder_to_be_made_in(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no released engine"):
        CliRunner().invoke(
            command, ["fetch", "deeplabv3-resnet50", "--out", str(tmp_path)], catch_exceptions=False
        )


@pytest.mark.parametrize("name", RELEASED)
def test_released_files_have_the_published_hash_and_number_of_parameters(name: str) -> None:
    path = released_file(name)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == RELEASED[name].source.sha256_start
    graph = read_tflite(path)
    used = {i for op in graph.operators for i in op.inputs[1:] if i >= 0 and "CONV" in op.kind}
    constants = [data for i in used if (data := graph.tensors[i].data) is not None]
    assert sum(data.size for data in constants if data.ndim in (1, 4)) == RELEASED[name].parameters
    assert graph.tensors[graph.inputs[0]].shape == (1, 513, 513, 3)


@pytest.mark.slow
@pytest.mark.parametrize("name", RELEASED)
def test_released_files_become_engines_of_any_size(name: str, tmp_path: Path) -> None:
    folder = write_released(name, released_file(name), tmp_path / name)
    spec = read_spec(folder)
    assert (len(spec.classes), spec.output_stride, spec.size_multiple) == (RELEASED[name].classes, 16, 16)
    assert list(spec.weights) == ["fp32", "int8"]
    for precision in ("fp32", "int8"):
        config = EngineConfig(name=str(folder), threads=1, precision=precision)  # type: ignore[arg-type]
        with closing(load_engine(config)) as engine:
            assert engine(np.stack([picture(160, 256)] * 2)).shape == (2, len(spec.classes), 10, 16)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["deeplabv3-mobilenet-v2", "deeplabv3-mobilenet-v2-dm05"])
def test_the_zoos_network_computes_what_the_files_graph_does(name: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    import onnxruntime as ort

    from streamseg.models.served import Served
    from streamseg.models.weights import import_weights
    from streamseg.models.zoo import NETWORKS

    file = released_file(f"{name}-voc")
    served = Served(import_weights(file, name), NETWORKS[name].preprocessing)
    session = ort.InferenceSession(convert_file(file).fp32.model, providers=["CPUExecutionProvider"])
    shown = picture(192, 256, 5)[None]
    with torch.no_grad():
        want = served(torch.from_numpy(shown)).numpy()
    got = session.run(None, {"image_u8": shown})[0]
    assert got.shape == want.shape == (1, 21, 12, 16)
    # The file's graph keeps the ranges that its tensors were trained with; the network has none.
    assert np.abs(got - want).mean() < 0.02 * np.abs(want).max()
    assert (got.argmax(1) == want.argmax(1)).mean() > 0.97
