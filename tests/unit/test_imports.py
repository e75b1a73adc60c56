"""The package stays light where it must, and its imports go one way."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import streamseg

PACKAGE = Path(streamseg.__file__).parent

# The packages, in order: a module imports from its own and from those before it, never from those after it.
ORDER = [
    "errors",
    "types",
    "config",
    "runtime",
    "wire",
    "net",
    "sources",
    "crf",
    "inference",
    "models",
    "refinement",
    "outputs",
    "publish",
    "client",
    "live",
    "recorded",
    "web",
    "daemon",
    "relay",
    "evaluation",
    "training",
    "bench",
    "cli",
]


@pytest.mark.parametrize(
    "module", ["streamseg", "streamseg.client", "streamseg.wire", "streamseg.config", "streamseg.cli.process"]
)
def test_a_light_module_loads_nothing_heavy(module: str) -> None:
    code = (
        f"import sys, {module}; print(*({{'torch', 'av', 'cv2', 'onnxruntime', 'onnx'}} & set(sys.modules)))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert loaded.split() == []


def test_every_public_name_can_be_had() -> None:
    for name in streamseg.__all__:
        assert getattr(streamseg, name) is not None


def test_every_module_has_its_place_in_the_route() -> None:
    found = {p.stem for p in PACKAGE.glob("*.py")} | {p.parent.name for p in PACKAGE.glob("*/__init__.py")}
    assert found - {"__init__", "__main__"} - set(ORDER) == set()


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if room in ("__init__", "__main__"):
        return
    for node in ast.walk(ast.parse(path.read_text())):
        names = [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        names += [a.name for a in node.names] if isinstance(node, ast.Import) else []
        for name in names:
            parts = name.split(".")
            if parts[0] == "streamseg" and len(parts) > 1:
                assert ORDER.index(parts[1]) <= ORDER.index(room), (
                    f"line {node.lineno}: {room} imports {name}"
                )
