"""Command-line options made from settings, where name, type, default and sentence stand once."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import click
import msgspec

from streamseg.config import EngineConfig, LabelsConfig, Settings, bare_type, settings_fields
from streamseg.errors import UsageError

F = TypeVar("F", bound=Callable[..., Any])


def engine_option(function: F) -> F:
    """Add --engine, given as `name`; fetch_missing() is called where all other arguments stand."""
    add = click.option(
        "--engine",
        "name",
        default=EngineConfig().name,
        help="An engine's name or its folder; a released one (streamseg model list) is fetched.",
    )
    return add(function)


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def options_from(kind: type[Settings], *names: str, prefix: str = "") -> Callable[[F], F]:
    """Add an option for each named field of `kind`; without names, for all simple ones.

    prefix: what its name begins with, such as refinement-crf-.
    """
    fields = [f for f in settings_fields(kind) if (f[0] in names if names else _simple(f[1]))]
    if missing := set(names) - {f[0] for f in fields}:
        raise KeyError(f"{kind.__name__} has no {', '.join(sorted(missing))}")

    def add(function: F) -> F:
        for name, annotation, default, sentence in reversed(fields):
            function = _option(prefix + name, annotation, default, sentence)(function)
        return function

    return add


def label_options(function: F) -> F:
    """Add the options of LabelsConfig; labels_given() takes them."""
    help_of = {name: sentence for name, _, _, sentence in settings_fields(LabelsConfig)}
    for option in (
        click.option("--min-region", type=int, metavar="PIXELS", help=help_of["min_region"]),
        click.option("--min-confidence", type=float, metavar="0…1", help=help_of["min_confidence"]),
        click.option("--only", multiple=True, metavar="CLASS[,CLASS…]", help=help_of["only"]),
        click.option(
            "--merge",
            multiple=True,
            metavar="NAME=CLASS[,CLASS…]",
            help="Classes that become one, by its name; it has the colour of the first. May be repeated.",
        ),
    ):
        function = option(function)
    return function


def labels_given(options: dict[str, Any]) -> dict[str, Any]:
    """Take the options of label_options out of others, as [labels] would have them; raises UsageError."""
    merge, only = options.pop("merge"), options.pop("only")
    least = {name: options.pop(name) for name in ("min_confidence", "min_region")}
    labels: dict[str, Any] = {name: value for name, value in least.items() if value is not None}
    for text in merge:
        to, equals, members = text.partition("=")
        if not equals:
            raise UsageError(f"--merge: must be NAME=CLASS,CLASS; is {text!r}")
        labels.setdefault("merge", {}).setdefault(to.strip(), []).extend(_listed(members))
    if only:
        labels["only"] = [name for text in only for name in _listed(text)]
    return labels


def _listed(text: str) -> list[str]:
    """The names in a text, between commas; a comma that belongs to a name has a backslash before it."""
    names = (name.replace("\\,", ",").strip() for name in re.split(r"(?<!\\),", text))
    return [name for name in names if name]


def given(**options: Any) -> dict[str, Any]:
    """The options that were written on the command line."""
    context = click.get_current_context()
    source = click.core.ParameterSource.DEFAULT
    return {k: v for k, v in options.items() if context.get_parameter_source(k) not in (source, None)}


def flags_of(names: Iterable[str]) -> str:
    """The options of these names, as they are written on the command line."""
    flags = {one.name: one.opts[0] for one in click.get_current_context().command.params}
    return ", ".join(flags[name] for name in names)


def _simple(annotation: Any) -> bool:
    kind = bare_type(annotation)
    return get_origin(kind) in (Literal, tuple) or kind in (bool, int, float, str)


def _option(name: str, annotation: Any, default: Any, sentence: str) -> Callable[[F], F]:
    flag = "--" + name.replace("_", "-")
    kind = bare_type(annotation)
    shown = None if default is msgspec.NODEFAULT else default
    if kind is bool:
        return click.option(f"{flag}/--no-{flag[2:]}", default=shown, help=sentence)
    if get_origin(kind) is Literal:
        return click.option(
            flag, type=click.Choice([str(a) for a in get_args(kind)]), default=shown, help=sentence
        )
    if get_origin(kind) is tuple:
        count = len(get_args(kind))
        return click.option(
            flag, type=bare_type(get_args(kind)[0]), nargs=count, default=shown, help=sentence
        )
    if get_origin(kind) in (Union, UnionType):
        return _either(flag, *map(bare_type, get_args(kind)), default=shown, sentence=sentence)
    return click.option(flag, type=kind, default=shown, help=sentence)


def _either(flag: str, words: Any, numbers: Any, *, default: Any, sentence: str) -> Callable[[F], F]:
    """An option that is one of some words, or a list of whole numbers with commas between them."""
    known, count = get_args(words), len(get_args(numbers))

    def read(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
        parts = str(value).split(",")
        if value is None or value in known:
            return value
        if len(parts) == count and all(part.strip().isascii() and part.strip().isdigit() for part in parts):
            return [int(part) for part in parts]
        raise click.BadParameter(
            f"must be {', '.join(known)} or {count} whole numbers with a comma between them; is {value!r}"
        )

    shown = f"[{'|'.join(known)}|{','.join('N' * count)}]"
    return click.option(flag, metavar=shown, callback=read, default=default, help=sentence)
