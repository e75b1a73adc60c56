"""Controlling a daemon while it runs.

    with ControlClient() as daemon:
        daemon.pause("gate")
        print(daemon.status().streams["gate"].state)

The daemon's side is streamseg.daemon.control.
"""

from streamseg.control.client import ControlClient
from streamseg.control.messages import (
    AddStream,
    AnyReply,
    AnyRequest,
    ControlStatus,
    Done,
    EngineStatus,
    ErrorCode,
    Failed,
    ForceKeyframe,
    GetSnapshot,
    GetStatus,
    LogLevel,
    PauseStream,
    PublisherStatus,
    Reload,
    Reloaded,
    RemoveStream,
    ResumeStream,
    SetLogLevel,
    Snapshot,
    Status,
)

__all__ = [
    "AddStream",
    "AnyReply",
    "AnyRequest",
    "ControlClient",
    "ControlStatus",
    "Done",
    "EngineStatus",
    "ErrorCode",
    "Failed",
    "ForceKeyframe",
    "GetSnapshot",
    "GetStatus",
    "LogLevel",
    "PauseStream",
    "PublisherStatus",
    "Reload",
    "Reloaded",
    "RemoveStream",
    "ResumeStream",
    "SetLogLevel",
    "Snapshot",
    "Status",
]
