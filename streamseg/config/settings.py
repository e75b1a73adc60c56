"""Groups of settings read from plain values: every problem at once, each by its full key."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from streamseg.config.redact import redact
from streamseg.errors import ConfigError, did_you_mean, nearest, visible

T = TypeVar("T", bound="Settings")

Name = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z",
        description="letters, digits, '.', '_' and '-', at most 64, the first a letter or digit",
    ),
]
"""The name of a stream, and of what belongs to one."""

_MOST_SHOWN = 200
_MOST_PROBLEMS, _LONGEST_PROBLEM = 50, 1000
CONTROL_CHARACTERS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")

MOVED = {
    "crf.preset": "refinement.crf.preset",
    "crf.quality": "refinement.crf.quality",
    "crf.threads": "refinement.crf.threads",
    "crf.backend": "refinement.crf.backend",
    "refine.every": "refinement.every",
    "refine.max_age_s": "refinement.max_age_s",
    "refine.budget_s": "refinement.timeout_s",
    "refine.priority": "refinement.priority",
    "fusion.enabled": 'refinement.level = "live"; for fusion alone, refinement.fusion.enabled',
    "fusion.refined_weight": "refinement.fusion.refined_weight",
    "fusion.decay": "refinement.fusion.decay",
    "fusion.recursion": "refinement.fusion.recursion",
    "engine.lanes": "engine.replicas",
    "streams.*.keep_trying": "retry_at_start",
}
"""Keys of 0.1, and what they are called now."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all groups of settings. Made in Python, it is checked like one that was read from a file."""

    def __post_init__(self) -> None:
        """Take nested groups as dicts, too; raises ConfigError with every problem."""
        problems: list[str] = []
        for name, annotation, _, _ in settings_fields(type(self)):
            value = getattr(self, name)
            found = list(_value_problems(annotation, value, name))
            problems += found
            if isinstance(value, dict) and not found:
                msgspec.structs.force_setattr(self, name, _made(annotation, value))
        if problems or (problems := list(self.conflicts())):
            raise ConfigError(*problems)

    def conflicts(self) -> Iterator[str]:
        """What is wrong with values that are fine one by one; each line begins with its key in this table."""
        return iter(())


def build_settings(kind: type[T], tree: dict[str, Any]) -> T:
    """Make settings of `kind` from plain values, with all problems at once; raises ConfigError.

    A problem is one line, whatever the keys are made of.
    """
    try:
        problems = [*_problems(kind, tree, ""), *_not_one_line(tree, "")]
        if problems:
            raise ConfigError(*_shortened(problems))
        return msgspec.convert(tree, kind)
    except msgspec.ValidationError as error:
        if isinstance(error.__cause__, ConfigError):  # settings that are fine one by one, but not together
            raise ConfigError(*_shortened(error.__cause__.problems)) from None
        raise


def _not_one_line(tree: dict[str, Any], prefix: str) -> Iterator[str]:
    """Texts of a person with control characters; names of files that a program gives may have them."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _not_one_line(value, f"{prefix}{name}.")
        elif isinstance(value, list):
            tables = {f"{name}[{i}]": one for i, one in enumerate(value) if isinstance(one, dict)}
            yield from _not_one_line(tables, prefix)
        elif isinstance(value, str) and (found := CONTROL_CHARACTERS.search(value)):
            yield f"{prefix}{name}: must be one line of text; holds {found[0]!r}"


def _shortened(problems: Sequence[str]) -> Iterator[str]:
    """The problems without line breaks and control characters, and no more than a person reads."""
    for problem in problems[:_MOST_PROBLEMS]:
        line = visible(problem)
        yield line if len(line) <= _LONGEST_PROBLEM else f"{line[:_LONGEST_PROBLEM]}…"
    if len(problems) > _MOST_PROBLEMS:
        yield f"and {len(problems) - _MOST_PROBLEMS} more problems"


@functools.cache
def settings_fields(kind: type[Settings]) -> tuple[tuple[str, Any, Any, str], ...]:
    """Each field's (name, annotation, default or msgspec.NODEFAULT, sentence), in order."""
    hints = get_type_hints(kind, include_extras=True)
    fields = []
    for info in msgspec.structs.fields(kind):
        annotation = hints[info.name]
        made = info.default_factory is not msgspec.NODEFAULT
        default = info.default_factory() if made else info.default
        fields.append((info.name, annotation, default, _meta(annotation).description or ""))
    return tuple(fields)


