"""The telemetry of libraries is off: no name is looked up and no file is written that nobody asked for."""

from __future__ import annotations

import os
import sys


def no_telemetry() -> None:
    """Turn it off, for this process and those that it starts; before the libraries are imported.

    ONNX Runtime reads its variable when it is loaded: disable_telemetry_events() comes too late. OpenVINO has
    no switch, but does without its reporting package where that cannot be imported.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # Python's way to say: not to be found
