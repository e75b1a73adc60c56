"""Networks in torch, each in one file that reads top-down, and how they become engines; the torch extra."""

from __future__ import annotations

from streamseg.runtime.telemetry import no_telemetry

no_telemetry()  # see inference/__init__.py