def describe(annotation: Any) -> str:
    """What a value of this type may be, in words: "a number above 0, at most 1000"."""
    meta = _meta(annotation)
    kind = bare_type(annotation)
    origin = get_origin(kind)
    if origin is Literal:
        return "one of " + ", ".join(str(a) for a in get_args(kind))
    if origin is tuple:
        items = [describe(a) for a in get_args(kind) if a is not Ellipsis]
        if Ellipsis in get_args(kind):
            lengths = (("at least", meta.min_length), ("at most", meta.max_length))
            count = " and ".join(f"{word} {length}" for word, length in lengths if length is not None)
            return f"a list of {count}, each {items[0]}" if count else f"a list, each {items[0]}"
        alike = len(set(items)) == 1
        return f"a list of {len(items)}, each {items[0]}" if alike else f"a list of {' and '.join(items)}"
    if kind is bool:
        return "true or false"
    if kind is str:
        return f"text ({meta.description.rstrip('.')})" if meta.pattern and meta.description else "text"
    if kind in (int, float):
        words = "a whole number" if kind is int else "a number"
        bounds = [f"{word} {b:g}" for word, b in (("above", meta.gt), ("at least", meta.ge)) if b is not None]
        bounds += [f"{word} {b:g}" for word, b in (("below", meta.lt), ("at most", meta.le)) if b is not None]
        bounds += [f"a multiple of {meta.multiple_of:g}"] if meta.multiple_of is not None else []
        return f"{words} {', '.join(bounds)}".rstrip()
    if origin in (Union, UnionType):
        return " or ".join(describe(a) for a in get_args(kind))
    if origin is dict:
        return f"a table of names, each {describe(get_args(kind)[1])}"
    if isinstance(kind, type) and issubclass(kind, Settings):
        return "a table"
    return getattr(kind, "__name__", str(kind))


def _problems(kind: type[Settings], tree: Any, prefix: str) -> Iterator[str]:
    if not isinstance(tree, dict):
        yield f"{prefix.rstrip('.')}: must be a table; is {_shown(tree)}"
        return
    fields = {name: (annotation, default) for name, annotation, default, _ in settings_fields(kind)}
    found: list[str] = []
    for key in tree:
        if key not in fields:
            found += _unknown(f"{prefix}{key}", tree[key], prefix, list(fields))
    for name, (annotation, default) in fields.items():
        if name in tree:
            found += _value_problems(annotation, tree[name], f"{prefix}{name}")
        elif default is msgspec.NODEFAULT:
            found.append(f"{prefix}{name}: is missing; it must be {describe(annotation)}")
    if not found and kind.conflicts is not Settings.conflicts:
        found += (f"{prefix}{problem}" for problem in _conflicts(kind, tree))
    yield from found


def _conflicts(kind: type[Settings], tree: dict[str, Any]) -> tuple[str, ...]:
    """What is wrong with values that are fine one by one."""
    try:
        msgspec.convert(tree, kind)
    except msgspec.ValidationError as error:
        if isinstance(error.__cause__, ConfigError):
            return error.__cause__.problems
        raise
    return ()


def _unknown(key: str, value: Any, prefix: str, known: list[str]) -> Iterator[str]:
    moved = list(_moved(key, value))
    if moved:
        yield from moved
        return
    hint = did_you_mean(key.removeprefix(prefix), known, shown=lambda near: f"{prefix}{near}", cutoff=0.5)
    yield f"{key}: unknown setting; {hint}"


