"""Logits → labels: the last step before a mask."""

from __future__ import annotations

from streamseg.upsample import labels_from_logits

__all__ = ["labels_from_logits"]
