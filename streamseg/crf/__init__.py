"""The fully connected CRF, DeepLab's second half: arrays in, arrays out.

Krähenbühl & Koltun, "Efficient inference in fully connected CRFs with Gaussian edge potentials", 2011, on
the lattice of Adams, Baek & Davis, "Fast high-dimensional filtering using the permutohedral lattice", 2010.
docs/design/0006-dense-crf.md has the design and the measurements.
"""

from __future__ import annotations

from streamseg.crf.native import (
    Workspace,
    mean_field,
    mean_field_outputs,
    native_available,
    native_missing_reason,
)
from streamseg.crf.params import QUALITIES, CrfParams, Normalisation, Outputs, PairwiseTerm, Quality
from streamseg.crf.presets import PRESETS, preset

__all__ = [
    "PRESETS",
    "QUALITIES",
    "CrfParams",
    "Normalisation",
    "Outputs",
    "PairwiseTerm",
    "Quality",
    "Workspace",
    "mean_field",
    "mean_field_outputs",
    "native_available",
    "native_missing_reason",
    "preset",
]
