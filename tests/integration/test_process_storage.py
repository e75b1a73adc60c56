"""Inputs and results in an object store: a real S3 server, no folder here."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from streamseg.config import EngineConfig
from streamseg.errors import OutputError, UsageError
from streamseg.recorded import Event, ProcessConfig, Started, process_file, process_files
from streamseg.recorded.inputs import find_inputs
from streamseg.recorded.pending import is_pending
from streamseg.recorded.results import FolderError
from streamseg.recorded.storage import Store
from streamseg.recorded.verify import verify_folder
from tests.media import write_video
from tests.waiting import LIMIT_S, until

pytest.importorskip("s3fs", reason="s3fs is not installed; pip install 'streamseg[s3]'")
pytest.importorskip("moto", reason="moto is not installed; pip install 'moto[server]'")

pytest.importorskip("zarr", reason="zarr is not installed; pip install 'streamseg[zarr]'")

pytestmark = pytest.mark.filterwarnings("default")  # of botocore and moto


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """s3://footage in a server of its own, and the environment that leads there."""
    patch = pytest.MonkeyPatch()
    log = tmp_path_factory.mktemp("server") / "log"
    with log.open("wb") as file:
        server = subprocess.Popen([sys.executable, "-m", "moto.server", "-p", "0"], stderr=file)

    def address() -> re.Match[str] | None:
        assert server.poll() is None, log.read_text()
        return re.search(r"http://127\.0\.0\.1:\d+", log.read_text())

    found = until(address, log.read_text)
    patch.setenv("AWS_ENDPOINT_URL", found[0])
    patch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    store = Store("s3://footage")
    store._fs.mkdir("footage")
    yield store
    patch.undo()
    server.kill()
    server.wait()


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory, bucket: Store) -> Path:
    """26 frames, intra frames 5 apart; also s3://footage/days/clip.mp4, beside a text."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    noise = np.random.default_rng(1).integers(0, 255, (26, 6, 8, 3), np.uint8)
    pictures = [np.kron(n, np.ones((8, 8, 1), np.uint8)) for n in noise]
    write_video(path, pictures, options={"g": "5", "bf": "2", "sc_threshold": "0"})
    bucket.put(path, "days/clip.mp4")
    bucket.write("days/notes.txt", b"dull")
    return path


@pytest.fixture
def config(tiny_engine: Path) -> ProcessConfig:
    engine = EngineConfig(name=str(tiny_engine), threads=1)
    return ProcessConfig(engine=engine, segment_frames=6, png=True, zarr=True)


def contents(bucket: Store, folder: str) -> dict[str, bytes]:
    files = bucket._fs.find(f"footage/{folder}")
    return {name.removeprefix(f"footage/{folder}/"): bucket._fs.cat_file(name) for name in files}


def here(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def left_over() -> list[str]:
    """What lies in the machine's own folder for work on addresses, besides locks."""
    base = Path(os.environ["XDG_CACHE_HOME"]) / "streamseg" / "process"
    return [p.name for p in base.rglob("*") if p.is_file() and p.suffix != ".lock"]


def test_results_in_an_object_store_are_those_of_a_folder(
    bucket: Store, clip: Path, config: ProcessConfig, tmp_path: Path
) -> None:
    result = process_files(["s3://footage/days"], "s3://footage/out", config)
    assert result.whole
    assert result.finished[0].path == "s3://footage/out/clip.manifest.json"
    process_files([clip], tmp_path, config)
    found, wanted = contents(bucket, "out"), here(tmp_path)
    told = {name: found.pop(name) for name in ("clip.manifest.json", "clip.summary.json")}
    assert all(b"s3://footage/days/clip.mp4" in data for data in told.values())
    assert found == {name: data for name, data in wanted.items() if name not in told}
    assert left_over() == []

    (verdict,) = verify_folder("s3://footage/out")
    assert (verdict.problems, verdict.masks, verdict.source_checked) == ([], 26, True)
    assert process_files(["s3://footage/days"], "s3://footage/out", config).finished[0].again

    bucket.write("out/clip.overlay.mp4", b"something else")
    (verdict,) = verify_folder("s3://footage/out")
    assert any("clip.overlay.mp4: has been changed" in p for p in verdict.problems)
    assert not process_files(["s3://footage/days"], "s3://footage/out", config).finished[0].again
    assert contents(bucket, "out") == found | told


