"""The compiled CRF and fusion under AddressSanitizer and UBSan."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.once import one_at_a_time

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = ["-DSTREAMSEG_SANITIZE=ON", "-DCMAKE_BUILD_TYPE=Release"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def fuzz(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The driver, built in pytest's cache: the next run compiles only what has changed, as CMake sees it."""
    if not shutil.which("cmake") or not (shutil.which("c++") or shutil.which("g++")):
        pytest.skip("no CMake or no C++ compiler")
    cache = getattr(request.config, "cache", None)
    checkout = hashlib.sha256(str(ROOT).encode()).hexdigest()[:8]  # a CMake folder belongs to one checkout
    folder = Path(cache.mkdir(f"sanitizers-{checkout}")) if cache else tmp_path_factory.mktemp("sanitizers")
    with one_at_a_time(folder / "lock"):
        for command in (
            ["cmake", "-S", ROOT, "-B", folder, *OPTIONS],
            ["cmake", "--build", folder, "--target", "crf_fuzz", "--parallel", "2"],
        ):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return folder / "crf_fuzz"


@pytest.mark.parametrize("seed", ["1", "2"])
def test_random_jobs_are_clean_under_the_sanitizers(fuzz: Path, seed: str) -> None:
    done = subprocess.run([fuzz, "120", seed], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout == "120 jobs\n"
