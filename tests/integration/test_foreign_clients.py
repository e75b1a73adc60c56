"""The clients in other languages under examples/: every vector, and a live stream through a restart."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from streamseg.config import PublishConfig
from streamseg.publish import Publisher
from tests.integration.children import ROOT
from tests.integration.daemons import Lines, run_daemon
from tests.masks import STREET, make_mask
from tests.media import draw_clip
from tests.once import one_at_a_time
from tests.ports import free_port
from tests.waiting import LIMIT_S

EXAMPLES = ROOT / "examples"
VECTORS = [*sorted((ROOT / "tests/vectors").glob("*.bin")), ROOT / "tests/vectors/scaled.json"]
PACKAGES = "apt-get install g++ libzmq3-dev cppzmq-dev nlohmann-json3-dev libzstd-dev libpng-dev"


def node_folder() -> Path:
    """examples/node with what npm installs for it, kept under build/; skips where that cannot be had."""
    for tool in ("node", "npm"):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool} here: apt-get install nodejs npm")
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout
    if tuple(map(int, version.strip("v\n").split("."))) < (20, 15):
        pytest.skip(f"Node.js is {version.strip()}; the example needs 20.15")
    folder = ROOT / "build/node-client"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(EXAMPLES / "node", folder, dirs_exist_ok=True, ignore=lambda *_: {"node_modules"})
    if not (folder / "node_modules/zeromq").is_dir():
        install = ["npm", "install", "--no-audit", "--no-fund", "--loglevel=error"]
        done = subprocess.run(
            install, cwd=folder, capture_output=True, text=True, timeout=2 * LIMIT_S, check=False
        )
        if done.returncode:
            pytest.skip(f"npm install: {done.stderr.strip()[-200:]}")
    return folder


def compiled(program: str) -> Path:
    """A program of examples/cpp, compiled under build/ as its README says."""
    if shutil.which("g++") is None:
        pytest.skip("no g++ here")
    for header in ("zmq.hpp", "nlohmann/json.hpp", "zstd.h", "png.h"):
        if not Path("/usr/include", header).exists():
            pytest.skip(f"no {header} here: {PACKAGES}")
    folder = ROOT / "build/cpp-client"
    folder.mkdir(parents=True, exist_ok=True)
    made = folder / program
    written = max(path.stat().st_mtime for path in (EXAMPLES / "cpp").iterdir())
    if not made.exists() or made.stat().st_mtime < written:
        libraries = ["-lzmq", "-lzstd", "-lpng", "-pthread"]
        compiler = ["g++", "-std=c++17", "-Wall", "-Wextra", "-Werror", f"{program}.cpp", "-o", str(made)]
        subprocess.run([*compiler, *libraries], cwd=EXAMPLES / "cpp", timeout=2 * LIMIT_S, check=True)
    return made


def program(language: str, name: str) -> list[str]:
    (ROOT / "build").mkdir(exist_ok=True)
    with one_at_a_time(ROOT / "build/clients.lock"):
        if language == "node":
            return ["node", str(node_folder() / f"{name}.mjs")]
        return [str(compiled(name))]


LANGUAGES = pytest.mark.parametrize("language", ["node", "cpp"])


def plain(value: Any) -> Any:
    """What is compared: without the version and the rle's segments, which the vectors' form leaves out."""
    if isinstance(value, list):
        return [plain(one) for one in value]
    if isinstance(value, dict):
        left_out = ("version", "segments", "weather")
        return {name: plain(field) for name, field in value.items() if name not in left_out}
    return value


@LANGUAGES
def test_every_vector_is_read_as_it_says(language: str) -> None:
    done = subprocess.run(
        [*program(language, "vectors"), *map(str, VECTORS)],
        capture_output=True, text=True, timeout=LIMIT_S, check=True,
    )  # fmt: skip
    output = {line["name"]: line["output"] for line in map(json.loads, done.stdout.splitlines())}
    assert set(output) == {path.stem for path in VECTORS}
    for path in VECTORS:
        assert plain(output[path.stem]) == json.loads(path.with_suffix(".json").read_text()), path.stem


@LANGUAGES
def test_a_live_stream_is_followed_through_a_restart_of_the_daemon(
    language: str, tiny_engine: Path, tmp_path: Path
) -> None:
    clip = draw_clip(tmp_path / "red.mp4", frames=30)
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    words = ("--source", clip, "--engine", tiny_engine, "--realtime", "--loop", "--endpoint", endpoint)
    with Lines([*program(language, "subscribe"), endpoint]) as client:
        with run_daemon(*words) as first:
            before = [json.loads(client.more(i)) for i in range(20)]
            first.kill()
        seen = len(client.lines)
        with run_daemon(*words):
            later = [json.loads(client.more(i)) for i in range(seen, seen + 30)]
    assert {mask["run"] for mask in before} == {before[0]["run"]}
    after = [mask for mask in later if mask["run"] != before[0]["run"]]
    assert len({mask["run"] for mask in after}) == 1
    for masks in (before, after):
        assert [m["n"] for m in masks] == sorted({m["n"] for m in masks})
    assert after[-1]["stats"]["restarts"] == 1
    assert after[-1]["stats"]["bad"] == 0
    for mask in (before[-1], after[-1]):
        assert mask["shape"] == [48, 64]
        assert set(mask["shares"]) <= {"other", "red"}
        assert abs(mask["shares"].get("red", 0) - (mask["seq"] + 1) / 30) < 0.08
        assert 0 <= mask["age_s"] < LIMIT_S


@LANGUAGES
def test_a_slow_reader_gets_the_newest_mask(language: str, tiny_engine: Path, tmp_path: Path) -> None:
    clip = draw_clip(tmp_path / "red.mp4", frames=30)
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    words = ("--source", clip, "--engine", tiny_engine, "--realtime", "--loop", "--endpoint", endpoint)
    with run_daemon(*words), Lines([*program(language, "subscribe"), endpoint, "600"]) as client:
        masks = [json.loads(client.more(i)) for i in range(6)]
        while masks[-1]["stats"]["skipped"] < 20:  # of 25 in a second fewer than two are read
            assert len(masks) < 60
            masks.append(json.loads(client.more(len(masks))))
    assert masks[-1]["stats"]["lost"] == 0
    # In order they would be a second older with each two masks. The newest is as old as the machine is slow.
    assert min(mask["age_s"] for mask in masks[2:]) < 0.6


@LANGUAGES
def test_an_unchanged_frame_is_given_with_the_labels_that_hold(language: str) -> None:
    config = PublishConfig(endpoint=f"tcp://127.0.0.1:{free_port()}")
    frames = [(5, None), (6, 5), (9, 5), (10, None), (11, 10)]
    with Publisher(config, [STREET]) as publisher:
        words = [*program(language, "subscribe"), publisher.endpoint]
        with Lines(words) as client:
            assert publisher.wait_wanted("mask", "gate", LIMIT_S)
            assert publisher.wait_wanted("same", "gate", LIMIT_S)
            read = []
            for i, (seq, same_as) in enumerate(frames):
                publisher.put(make_mask(seq, same_as=same_as))
                read.append(json.loads(client.more(i)))
            publisher.put(make_mask(12, same_as=10, epoch=1))  # published whole: its mask was in epoch 0
            read.append(json.loads(client.more(len(frames))))
        assert [(m["seq"], m["n"], m.get("same_as")) for m in read] == [
            (5, 0, None), (6, 0, 5), (9, 0, 5), (10, 1, None), (11, 1, 10), (12, 2, None),
        ]  # fmt: skip
        assert read[0]["shares"] == read[1]["shares"] == read[2]["shares"] != read[3]["shares"]
        assert (
            read[-1]["stats"].items()
            >= {"unchanged": 3, "skipped": 0, "lost": 0, "restarts": 0, "bad": 0}.items()
        )
        assert all(0 <= m["age_s"] < LIMIT_S for m in read)
        publisher.put(make_mask(20))
        publisher.put(make_mask(21, same_as=20))
        with Lines(words) as late:  # the snapshot has the mask, and the last unchanged frame behind it
            lines = (json.loads(late.more(i)) for i in range(2))
            assert any((m["seq"], m.get("same_as")) == (21, 20) for m in lines)
