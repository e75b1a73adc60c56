"""configs/reference.toml: every setting with its default, type and sentence, written from the settings.

python -m streamseg.config.reference > configs/reference.toml
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, get_args, get_origin

import msgspec

from streamseg.config import Config, Settings, bare_type, describe, settings_fields

Examples = Mapping[str, tuple[str, Mapping[str, Any]]]

_EXAMPLES: Examples = {
    "streams": ("gate", {"source": "rtsp://10.0.0.7/h264"}),
    "engines": ("fine", {"name": "camvid-slim"}),
    "zones": ("ramp", {"polygon": [[0.1, 0.5], [0.9, 0.5], [0.9, 1.0], [0.1, 1.0]]}),
    "events": ("flood", {"zone": "ramp", "classes": ["water"], "above": 0.3}),
}


def reference_toml() -> str:
    """The text of configs/reference.toml."""
    head = "Every setting of streamseg, with its default. Made by: python -m streamseg.config.reference"
    return reference_of(Config, head, _EXAMPLES)


def reference_of(kind: type[Settings], head: str, examples: Examples) -> str:
    """Every setting of `kind`; examples: a name and values for each table of tables, by its key."""
    return "\n".join([f"# {head}", *_table(kind, "", {}, examples)]) + "\n"


def _table(kind: type[Settings], prefix: str, values: Mapping[str, Any], examples: Examples) -> Iterator[str]:
    tables = []
    for name, annotation, default, sentence in settings_fields(kind):
        bare = bare_type(annotation)
        if get_origin(bare) is dict and name in examples:
            example, given = examples[name]
            tables.append((f"{prefix}{name}.{example}", get_args(bare)[1], given))
        elif isinstance(bare, type) and issubclass(bare, Settings):
            tables.append((f"{prefix}{name}", bare, {}))
        else:
            yield ""
            yield from _comment(
                f"{sentence} ({describe(annotation)})" if "(" not in describe(annotation) else sentence
            )
            value = values.get(name, default)
            unset = value is None or value is msgspec.NODEFAULT
            yield f"# {name} =" if unset else f"{name} = {_literal(value)}"
    for path, inner, given in tables:
        yield ""
        yield from _comment((inner.__doc__ or "").splitlines()[0])
        yield f"[{path}]"
        yield from _table(inner, f"{path}.", given, examples)


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, 100, initial_indent="# ", subsequent_indent="# ")


def _literal(value: Any) -> str:
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)


if __name__ == "__main__":
    print(reference_toml(), end="")
