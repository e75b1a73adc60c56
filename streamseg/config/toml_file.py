"""The one way to read TOML that a person wrote: what is wrong with it is one line, with what to write."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from streamseg.config.redact import redact
from streamseg.config.text_file import read_text
from streamseg.errors import ConfigError

_MOST_DEPTH = 32  # of tables in tables


def read_toml(path: str | Path, hint: str = "") -> dict[str, Any]:
    """The tables of a file; raises ConfigError; `hint`: what to do where it cannot be read."""
    try:
        return parse_toml(read_text(path), str(path))
    except OSError as error:
        hint = f"; {hint}" if hint else ""
        raise ConfigError(f"{path}: cannot be read ({error.strerror}){hint}") from error
    except UnicodeError as error:
        raise ConfigError(f"{path}: {error}") from error


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """The tables of a text; raises ConfigError that begins with `where`, also for what nobody would write."""
    try:
        tables = tomllib.loads(text)
        if _is_deeper(tables, _MOST_DEPTH):
            raise RecursionError
        return tables
    except RecursionError:
        wrong = "lists, tables or keys lie in one another too deeply"
    except tomllib.TOMLDecodeError as error:
        hint = next((f"; {hint}" for line in text.splitlines() if (hint := _hint(line))), "")
        wrong = f"{error}{hint}"
    except ValueError as error:  # of a number with thousands of digits, or of a date
        wrong = str(error).partition(";")[0]
    raise ConfigError(f"{where}: is not valid TOML: {wrong}")


def _is_deeper(tables: dict[str, Any], most: int) -> bool:
    level: list[Any] = [tables]
    for _ in range(most):
        inner = (value for one in level for value in (one.values() if isinstance(one, dict) else one))
        level = [value for value in inner if isinstance(value, dict | list)]
    return bool(level)


def _hint(line: str) -> str:
    """What to write where a name or a text should stand in quotes; empty where nothing is to be said."""
    table = re.fullmatch(r"\s*\[([^\[\]]*)\]\s*(#.*)?", line)
    if table:
        parts = re.findall(r'"[^"]*"|[^.]+', table[1])
        bare = [part.strip() for part in parts if not re.fullmatch(r'"[^"]*"|[A-Za-z0-9_-]+', part.strip())]
        return f"a name here must be A-Z, a-z, 0-9, _ and -; is {bare[0]}" if bare else ""
    value = re.fullmatch(r"\s*[A-Za-z_]+\s*=\s*([^\s\"'\[{#][^#]*?)\s*(#.*)?", line)
    if value and not re.fullmatch(r"true|false|[+-]?[0-9.][0-9_.eE+-]*|[+-]?(inf|nan)", value[1]):
        return f'write text in quotes: "{redact(value[1])}"'
    return ""
