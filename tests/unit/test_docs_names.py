"""Documents, tools and benchmarks name files, modules and names that exist."""

from __future__ import annotations

import ast
import re
import tomllib
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [
    *ROOT.glob("*.md"),
    *ROOT.glob("docs/**/*.md"),
    *ROOT.glob("examples/*.md"),
    *ROOT.glob("engines/*/*.md"),
    *ROOT.glob("tools/**/*.md"),
]
FOLDERS = ("streamseg", "tests", "benchmarks", "tools", "configs", "examples", "engines", "docs", "systemd")
# Names that a reader's own files have, or that a command makes.
MADE = {"docs/architecture.svg", "engines/fields", "engines/mine"}


@cache
def _files() -> frozenset[str]:
    return frozenset(
        str(path.relative_to(ROOT))
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*")
        if "__pycache__" not in path.parts
    )


def _exists(name: str) -> bool:
    """Whether a file is there by this path, or by the end of one: `live/pipeline.py` is streamseg's."""
    name = name.rstrip("/")
    return name in MADE or (ROOT / name).exists() or any(path.endswith(f"/{name}") for path in _files())


OF_TODAY = [
    document for document in DOCUMENTS if document.name != "CHANGELOG.md"
]  # that names what there was


@pytest.mark.parametrize("document", OF_TODAY, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_that_a_document_names_exists(document: Path) -> None:
    text = document.read_text("utf-8")
    paths = re.findall(
        r"(?<![\w/.~-])((?:[\w-]+/)+[\w-]+\.(?:py|cpp|h|toml|service|conf)|[a-z_0-9]+\.py)\b", text
    )
    folders = re.findall(rf"(?<![\w/.])((?:{'|'.join(FOLDERS)})/[\w/]*/?)(?![\w.*<-])", text)
    missing = sorted({name for name in [*paths, *folders] if not _exists(name)})
    assert missing == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_module_that_a_document_names_exists(document: Path) -> None:
    text = document.read_text("utf-8")
    if document.name == "CHANGELOG.md":  # old names stand in the left column of tables and below 0.2.0
        text = re.sub(r"^\|[^|]*\|", "|", text[: text.index("## 0.1.0")], flags=re.MULTILINE)
        text = text.partition("### Removed")[0]
    names = set(re.findall(r"(?<![\w/.@-])((?:streamseg|benchmarks|tools)(?:\.[a-z_]+)+)(?![\w@-])", text))
    names = {name for name in names if not name.endswith((".mjs", ".service"))}
    missing = [name for name in sorted(names) if not _module_exists(name)]
    assert missing == []


@pytest.mark.parametrize("document", OF_TODAY, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_extra_and_make_target_that_a_document_names_exists(document: Path) -> None:
    text = document.read_text("utf-8")
    extras = re.findall(r"(?:streamseg|'\.)\[([a-z0-9,-]+)\]", text)
    targets = re.findall(r"`(?:\w+=\S+ )?make ([a-z-]+)", text)
    for block in re.findall(r"^ *```sh\n(.*?)^ *```$", text, re.DOTALL | re.MULTILINE):
        targets += re.findall(r"^ *make ([a-z-]+)", block, re.MULTILINE)
    known = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    made = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert {extra for several in extras for extra in several.split(",")} <= known.keys()
    assert set(targets) <= set(made)


@pytest.mark.parametrize(
    "script",
    [*ROOT.glob("tools/**/*.py"), *ROOT.glob("benchmarks/*.py"), *ROOT.glob("tests/**/*.py")],
    ids=str,
)
def test_every_name_that_a_script_imports_exists(script: Path) -> None:
    """Also those inside functions, which only a GPU reaches."""
    found = [
        node for node in ast.walk(ast.parse(script.read_text("utf-8"))) if isinstance(node, ast.ImportFrom)
    ]
    names = {
        f"{node.module}.{alias.name}"
        for node in found
        if node.module and node.module.split(".")[0] in ("streamseg", "tests", "tools", "benchmarks")
        for alias in node.names
    }
    assert [name for name in sorted(names) if not _module_exists(name)] == []


def _module_exists(name: str) -> bool:
    """Whether a dotted name is a module, or a name in one."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        path = ROOT.joinpath(*parts[:count])
        if path.with_suffix(".py").is_file() or (path / "__init__.py").is_file():
            source = path.with_suffix(".py") if path.with_suffix(".py").is_file() else path / "__init__.py"
            return count == len(parts) or bool(re.search(rf"\b{parts[count]}\b", source.read_text("utf-8")))
    return find_spec(parts[0]) is None
