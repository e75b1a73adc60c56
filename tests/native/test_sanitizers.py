"""The CRF's library under AddressSanitizer and UBSan."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_random_jobs_are_clean_under_the_sanitizers(tmp_path: Path) -> None:
    if not shutil.which("cmake") or not (shutil.which("c++") or shutil.which("g++")):
        pytest.skip("no CMake or no C++ compiler")
    options = ["-DSTREAMSEG_SANITIZE=ON", "-DCMAKE_BUILD_TYPE=Release"]
    subprocess.run(["cmake", "-S", ROOT, "-B", tmp_path, *options], check=True, capture_output=True)
    build = ["cmake", "--build", tmp_path, "--target", "crf_fuzz", "--parallel", "2"]
    subprocess.run(build, check=True, capture_output=True)
    for seed in ("1", "2"):
        done = subprocess.run(
            [tmp_path / "crf_fuzz", "120", seed], capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr[-4000:]
        assert done.stdout == "120 jobs\n"
