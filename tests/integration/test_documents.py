"""Every command and snippet of the README and the documents does what it says, in a scratch folder."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import tomllib
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import cv2
import numpy as np
import pytest

from streamseg.config import PublishConfig, build_settings, parse_config
from streamseg.forward.settings import ForwardConfig
from streamseg.inference.spec import parse_spec
from streamseg.publish import Publisher
from streamseg.training.recipe import TrainRecipe
from tests.foreign import graph_of
from tests.integration.children import ROOT
from tests.integration.daemons import environment, run_daemon
from tests.integration.documents import (
    DOCUMENTS,
    GOES_ON,
    LONG_DOCUMENTS,
    NOT_RUN,
    Block,
    blocks,
    commands,
    fate,
)
from tests.masks import STREET, make_mask
from tests.media import draw_clip
from tests.ports import free_port
from tests.waiting import LIMIT_S, until

# Small things in place of large ones, in commands and snippets.
SMALLER = {
    "epochs = 200": "epochs = 2\nbatch_size = 4\nwidth = 12\nthreads = 1",
    "input_size = [360, 480]": "input_size = [64, 96]",
    "video overlay.mp4 100": "gate overlay.mp4 5",
    "--leave-out north --leave-out south": "--leave-out 0 --leave-out 1",
    "--teacher ENGINE": "--teacher camvid-slim",
    "compare camvid-lite mine": "compare camvid-lite camvid-slim",  # whose classes have names in common
    "streamseg ctl pause gate": "streamseg ctl pause gate && streamseg ctl resume gate",
}
CROPS = "\n[augment]\ncrop_size = [64, 96]\n"
COMMAND_S = 240  # for one command on a machine that does much else; each takes a few seconds
FIELDS = {"ground": (90, 90, 90), "sky": (0, 0, 255), "post": (255, 0, 0)}


class Reader:
    """A folder in which somebody types what a document says, with a daemon at hand."""

    def __init__(self, folder: Path, live: str) -> None:
        self.folder, self.live = folder, live
        self.owned = ExitStack()
        self._draw()

    def type(self, command: str, *, goes_on: str = "") -> None:
        """Run a command to its end; or until it says `goes_on`, and interrupt it then."""
        python = sys.executable
        typed = "\n".join(
            [
                f'streamseg() {{ {python} -m streamseg "$@"; }}',
                f'python() {{ {python} "$@"; }}',
                self.here(command),
            ]
        )
        process = subprocess.Popen(
            ["bash", "-c", typed],
            cwd=self.folder, env=self.environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
        assert process.stdout is not None
        watchdog = threading.Timer(COMMAND_S, os.killpg, (process.pid, signal.SIGKILL))
        watchdog.start()
        said: list[str] = []
        try:
            for line in process.stdout:
                said.append(line)
                if goes_on and re.search(goes_on, line):
                    os.killpg(process.pid, signal.SIGINT)
                    process.communicate(timeout=LIMIT_S)
                    return
            assert not goes_on, f"{command}: ended: {''.join(said[-20:])}"
            assert process.wait() == 0, f"{command}: {''.join(said[-20:])}"
        finally:
            watchdog.cancel()
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            process.stdout.close()

    def environment(self) -> dict[str, str]:
        here = {
            "CAMVID": self.folder / "camvid",
            "STREAMSEG_ENGINES": self.folder / "engines",
            "XDG_CACHE_HOME": Path.home() / ".cache",  # as documents write it
        }
        return environment() | {name: str(path) for name, path in here.items()}

    def here(self, text: str) -> str:
        """What a document says, with this place's addresses and small things in it."""
        for large, small in SMALLER.items():
            text = text.replace(large, small)
        if "tcp://HOST:5570" in text:
            text = text.replace("tcp://HOST:5570", self.secured())
        text = text.replace("tcp://127.0.0.1:5570", self.live).replace("--data DATA", "--data camvid/val")
        text = re.sub(r"^(streamseg run .*--web)$", rf"\1 127.0.0.1:{free_port()}", text)
        return re.sub(r"^streamseg run --source.*", r"\g<0> --endpoint tcp://127.0.0.1:0", text)

    def secured(self) -> str:
        """A publisher with the keys that the document has made."""
        config = PublishConfig(
            endpoint="tcp://127.0.0.1:*",
            curve_secret_key_file=str(self.folder / "site.key"),
            allowed_clients=str(self.folder / "robot.pub"),
        )
        publisher = self.owned.enter_context(Publisher(config, [STREET]))
        publisher.put(make_mask())
        return publisher.endpoint

    def _draw(self) -> None:
        draw_clip(self.folder / "street.mp4", frames=12, size=(96, 128))
        cv2.imwrite(str(self.folder / "street.jpg"), np.full((96, 128, 3), 90, np.uint8))
        (self.folder / "net.onnx").write_bytes(graph_of(stride=4))
        for name in ("drive.mp4", "day1.mp4", "archive/a.mp4", "cam1/2024-05.mkv"):
            (self.folder / name).parent.mkdir(exist_ok=True)
            shutil.copy(self.folder / "street.mp4", self.folder / name)
        shutil.copytree(ROOT / "examples", self.folder / "examples")
        (self.folder / "benchmarks").symlink_to(ROOT / "benchmarks")
        shutil.copytree(ROOT / "engines", self.folder / "engines")  # which --tune-crf writes into
        (self.folder / "configs").mkdir()
        for path in (ROOT / "configs").glob("*.toml"):
            text = path.read_text().replace(":5570", f":{free_port()}")
            (self.folder / "configs" / path.name).write_text(text)
        (self.folder / "site.toml").write_text(
            '[streams.gate]\nsource = "street.mp4"\n[publish]\nendpoint = "tcp://127.0.0.1:0"\n'
        )
        for part in ("train", "val"):
            draw_set(self.folder / "camvid" / part, size=(96, 128), classes=11, count=3)
            draw_set(self.folder / "fields" / part, size=(64, 96), classes=3, count=8)
        (self.folder / "coloured").mkdir()
        for path in (self.folder / "fields/train/labels").glob("*.png"):
            rgb = np.array(list(FIELDS.values()), np.uint8)[cv2.imread(str(path), cv2.IMREAD_UNCHANGED)]
            cv2.imwrite(str(self.folder / "coloured" / path.name), rgb[..., ::-1])


