"""pydensecrf's interface on this package's CRF: change the import and nothing else.

    import streamseg.crf.compat.densecrf as dcrf                  # was: import pydensecrf.densecrf as dcrf
    from streamseg.crf.compat.utils import unary_from_softmax     # was: from pydensecrf.utils import …

Results agree with pydensecrf's to rounding. Matrices are plain float32 arrays here, lattices are kept between
calls of one object, the GIL is released, and wrong shapes, types and NaN raise CrfError, a ValueError.
"""

from __future__ import annotations

from streamseg.crf.compat.densecrf import (
    CONST_KERNEL,
    DIAG_KERNEL,
    FULL_KERNEL,
    NO_NORMALIZATION,
    NORMALIZE_AFTER,
    NORMALIZE_BEFORE,
    NORMALIZE_SYMMETRIC,
    ConstUnary,
    DenseCRF,
    DenseCRF2D,
    KernelType,
    LogisticUnary,
    NormalizationType,
)
from streamseg.crf.compat.utils import (
    compute_unary,
    create_pairwise_bilateral,
    create_pairwise_gaussian,
    softmax_to_unary,
    unary_from_labels,
    unary_from_softmax,
)

__all__ = [
    "CONST_KERNEL",
    "DIAG_KERNEL",
    "FULL_KERNEL",
    "NORMALIZE_AFTER",
    "NORMALIZE_BEFORE",
    "NORMALIZE_SYMMETRIC",
    "NO_NORMALIZATION",
    "ConstUnary",
    "DenseCRF",
    "DenseCRF2D",
    "KernelType",
    "LogisticUnary",
    "NormalizationType",
    "compute_unary",
    "create_pairwise_bilateral",
    "create_pairwise_gaussian",
    "softmax_to_unary",
    "unary_from_labels",
    "unary_from_softmax",
]
