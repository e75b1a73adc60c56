"""Finds the package's compiled kernels. All but the CRF's have an array fallback."""

from __future__ import annotations

import ctypes
import functools
import sysconfig
from pathlib import Path


@functools.cache
def load_library(name: str) -> ctypes.CDLL:
    """Load lib NAME (a plain C ABI; calls release the GIL); raises OSError that names the folders searched.

    Searched beside the package's code, in the installed package (an editable install keeps it there) and in
    a checkout's build folder; the one that was built last is taken.
    """
    package = Path(__file__).resolve().parents[1]
    folders = [package, Path(sysconfig.get_path("platlib")) / "streamseg", package.parent / "build"]
    found = [path for folder in folders if (path := folder / f"{name}.so").is_file()]
    if found:
        return ctypes.CDLL(str(max(found, key=lambda path: path.stat().st_mtime_ns)))
    searched = ", ".join(str(f) for f in folders)
    raise OSError(f"{name}.so was not found in {searched}: streamseg was installed without a C++ compiler")
