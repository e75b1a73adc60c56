"""pydensecrf's interface on this package's CRF: change the names in the imports and nothing else.

    import streamseg.crf.compat.densecrf as dcrf                  # was: import pydensecrf.densecrf as dcrf
    from streamseg.crf.compat.utils import unary_from_softmax     # was: from pydensecrf.utils import …

The modules of pydensecrf (densecrf, eigen, utils) with their names and order of arguments. Results agree to
rounding. Matrices are plain float32 arrays, lattices are kept between calls of one object, the GIL is
released, and threads that share an object take turns. What is wrong (shapes, types, NaN) is refused by the
call that was given it, with CrfError: a ValueError, and a TypeError too where it is no array or no number.

Limits: 2²⁸ variables, 65536 labels, 256 terms, 255 features a term, compatibilities up to 1e20; what does not
fit is refused when it is added.
"""
