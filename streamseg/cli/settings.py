"""Command-line options made from settings, where name, type, default and sentence stand once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeVar, get_args, get_origin

import click
import msgspec

from streamseg.config import Settings, bare_type, settings_fields

F = TypeVar("F", bound=Callable[..., Any])

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


def given(**options: Any) -> dict[str, Any]:
    """The options that were written on the command line."""
    context = click.get_current_context()
    source = click.core.ParameterSource.DEFAULT
    return {k: v for k, v in options.items() if context.get_parameter_source(k) not in (source, None)}


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
    return click.option(flag, type=kind, default=shown, help=sentence)