def _moved(key: str, value: Any) -> Iterator[str]:
    """A line for each setting in `value` that has another key now."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _moved(f"{key}.{name}", inner)
        return
    stream = key.startswith("streams.")
    new = MOVED.get("streams.*." + key.rpartition(".")[2] if stream else key)
    if new is not None:
        yield f"{key}: is now {key.rpartition('.')[0] + '.' + new if stream else new}"


def _made(annotation: Any, value: Any) -> Any:
    """A value with the settings in it, where it has them as dicts."""
    kind = bare_type(annotation)
    if get_origin(kind) is dict:
        return {name: _made(get_args(kind)[1], item) for name, item in value.items()}
    if isinstance(kind, type) and issubclass(kind, Settings) and isinstance(value, dict):
        return build_settings(kind, value)
    return value


def _value_problems(annotation: Any, value: Any, key: str) -> Iterator[str]:
    bare = bare_type(annotation)
    if isinstance(value, Settings) and isinstance(bare, type) and isinstance(value, bare):
        return  # was checked when it was made
    if get_origin(bare) is dict and not isinstance(value, dict):
        tables = isinstance(get_args(bare)[1], type)  # of settings
        must = f"a table of its own for each name, such as [{key}.gate]" if tables else describe(bare)
        yield f"{key}: must be {must}; is {_shown(value)}"
        return
    if isinstance(bare, type) and issubclass(bare, Settings):
        yield from _problems(bare, value, f"{key}.")
    elif get_origin(bare) is dict and isinstance(value, dict):
        key_type, value_type = get_args(bare)
        for name, item in value.items():
            try:
                msgspec.convert(name, key_type)
            except msgspec.ValidationError:
                yield f"{key}.{name}: a name must be {_meta(key_type).description}"
            yield from _value_problems(value_type, item, f"{key}.{name}")
    elif (item_type := _table_of(bare)) is not None and isinstance(value, list):
        meta = _meta(annotation)
        if not (meta.min_length or 0) <= len(value) <= (meta.max_length or len(value)):
            yield f"{key}: must be {describe(annotation)}; has {len(value)}"
        for i, item in enumerate(value):
            yield from _problems(item_type, item, f"{key}[{i}].")
    else:
        try:
            msgspec.convert(value, annotation)
        except msgspec.ValidationError:
            yield f"{key}: must be {describe(annotation)}; is {_shown(value)}{_nearest(annotation, value)}"


def _nearest(annotation: Any, value: Any) -> str:
    """A hint at the right value that is most like a wrong one; empty where none is."""
    bare, meta = bare_type(annotation), _meta(annotation)
    if get_origin(bare) in (Union, UnionType):
        return "".join(_nearest(one, value) for one in get_args(bare))
    if get_origin(bare) is Literal and isinstance(value, str):
        close = nearest(value, get_args(bare))
        return f"; did you mean {close!r}?" if close is not None else ""
    if bare is int and meta.multiple_of is not None and type(value) is int:
        step = int(meta.multiple_of)
        near = (value + step // 2) // step * step
        return f"; the nearest is {near}" if (meta.ge or near) <= near <= (meta.le or near) else ""
    return ""


def _table_of(kind: Any) -> type[Settings] | None:
    """The settings in a list of tables; None for another type."""
    if get_origin(kind) is not tuple or Ellipsis not in get_args(kind):
        return None
    item = get_args(kind)[0]
    return item if isinstance(item, type) and issubclass(item, Settings) else None


def _shown(value: Any) -> str:
    """A wrong value as a person wrote it, cut where it is long; it may hold an address with a password."""
    text = redact(repr(value))
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]} …"


def _meta(annotation: Any) -> Meta:
    """The constraints and the sentence of an annotation, merged over Optional's inside."""
    merged: dict[str, Any] = {}
    stack = [annotation]
    while stack:
        one = stack.pop()
        if get_origin(one) is Annotated:
            stack.append(one.__origin__)
            for meta in one.__metadata__:
                merged.update({k: getattr(meta, k) for k in _META_KEYS if getattr(meta, k) is not None})
        elif get_origin(one) in (Union, UnionType):
            stack.extend(a for a in get_args(one) if a is not NoneType)
    return Meta(**merged)


_META_KEYS = ("gt", "ge", "lt", "le", "multiple_of", "pattern", "min_length", "max_length", "description")


def bare_type(annotation: Any) -> Any:
    """The type without its Annotated wrapping and without None."""
    if get_origin(annotation) is Annotated:
        return bare_type(annotation.__origin__)
    if get_origin(annotation) in (Union, UnionType):
        inside = [a for a in get_args(annotation) if a is not NoneType]
        return bare_type(inside[0]) if len(inside) == 1 else annotation
    return annotation
