"""The fenced blocks of the documents, and what is done with each command in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from textwrap import dedent

from tests.integration.children import ROOT

DOCUMENTS = [
    "README.md",
    "examples/README.md",
    *sorted(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md")),
]

# Commands that cannot be run by a test, by how they begin, with the reason.
NOT_RUN = {
    "sudo ": "needs root and changes the machine; tests/integration/test_systemd.py boots one",
    "systemctl ": "needs a running systemd; tests/integration/test_systemd.py",
    "journalctl ": "needs a running systemd; tests/integration/test_systemd.py",
    "/opt/streamseg/bin/": "needs the service's own installation; tests/integration/test_systemd.py",
    "make ": "sets up an environment of its own; what it runs is run by test_the_makefile_runs_these",
    "pip install": "changes the environment that the tests run in",
    "npm install": "tests/integration/test_foreign_clients.py does it",
    "node ": "tests/integration/test_foreign_clients.py runs both",
    "g++ ": "tests/integration/test_foreign_clients.py does it",
    "./subscribe": "tests/integration/test_foreign_clients.py runs it",
    "cd examples/": "the commands behind it are run in test_foreign_clients.py",
    "streamseg forward ": "needs a broker; tests/integration/test_forward.py",
    "mosquitto": "needs a broker; tests/integration/test_forward.py",
    "echo 'gate": "needs root; tests/integration/test_systemd.py",
    "streamseg ctl --endpoint": "needs another machine; tests/integration/test_control.py has the keys",
    "streamseg relay": "needs two daemons; tests/integration/test_relay.py",
    "streamseg engine export runs/camvid-slim/": "needs the checkpoint of the default engine",
    "streamseg eval --engine runs/camvid-slim": "needs the checkpoint of the default engine",
    "streamseg process s3://": "needs an object store; tests/integration/test_process_storage.py has one",
    "curl --data-binary": "needs a console; tests/integration/test_web_segment.py has one",
    "streamseg capacity ": "measures sources that are not here; tests/integration/test_capacity.py",
    "python tools/scaling.py small.json": "needs what capacity has measured; tests/unit has the tool",
    "scp ": "needs another machine",
    "streamseg train --recipe configs/train-ablation": "takes an hour; tests/unit trains small networks",
    "streamseg train --recipe configs/train-camvid-lite": "takes hours; tests/unit trains small networks",
    "streamseg engine export runs/deeplab/": "needs the checkpoint of that training",
    "streamseg eval --engine runs/deeplab-engine": "needs the engine of that training",
    "export AWS_": "names an object store that is not here",
    "RAY_ADDRESS=": "needs a Ray cluster; tests/integration/test_process_ray.py starts one",
    "streamseg model fetch": "downloads published weights",
    "streamseg run --engine deeplabv3": "downloads published weights; tests/unit has what it fetches",
    "streamseg eval --engine deeplabv3-mobilenet": "needs weights that are downloaded",
}

# Commands that take long: run by make soak.
LONG = (
    "streamseg bench ",
    "python -m benchmarks.",
    "streamseg eval --engine camvid-",
)

# Documents of which everything takes long.
LONG_DOCUMENTS = ("docs/recorded.md", "docs/training.md")

# Commands that go on until they are interrupted, with what they say when they work.
GOES_ON = {
    "streamseg run configs/": r"publishing on",
    "streamseg run --source demo: --loop": r"publishing on",
    "streamseg watch ": r" fps: ",
    "streamseg subscribe ": r"\{|fps: ",
    "python examples/subscribe": r"^\w+ \d+ ",
}


@dataclass(frozen=True)
class Block:
    document: str
    line: int
    language: str
    text: str

    @property
    def name(self) -> str:
        return f"{self.document}:{self.line}"


def blocks(document: str) -> Iterator[Block]:
    """The fenced blocks that name a language."""
    text = (ROOT / document).read_text("utf-8")
    for found in re.finditer(r"^( *)```(\w+)\n(.*?)^\1```$", text, re.M | re.S):
        yield Block(document, text.count("\n", 0, found.start()) + 1, found[2], dedent(found[3]))


def commands(block: Block) -> Iterator[str]:
    """The commands of a sh block, without their comments."""
    for line in block.text.replace("\\\n", " ").splitlines():
        command = re.sub(r"(^|\s+)#.*", "", line).strip()
        if command:
            yield command


def fate(command: str) -> str:
    """ends, goes on, long, or the reason why it is not run."""
    for beginning, why in NOT_RUN.items():
        if command.startswith(beginning):
            return why
    if command.startswith(LONG):
        return "long"
    return "goes on" if command.startswith(tuple(GOES_ON)) else "ends"