def draw_set(folder: Path, *, size: tuple[int, int], classes: int, count: int) -> None:
    """Pictures of stripes, and their labels."""
    rng = np.random.default_rng(0)
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    colours = rng.integers(0, 255, (classes, 3))
    for i in range(count):
        edges = np.sort(rng.integers(0, size[1], classes - 1))
        labels = np.broadcast_to(np.searchsorted(edges, np.arange(size[1])), size).astype(np.uint8)
        noisy = np.clip(colours[labels] + rng.normal(0, 9, (*size, 3)), 0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / f"images/{i}.png"), noisy)
        cv2.imwrite(str(folder / f"labels/{i}.png"), labels)


@pytest.fixture(scope="module")
def live(tiny_engine: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The only daemon of this user, as far as the commands that are tried can see."""
    folder = tmp_path_factory.mktemp("live")
    clip = draw_clip(folder / "red.mp4", frames=30)
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    config = folder / "live.toml"
    config.write_text(
        f'[engine]\nname = "{tiny_engine}"\n[publish]\nendpoint = "{endpoint}"\n'
        f'[streams.gate]\nsource = "{clip}"\nrealtime = true\nloop = true\n[refinement]\nlevel = "live"\n'
    )
    runtime = folder / "run"
    runtime.mkdir(mode=0o700)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(runtime))
        with run_daemon(config):
            yield endpoint


def read(document: str, reader: Reader, *, long: bool) -> int:
    """Do what a document says, in its order; how many things were done."""
    done = 0
    wanted = ("long",) if long else ("ends", "goes on")
    if document in LONG_DOCUMENTS:
        wanted = ("ends", "goes on", "long") if long else ()
    for block in blocks(document):
        if block.language == "sh":
            for command in commands(block):
                if fate(command) not in wanted:
                    continue
                text = next((t for start, t in GOES_ON.items() if command.startswith(start)), "")
                reader.type(command, goes_on=text)
                done += 1
        elif "ends" in wanted:
            done += SNIPPETS[block.language](block, reader)
    return done


def run_python(block: Block, reader: Reader) -> int:
    script = reader.folder / "snippet.py"
    script.write_text(reader.here(block.text))
    forever = "for mask in masks" in block.text and "subscribe" in block.text
    reader.type(f"python {script}", goes_on=r"^\w+ \d+ " if forever else "")
    return 1


def read_toml(block: Block, reader: Reader) -> int:
    tree = tomllib.loads(block.text)
    if "label_set" in tree and "epochs" not in tree:
        assert parse_spec(block.text, reader.folder).classes
    elif "classes" in tree:  # the recipe of docs/training.md
        (reader.folder / "fields.toml").write_text(reader.here(block.text) + CROPS)
    elif tree.keys() <= set(TrainRecipe.__struct_fields__):  # changes to it
        build_settings(TrainRecipe, tree)
    elif tree.keys() == {"zones", "events"}:  # docs/recorded.md
        (reader.folder / "lane.toml").write_text(block.text)
        stream = re.sub(r"^\[(zones|events)", r"[streams.gate.\1", block.text, flags=re.M)
        (reader.folder / "cameras.toml").write_text(f'[streams.gate]\nsource = "street.mp4"\n{stream}')
    elif tree.keys() & {"mqtt", "webhook", "kafka", "file", "apprise"}:  # docs/integrations.md
        build_settings(ForwardConfig, tree)
    else:
        streams = "" if "streams" in tree else '\n[streams.gate]\nsource = "demo:"\n'
        parse_config(block.text + streams)
    return 1


def read_yaml(block: Block, _: Reader) -> int:
    yaml = pytest.importorskip("yaml")
    assert yaml.safe_load(block.text)
    return 1


def read_nginx(block: Block, reader: Reader) -> int:
    """Checked by nginx where it is installed; by their form elsewhere."""
    assert block.text.count("{") == block.text.count("}")
    for line in filter(None, map(str.strip, block.text.splitlines())):
        assert line.endswith((";", "{", "}")), line
    if nginx := shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin"):
        kept = "".join(
            f"{kind}_temp_path t;" for kind in ("proxy", "client_body", "fastcgi", "uwsgi", "scgi")
        )
        config = reader.folder / "nginx.conf"
        config.write_text(
            f"pid pid; error_log stderr; events {{}} http {{ access_log off; {kept} "
            f"server {{ listen 127.0.0.1:{free_port()}; {block.text} }} }}"
        )
        subprocess.run([nginx, "-t", "-p", reader.folder, "-c", config], check=True, timeout=LIMIT_S)
    return 1


SNIPPETS = {"python": run_python, "toml": read_toml, "yaml": read_yaml, "nginx": read_nginx}


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "document",
    ["README.md", *(pytest.param(d, marks=pytest.mark.slow) for d in DOCUMENTS if d != "README.md")],
)
def test_what_a_document_says_works(
    document: str, live: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    reader = Reader(tmp_path, live)
    with reader.owned:
        done = read(document, reader, long=False)
    if document in ("README.md", "docs/operating.md", "examples/README.md"):
        assert done > 2


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("document", DOCUMENTS)
def test_what_a_document_says_works_where_it_takes_long(
    document: str, live: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    reader = Reader(tmp_path, live)
    with reader.owned:
        done = read(document, reader, long=True)
    assert done > 2 or document not in LONG_DOCUMENTS


def test_each_block_is_of_a_language_that_is_tried() -> None:
    for document in DOCUMENTS:
        for block in blocks(document):
            assert block.language in ("sh", *SNIPPETS), block.name


def test_each_exception_has_a_reason_and_a_use() -> None:
    used = [command for d in DOCUMENTS for b in blocks(d) if b.language == "sh" for command in commands(b)]
    for beginning in (*NOT_RUN, *GOES_ON):
        assert any(command.startswith(beginning) for command in used), beginning
    for why in NOT_RUN.values():
        assert len(why) > 10
        for name in re.findall(r"tests/\S+\.py|test_\w+\.py", why):
            assert (ROOT / "tests/integration" / Path(name).name).exists(), name
    assert sum(fate(c) in ("ends", "goes on", "long") for c in used) > 20


def test_the_makefile_runs_these(tmp_path: Path) -> None:
    """`make run` is this command; it is run for real, at free ports, until the page and a mask can be had."""
    if shutil.which("make") is None:
        pytest.skip("no make here")
    made = subprocess.run(
        ["make", "--no-print-directory", "-n", "run"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    command = made.stdout.strip().splitlines()[-1].strip()
    assert command.startswith(".venv/bin/streamseg run --source 'demo:' --realtime --loop --watch")
    pytest.importorskip("aiohttp")
    page, masks = f"127.0.0.1:{free_port()}", f"tcp://127.0.0.1:{free_port()}"
    words = ["--source", "demo:", "--realtime", "--loop", "--watch", "--web", page, "--endpoint", masks]
    with run_daemon(*words):

        def shown() -> bytes:
            with suppress(OSError), urllib.request.urlopen(f"http://{page}/", timeout=5) as answer:
                assert answer.status == 200
                return bytes(answer.read())
            return b""

        assert b"<html" in until(shown, "the page").lower()
