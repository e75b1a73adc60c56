"""pydensecrf's interface on this package's CRF: change the names in the imports and nothing else.

    import streamseg.crf.compat.densecrf as dcrf                  # was: import pydensecrf.densecrf as dcrf
    from streamseg.crf.compat.utils import unary_from_softmax     # was: from pydensecrf.utils import …

The modules of pydensecrf with their names and order of arguments. Results agree to rounding. Matrices are
plain float32 arrays, lattices are kept between calls of one object, the GIL is released, and wrong shapes,
types and NaN raise CrfError, a ValueError.
"""
