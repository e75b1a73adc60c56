"""What streamseg raises on purpose, each for who can act on it; text made safe to show, and hints."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterable


class StreamsegError(Exception):
    """Base of all errors that streamseg raises on purpose; the command line prints them as one line.

    The text may name what a peer, a file or a library gave; str() is safe to show, see visible().
    """

    exit_code = 1

    def __str__(self) -> str:
        return visible(super().__str__())


class UsageError(StreamsegError, ValueError):
    """The caller asked for something impossible; `streamseg` exits with 2."""

    exit_code = 2


class ConfigError(UsageError):
    """One or several settings are wrong; `problems` holds one line for each, beginning with its full key."""

    def __init__(self, *problems: str) -> None:
        self.problems = tuple(map(visible, problems))
        super().__init__(*self.problems)

    def __str__(self) -> str:
        return "\n".join(self.problems)


class SourceError(StreamsegError, OSError):
    """A camera, stream or file cannot be opened or read. The text carries no password."""


class SourceEnded(SourceError):
    """A live source ended or went silent; worth another try."""


class EngineError(StreamsegError, RuntimeError):
    """An engine is unknown, damaged, or cannot run on this machine."""


class NotNumbersError(EngineError):
    """A network's logits have cells without a usable number."""


class OutputError(StreamsegError, OSError):
    """A result cannot be written, or another file is in its place."""


class WeightsError(StreamsegError, ValueError):
    """A file of weights is damaged, does not fit the network, or cannot be fetched."""


class WireError(StreamsegError, ValueError):
    """A message does not follow the protocol (docs/protocol.md)."""


class PublishError(StreamsegError, OSError):
    """The publishing socket cannot be bound or has failed."""


class ControlError(StreamsegError, RuntimeError):
    """A running daemon refused a request; `code` says why for programs, `problems` for people."""

    def __init__(self, code: str, *problems: str) -> None:
        self.code = code
        self.problems = tuple(map(visible, problems))
        super().__init__(code, *self.problems)

    def __str__(self) -> str:
        return "\n".join(self.problems)


class CrfError(StreamsegError, ValueError):
    """Arrays or parameters do not fit the CRF."""


class TrainingError(StreamsegError, RuntimeError):
    """A data set or a checkpoint cannot be used."""


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """What of `known` is most like `name`, in any case; None where it is less like than `cutoff`."""
    by_folded = {one.casefold(): one for one in known}
    found = difflib.get_close_matches(name.casefold(), by_folded, 1, cutoff)
    return by_folded[found[0]] if found else None


def did_you_mean(
    name: str,
    known: Iterable[str],
    *,
    kind: str = "known",
    shown: Callable[[str], str] = repr,
    most: int | None = None,
    cutoff: float = 0.6,
) -> str:
    """The hint behind an unknown name: `did you mean 'x'?`, or `<kind>: ` and the first `most` there are."""
    names = list(known)
    near = nearest(name, names, cutoff)
    if near is not None:
        return f"did you mean {shown(near)}?"
    more = ", …" if most is not None and len(names) > most else ""
    return f"{kind}: {', '.join(names[:most]) or 'none'}{more}"


def visible(text: str) -> str:
    """Text of others on one line, with whatever moves a cursor, ends a line or turns the writing escaped.

    Those are the characters that Unicode does not count as printable: control characters, line separators,
    directions of writing, halves of surrogate pairs, and white space other than a blank. They become what
    JSON writes for them, so a document of JSON means the same afterwards.
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    return json.dumps(character)[1:-1] if character != "\x7f" else "\\u007f"


def one_line(error: object, most: int = 300) -> str:
    """A library's error text on one line, safe to show, cut to `most` characters; its kind where it has none.

    Cut between two words: half an address, or half a password, would not be known for what it is.
    """
    text = visible(" ".join(str(error).split())) or type(error).__name__
    return text if len(text) <= most else text[: most + 1].rpartition(" ")[0] or type(error).__name__
