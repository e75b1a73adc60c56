"""The package keeps its shape: few rooms, small modules, imports that go one way, light where it must be."""

from __future__ import annotations

import ast
import functools
import json
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import streamseg
from streamseg.cli import COMMANDS

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
    "analytics",
    "outputs",
    "publish",
    "client",
    "live",
    "recorded",
    "web",
    "daemon",
    "relay",
    "forward",
    "evaluation",
    "training",
    "bench",
    "cli",
]
MOST_ENTRIES, MOST_ROOMS, MOST_LINES = 28, 30, 350

HEAVY = {"torch", "av", "cv2", "onnxruntime", "onnx"}
LIGHT = [
    "streamseg",
    "streamseg.types.sizes",
    "streamseg.client",
    "streamseg.wire",
    "streamseg.config",
    "streamseg.cli",
]
LOOK = """
import contextlib, importlib, io, json, sys
light, commands, heavy = json.loads(sys.argv[1])
found = []
seen = set()
def look(what):
    for name in sorted(set(heavy) & set(sys.modules) - seen):
        found.append(f"{what} loads {name}")
        seen.add(name)
for module in light:
    importlib.import_module(module)
    look(f"import {module}")
for command in commands:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        sys.modules["streamseg.cli"].cli.main([command, "--help"], prog_name="streamseg")
    look(f"streamseg {command} --help")
print(json.dumps(found))
"""


@functools.cache
def modules() -> dict[str, Path]:
    """Every module of the package, by its name without the first `streamseg`; that itself is ''."""
    names = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


@functools.cache
def imports() -> dict[str, dict[str, int]]:
    """The modules that each one imports, in functions too but not for types alone, with the line of it."""
    found: dict[str, dict[str, int]] = {}
    for module, path in modules().items():
        lines = found.setdefault(module, {})
        for node in running(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}:{node.lineno}: a relative import"
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                continue
            for name in names:
                first, _, inside = name.partition(".")
                if first == "streamseg" and inside:
                    target = inside if inside in modules() else inside.rpartition(".")[0]
                    lines.setdefault(target, node.lineno)
        lines.pop(module, None)
    return found


def running(node: ast.AST) -> Iterator[ast.AST]:
    """What is below a node, without what stands under `if TYPE_CHECKING:`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and getattr(child.test, "id", "") == "TYPE_CHECKING":
            continue
        yield child
        yield from running(child)


def test_what_a_light_start_needs_loads_nothing_heavy() -> None:
    """Importing the client and showing a command's help; in one process, one after the other."""
    wanted = json.dumps([LIGHT, list(COMMANDS), sorted(HEAVY)])
    done = subprocess.run([sys.executable, "-c", LOOK, wanted], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


def test_every_public_name_can_be_had() -> None:
    for name in streamseg.__all__:
        assert getattr(streamseg, name) is not None


def test_every_module_has_its_place_in_the_route() -> None:
    found = {name.partition(".")[0] for name in modules()} - {"", "__main__"}
    assert found == set(ORDER)


def test_the_top_of_the_package_stays_short() -> None:
    entries = [path.name for path in PACKAGE.iterdir() if path.name not in ("__pycache__", "py.typed")]
    assert len(entries) <= MOST_ENTRIES, sorted(entries)
    rooms = {name.rpartition(".")[0] or name for name in modules()} - {"", "__main__"}
    assert len(rooms) <= MOST_ROOMS, sorted(rooms)


def test_a_module_is_what_one_person_can_hold_in_mind() -> None:
    lines = {path: len(path.read_text().splitlines()) for path in modules().values()}
    assert [f"{path}: {count}" for path, count in lines.items() if count > MOST_LINES] == []


def test_imports_go_one_way() -> None:
    wrong = []
    for module, targets in imports().items():
        room = module.partition(".")[0]
        if room in ("", "__main__"):
            continue
        for target, line in targets.items():
            if target and ORDER.index(target.partition(".")[0]) > ORDER.index(room):
                wrong.append(f"{modules()[module]}:{line}: {room} imports {target}")
    assert wrong == []


def test_no_modules_import_one_another() -> None:
    graph = {module: set(targets) - {""} for module, targets in imports().items() if module}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError(" <- ".join(error.args[1])) from None


# Unit tests of what is no module of ours: the package's shape, the wire's vectors, the tests' own engine,
# a property of all networks, names in documents.
NO_MODULE = {"imports", "vectors", "tiny_engine", "models_dilation", "docs_names"}


def test_unit_tests_are_named_after_their_modules() -> None:
    """test_cache.py or test_plans_cache.py for plans/cache.py: the end of its path, as long as it takes."""
    checkout = Path(__file__).resolve().parents[2]
    names = set(NO_MODULE)
    for top in ("streamseg", "benchmarks", "tools"):
        for path in (checkout / top).rglob("*.py"):
            parts = path.relative_to(checkout).with_suffix("").parts
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            names |= {"_".join(parts[i:]) for i in range(len(parts))}
    tests = {path.stem.removeprefix("test_") for path in Path(__file__).parent.glob("test_*.py")}
    assert tests - names == set()
