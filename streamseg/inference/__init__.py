"""Decoded pictures → logits → labels: engines, what runs them, and the scaling on both sides."""

from __future__ import annotations

from streamseg.runtime.telemetry import no_telemetry

# Here, because every module that imports ONNX Runtime or OpenVINO lies in this package or in models.
no_telemetry()
