"""Recorded files: exactly one mask for each frame, with a proof of it."""

from streamseg.recorded.events import Event, Failed, Finished, JobResult, Planned, Progressed, Started
from streamseg.recorded.job import process_file, process_files
from streamseg.recorded.settings import ProcessConfig

__all__ = [
    "Event",
    "Failed",
    "Finished",
    "JobResult",
    "Planned",
    "ProcessConfig",
    "Progressed",
    "Started",
    "process_file",
    "process_files",
]
