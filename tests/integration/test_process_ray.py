"""Spread over a real Ray cluster of two nodes, one of which is killed: the same bytes as from one process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamseg.config import EngineConfig, EventConfig, ZoneConfig
from streamseg.errors import EngineError, UsageError
from streamseg.recorded import Event, ProcessConfig, Progressed, Started, process_files
from streamseg.recorded.settings import ZoneTables
from tests.media import write_video
from tests.waiting import LIMIT_S

ray: Any = pytest.importorskip("ray", reason="Ray is not installed; pip install 'streamseg[ray]'")

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head without workers and two nodes of one CPU, each with a raylet of its own."""
    from ray.cluster_utils import Cluster

    memory = {"object_store_memory": 80 * 1024 * 1024}
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **memory})
    made.nodes = [made.add_node(num_cpus=1, **memory) for _ in range(2)]
    made.wait_for_nodes()
    ray.init(made.address, log_to_driver=False)
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """60 frames with B-frames between intra frames 5 apart, and a short one."""
    folder = tmp_path_factory.mktemp("clips")
    noise = np.random.default_rng(1).integers(0, 255, (60, 6, 8, 3), np.uint8)
    pictures = [np.kron(n, np.ones((8, 8, 1), np.uint8)) for n in noise]
    options = {"g": "5", "bf": "2", "sc_threshold": "0"}
    write_video(folder / "long.mp4", pictures, options=options)
    write_video(folder / "short.mp4", pictures[:7], options=options)
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def config(tiny_engine: Path) -> ProcessConfig:
    engine = EngineConfig(name=str(tiny_engine), threads=1)
    zones = ZoneTables(
        zones={"left": ZoneConfig(polygon=((0, 0), (0.5, 0), (0.5, 1), (0, 1)))},
        events={"red": EventConfig(zone="left", classes=("red",), above=0.05)},
    )
    return ProcessConfig(engine=engine, segment_frames=6, confidence=True, zones=zones, polygons="geojson")


@pytest.fixture(scope="module")
def wanted(
    clips: list[Path], config: ProcessConfig, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    """What one process makes of the clips."""
    out = tmp_path_factory.mktemp("wanted")
    assert process_files(clips, out, config).whole
    return contents(out)


def contents(folder: Path) -> dict[str, bytes]:
    """All but the list of inputs that have no results, which stays while one failed."""
    return {p.name: p.read_bytes() for p in folder.iterdir() if not p.name.endswith(".pending.json")}


def test_a_node_killed_in_the_middle_costs_time_only(
    cluster: Any, clips: list[Path], config: ProcessConfig, wanted: dict[str, bytes], tmp_path: Path
) -> None:
    events: list[Event] = []

    def on_event(event: Event) -> None:
        events.append(event)
        if isinstance(event, Progressed) and len(cluster.nodes) == 2:
            cluster.remove_node(cluster.nodes.pop(), allow_graceful=False)

    missing = tmp_path / "missing.mp4"
    result = process_files([*clips, missing], tmp_path / "out", config, on_event=on_event, on="ray")
    assert [f.input for f in result.finished] == [str(c) for c in clips]
    assert "no such file" in str(result.failed[0].error)
    assert contents(tmp_path / "out") == wanted
    assert len(cluster.nodes) == 1
    done = [e.done for e in events if isinstance(e, Progressed) and e.input.endswith("long.mp4")]
    assert done == sorted(set(done))
    assert done[-1] == 60
    cluster.nodes.append(cluster.add_node(num_cpus=1, object_store_memory=80 * 1024 * 1024))
    assert all(f.again for f in process_files(clips, tmp_path / "out", config, on="ray").finished)


# Runs the command and kills itself when so many segments have come back.
DRIVER = """
import os, signal, sys
from streamseg.recorded import file_job as filejob
left, keep = int(sys.argv[1]), filejob.keep_segment
def keep_segment(*args):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    return keep(*args)
filejob.keep_segment = keep_segment
sys.argv = ["streamseg", *sys.argv[2:]]
from streamseg.cli import main
main()
"""


def test_a_driver_that_was_killed_goes_on(
    cluster: Any,
    clips: list[Path],
    config: ProcessConfig,
    wanted: dict[str, bytes],
    tmp_path: Path,
) -> None:
    tables = tmp_path / "tables.toml"
    tables.write_text(
        "[zones.left]\npolygon = [[0, 0], [0.5, 0], [0.5, 1], [0, 1]]\n"
        '[events.red]\nzone = "left"\nclasses = ["red"]\nabove = 0.05\n'
    )
    options = ["--threads", "1", "--segment-frames", "6", "--confidence", "--on", "ray"]
    options += ["--zones", str(tables), "--polygons", "geojson"]
    arguments = [
        "process",
        str(clips[0]),
        "--out",
        str(tmp_path / "out"),
        "--engine",
        config.engine.name,
        *options,
    ]
    ran = subprocess.run(
        [sys.executable, "-c", DRIVER, "4", *arguments],
        env={**os.environ, "RAY_ADDRESS": cluster.address},
        capture_output=True,
        timeout=LIMIT_S,
    )
    assert ran.returncode == -signal.SIGKILL, ran.stderr
    events: list[Event] = []
    process_files([clips[0]], tmp_path / "out", config, on_event=events.append, on="ray")
    (started,) = [e for e in events if isinstance(e, Started)]
    assert started.done == 30
    assert contents(tmp_path / "out") == {k: v for k, v in wanted.items() if k.startswith("long")}


def test_a_worker_that_would_make_other_bytes_is_refused(
    cluster: Any, clips: list[Path], config: ProcessConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from streamseg.recorded import manifest

    monkeypatch.setattr(manifest, "versions", lambda: {"av": "0.1"})
    with pytest.raises(EngineError, match=r": av is .*, not 0\.1; install the same everywhere"):
        process_files([clips[1]], tmp_path, config, on="ray")


def test_an_address_that_is_none_is_told(clips: list[Path], config: ProcessConfig, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--on slurm: is not known; use ray or ray://HOST:PORT"):
        process_files(clips, tmp_path, config, on="slurm")


def test_a_cluster_that_does_not_answer_is_one_line(
    tiny_engine: Path, clips: list[Path], tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "streamseg", "process", str(clips[1]), "--out", str(tmp_path)]
    ran = subprocess.run(
        [*command, "--engine", str(tiny_engine), "--on", "ray"],
        env={**os.environ, "RAY_ADDRESS": "127.0.0.1"},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert ran.returncode == 2
    assert ran.stderr.splitlines()[-1].startswith(
        "streamseg: --on ray: Ray could not be reached or started ("
    )
