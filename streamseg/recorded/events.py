"""What a job reports while it runs, and its result."""

from __future__ import annotations

from dataclasses import dataclass, field

from streamseg.errors import StreamsegError
from streamseg.recorded.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Planned:
    """The inputs of the job, in order; the first event."""

    inputs: tuple[str, ...]
    left_out: tuple[str, ...] = ()  # what its folders hold besides, a line each


@dataclass(frozen=True, slots=True)
class Started:
    """A file is started or resumed: `done` of about `frames` masks exist (None: unknown)."""

    input: str
    frames: int | None
    done: int
    why: str  # for the user; may be empty


@dataclass(frozen=True, slots=True)
class Progressed:
    """One more mask is made."""

    input: str
    done: int


@dataclass(frozen=True, slots=True)
class Finished:
    """A file's results are whole; `again`: they were before this run."""

    input: str
    manifest: Manifest
    path: str  # of the manifest
    took_s: float
    again: bool


@dataclass(frozen=True, slots=True)
class Failed:
    """A file has no results."""

    input: str
    error: StreamsegError


Event = Planned | Started | Progressed | Finished | Failed


@dataclass(slots=True, eq=False)
class JobResult:
    """The result of each input, in their order."""

    finished: list[Finished] = field(default_factory=list)
    failed: list[Failed] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        """Every input has results, and nothing was missing from any of them."""
        return not self.failed and not any(f.manifest.problems() for f in self.finished)
