"""Everything streamseg raises on purpose, each for the person who can act on it."""

from __future__ import annotations


class StreamsegError(Exception):
    """Base of all errors that streamseg raises on purpose; the command line prints them as one line."""

    exit_code = 1


class UsageError(StreamsegError, ValueError):
    """The caller asked for something impossible; `streamseg` exits with 2."""

    exit_code = 2


class ConfigError(UsageError):
    """One or several settings are wrong; `problems` holds one line for each, beginning with its full key."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


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
        super().__init__("\n".join(problems))
        self.code = code
        self.problems = problems


class CrfError(StreamsegError, ValueError):
    """Arrays or parameters do not fit the CRF."""


class TrainingError(StreamsegError, RuntimeError):
    """A data set or a checkpoint cannot be used."""


def one_line(error: object, most: int = 300) -> str:
    """A library's error text on one line, cut to `most` characters; its kind where it has no text.

    Cut between two words: half an address, or half a password, would not be known for what it is.
    """
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= most else text[: most + 1].rpartition(" ")[0] or type(error).__name__
