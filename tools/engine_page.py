"""The tables of docs/engines.md, written from the classes that read engine.toml.

python tools/engine_page.py
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import msgspec

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from streamseg.config import Settings, describe, settings_fields
from streamseg.inference.spec import ClassEntry, EngineSpec, Normalisation, Weights

PAGE = Path(__file__).resolve().parents[1] / "docs/engines.md"
BEGIN, END = "<!-- settings: python tools/engine_page.py -->\n", "<!-- end of settings -->\n"
_TABLES: dict[str, type[Settings]] = {
    "`engine.toml`": EngineSpec,
    "`[normalisation]`": Normalisation,
    "`[weights.fp32]`, `[weights.int8]`": Weights,
    "`[[classes]]`": ClassEntry,
}
_INNER = {"normalisation", "weights", "classes", "crf"}


def tables() -> str:
    """A table for each part of engine.toml: key, value, default, sentence."""
    parts = []
    for title, kind in _TABLES.items():
        rows = [f"| {title} | value | default | |", "|---|---|---|---|"]
        for name, annotation, default, sentence in settings_fields(kind):
            if kind is EngineSpec and name in _INNER:
                continue
            value = "names with their SHA-256" if default == {} else describe(annotation).partition(" (")[0]
            rows.append(f"| `{name}` | {value} | {_shown(default)} | {sentence} |")
        parts.append("\n".join(rows))
    return "\n\n".join(parts) + "\n"


def page(text: str) -> str:
    """The page with its tables written again."""
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n{tables()}\n{END}{rest.partition(END)[2]}"


def _shown(default: object) -> str:
    if default is msgspec.NODEFAULT:
        return "must be set"
    if default in (None, "", {}):
        return "unset"
    return f"`{json.dumps(default)}`"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text("utf-8")), "utf-8")