# Runs the command and kills itself at its k-th put, write or removal.
CHILD = """
import os, signal, sys
from streamseg.recorded.storage import Store
left = int(sys.argv[1])
def counted(act):
    def wrapped(self, *args):
        global left
        if not args[0].startswith(".streamseg-") if act.__name__ != "put" else True:
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)
        return act(self, *args)
    return wrapped
for name in ("put", "write", "remove"):
    setattr(Store, name, counted(getattr(Store, name)))
sys.argv = ["streamseg", *sys.argv[2:]]
from streamseg.cli import main
main()
"""


@pytest.mark.parametrize(
    ("at", "done"), [(3, 10), *(pytest.param(*late, marks=pytest.mark.slow) for late in ((6, 26), (8, 26)))]
)
def test_killed_on_one_machine_another_one_goes_on(
    bucket: Store,
    clip: Path,
    config: ProcessConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    at: int,
    done: int,
) -> None:
    """Writes are: the job, three segments, seven results, the manifest."""
    out = f"s3://footage/killed-{at}"
    options = ["--threads", "1", "--segment-frames", "6", "--png", "--zarr", "--engine", config.engine.name]
    ran = subprocess.run(
        [sys.executable, "-c", CHILD, str(at + 1), "process", str(clip), "--out", out, *options],
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / "lost")},
        capture_output=True,
        timeout=LIMIT_S,
    )
    assert ran.returncode == -signal.SIGKILL, ran.stderr
    assert f"killed-{at}/clip.manifest.json" not in bucket.names(f"killed-{at}")
    events: list[Event] = []
    process_files([clip], out, config, on_event=events.append)
    assert [e.done for e in events if isinstance(e, Started)] == [done]
    process_files([clip], tmp_path / "whole", config)
    assert contents(bucket, f"killed-{at}") == here(tmp_path / "whole")
    assert left_over() == []


def test_another_setting_begins_anew_there_too(bucket: Store, clip: Path, config: ProcessConfig) -> None:
    process_files([clip], "s3://footage/changed", config)
    events: list[Event] = []
    other = ProcessConfig(engine=config.engine, every=2)
    process_files([clip], "s3://footage/changed", other, on_event=events.append)
    (started,) = [e for e in events if isinstance(e, Started)]
    assert "settings.every was 1, is 2" in started.why
    assert bucket.names("changed") == [
        f"clip.{name}" for name in ("labels.mp4", "manifest.json", "overlay.mp4", "summary.json")
    ]


def test_files_of_somebody_else_are_not_overwritten_unasked(
    bucket: Store, clip: Path, config: ProcessConfig
) -> None:
    bucket.write("full/clip.labels.mp4", b"mine")
    result = process_files([clip], "s3://footage/full", config)
    assert "s3://footage/full/clip.labels.mp4: exists already" in str(result.failed[0].error)
    assert [name for name in bucket.names("full") if not is_pending(name)] == ["clip.labels.mp4"]
    (verdict,) = verify_folder("s3://footage/full")
    assert "clip.labels.mp4: exists already" in verdict.problems[0]


def test_patterns_and_objects_are_found(bucket: Store, clip: Path) -> None:
    for source in ("s3://footage/days", "s3://footage/days/*.mp4", "s3://footage/days/clip.mp4"):
        (one,) = find_inputs([source])
        assert (one.source, one.stem) == ("s3://footage/days/clip.mp4", "clip")
    with pytest.raises(UsageError, match=r"s3://footage/days/\*\.avi: no video at this address"):
        find_inputs(["s3://footage/days/*.avi"])


def test_what_is_not_there_is_told_in_one_line(clip: Path, config: ProcessConfig) -> None:
    result = process_files(["s3://footage/days/none.mp4"], "s3://footage/none", config)
    assert str(result.failed[0].error) == (
        "s3://footage/days/none.mp4: there is no such object, folder or bucket"
    )
    with pytest.raises(FolderError, match="s3://nobody/out"):
        process_files([clip], "s3://nobody/out", config)


def test_masks_of_an_object_come_like_those_of_a_file(
    bucket: Store, clip: Path, config: ProcessConfig
) -> None:
    with process_file("s3://footage/days/clip.mp4", config) as found, process_file(clip, config) as wanted:
        assert all((a.labels == b.labels).all() for a, b in zip(found, wanted, strict=True))
    bucket.write("days/text.mkv", b"no video\n" * 9)
    with pytest.raises(OSError, match=r"^s3://footage/days/text\.mkv: .*text, not a video"):  # noqa: SIM117
        with process_file("s3://footage/days/text.mkv", config) as masks:
            next(masks)
    bucket.remove("days/text.mkv")
    assert left_over() == []


def test_a_file_system_that_is_not_installed_is_named() -> None:
    with pytest.raises(OutputError, match=r"^abfs://footage: .*adlfs"):
        Store("abfs://footage")
