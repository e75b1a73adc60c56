"""Draw the package's map, docs/architecture.svg, from its imports: python tools/map.py [OUT.svg].

A box is a package; it stands one row above the highest package that it imports. Lines lead from a package to
those that it imports, except where the way through another package says the same.
"""

from __future__ import annotations

import ast
import functools
import html
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "streamseg"
WIDTH, HEIGHT, GAP_X, GAP_Y, MARGIN = 200, 58, 36, 34, 16
WORDS = {
    "errors": "exceptions and exit codes",
    "types": "what travels: Frame, Logits, Mask and their stamp",
}

Imports = dict[str, set[str]]


def packages() -> list[str]:
    """The entries at the top of the package, without __init__ and __main__."""
    found = {path.parent.name for path in PACKAGE.glob("*/__init__.py")} | {
        p.stem for p in PACKAGE.glob("*.py")
    }
    return sorted(found - {"__init__", "__main__"})


def imports() -> Imports:
    """What each package imports from the others, also inside functions; not what only type checkers read."""
    found: Imports = {name: set() for name in packages()}
    for path in PACKAGE.rglob("*.py"):
        own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if own not in found:
            continue
        for name in _imported(ast.parse(path.read_text("utf-8"))):
            if name in found and name != own:
                found[own].add(name)
    return found


def _imported(node: ast.AST) -> set[str]:
    names: set[str] = set()
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and getattr(child.test, "id", "") == "TYPE_CHECKING":
            continue
        if isinstance(child, ast.ImportFrom) and child.module:
            first, _, rest = child.module.partition(".")
            if first == "streamseg":
                names |= {rest.partition(".")[0]} if rest else {alias.name for alias in child.names}
        elif isinstance(child, ast.Import):
            names |= {a.name.split(".")[1] for a in child.names if a.name.startswith("streamseg.")}
        names |= _imported(child)
    return names


def floors(graph: Imports) -> dict[str, int]:
    """The row of each package from below; raises ValueError for a cycle."""

    @functools.cache
    def floor(name: str, seen: tuple[str, ...] = ()) -> int:
        if name in seen:
            raise ValueError(f"import cycle: {' → '.join((*seen, name))}")
        return max((1 + floor(other, (*seen, name)) for other in graph[name]), default=0)

    return {name: floor(name) for name in graph}


def needed(graph: Imports) -> Imports:
    """The imports that do not follow from others."""

    @functools.cache
    def reached(name: str) -> frozenset[str]:
        return frozenset(graph[name]).union(*(reached(other) for other in graph[name]))

    return {
        name: {one for one in below if not any(one in reached(other) for other in below - {one})}
        for name, below in graph.items()
    }


def sentence(name: str) -> str:
    """What a package is for: the first line of its docstring."""
    path = PACKAGE / name / "__init__.py"
    if name in WORDS or not path.exists():
        return WORDS.get(name, "")
    text = (ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "").split("\n")[0]
    return text.rstrip(".")


def draw(graph: Imports) -> str:
    """The map as SVG; the same imports give the same bytes."""
    rows: dict[int, list[str]] = {}
    for name, floor in floors(graph).items():
        rows.setdefault(floor, []).append(name)
    widest = max(len(row) for row in rows.values())
    width = 2 * MARGIN + widest * (WIDTH + GAP_X) - GAP_X
    height = 2 * MARGIN + len(rows) * (HEIGHT + GAP_Y) - GAP_Y
    place = {}
    for floor, row in rows.items():
        left = (width - len(row) * (WIDTH + GAP_X) + GAP_X) / 2
        for column, name in enumerate(sorted(row)):
            place[name] = (
                left + column * (WIDTH + GAP_X),
                MARGIN + (len(rows) - 1 - floor) * (HEIGHT + GAP_Y),
            )
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif">',
        "<title>The packages of streamseg and what they import</title>",
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    for name, below in sorted(needed(graph).items()):
        for other in sorted(below):
            (x, y), (to_x, to_y) = place[name], place[other]
            x, to_x, y = x + WIDTH / 2, to_x + WIDTH / 2, y + HEIGHT
            lines.append(
                f'<path d="M{x:g} {y:g} C{x:g} {y + GAP_Y:g} {to_x:g} {to_y - GAP_Y:g} {to_x:g} {to_y:g}" '
                'fill="none" stroke="#8a94a3"/>'
            )
    for name, (x, y) in sorted(place.items()):
        lines.append(
            f'<rect x="{x:g}" y="{y:g}" width="{WIDTH}" height="{HEIGHT}" rx="5" fill="#eef3fa"'
            ' stroke="#4a6288"/>'
            f'<text x="{x + 8:g}" y="{y + 17:g}" font-size="13" font-weight="bold">{name}</text>'
        )
        words = textwrap.shorten(sentence(name), 96, placeholder=" …")
        for number, text in enumerate(textwrap.wrap(words, 34)[:3]):
            lines.append(
                f'<text x="{x + 8:g}" y="{y + 30 + 11 * number:g}" font-size="9.5">{html.escape(text)}</text>'
            )
    return "\n".join([*lines, "</svg>", ""])


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs/architecture.svg"
    target.write_text(draw(imports()), "utf-8")
