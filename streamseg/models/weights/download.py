"""Downloads published weights into a cache: interrupted downloads are resumed, the SHA-256 is checked."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from streamseg.errors import WeightsError, one_line
from streamseg.models.sources import Source, find_source
from streamseg.runtime.backoff import Backoff
from streamseg.runtime.files import locked, move_into_place

OnProgress = Callable[[int, int | None], None]  # bytes so far, and of the whole file where known

CHUNK = 1 << 18
TIMEOUT_S = 20.0
ATTEMPTS = 4  # that bring nothing
MOST_BYTES = 2 << 30


class _Broken(Exception):
    """The connection ended before the file did; the received part is kept."""


def fetch(
    name: str, cache_dir: Path, progress: OnProgress | None = None, *, source: Source | None = None
) -> Path:
    """Download the published weights of the zoo's network `name` into `cache_dir` and give the file.

    A file in the cache whose SHA-256 is right is not downloaded again. An interrupted download is kept as
    .part and resumed, now or by a later call. Blocks; 20 s without data count as an interruption. Of several
    calls at once, in whatever processes, one downloads and the others wait. Raises WeightsError, which says
    what to download by hand and where to put it.
    """
    source = source or find_source(name)
    path = cache_dir / source.file
    if _is_there(path, source):
        return path
    if source.url is None:
        raise WeightsError(_by_hand(source, path, "must be downloaded by hand"))
    part = path.with_name(path.name + ".part")
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        with one_at_a_time(path):
            if not _is_there(path, source):
                _download(source.url, part, progress or _silent)
                _check(part, source)
                move_into_place(part, path)
    except WeightsError as error:
        raise WeightsError(_by_hand(source, path, str(error))) from error
    except OSError as error:
        raise WeightsError(f"{cache_dir}: cannot be written ({error.strerror})") from error
    return path


@contextlib.contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Keep other calls for `path`, in whatever processes, waiting; leaves no lock behind. Raises OSError."""
    lock = path.with_name(path.name + ".lock")
    with locked(lock):
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _is_there(path: Path, source: Source) -> bool:
    """Whether the file was downloaded before; raises WeightsError for another one in its place."""
    try:
        if not path.is_file():
            return False
        _check(path, source)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror})") from error
    return True


def _by_hand(source: Source, path: Path, reason: str) -> str:
    what = source.note or source.url or source.file
    return (
        f"{source.file}: {reason}; download {what} (see {source.page}; licence: {source.licence}) and put it "
        f"at {path}"
    )


def _download(url: str, part: Path, progress: OnProgress) -> None:
    backoff, fruitless = Backoff(), 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            _continue(url, part, progress)
            return
        except _Broken as error:
            came = part.stat().st_size if part.exists() else 0
            if came != before:
                continue
            fruitless += 1
            if fruitless == ATTEMPTS:
                raise WeightsError(f"{url}: {error}; kept {came} bytes to resume") from error
            time.sleep(backoff.pause_s())


def _continue(url: str, part: Path, progress: OnProgress) -> None:
    """Request the rest of `part` and append it; raises _Broken where another try may help."""
    have = part.stat().st_size if part.exists() else 0
    with _asked(url, part, have) as answer:
        start, whole = _extent(answer, have)
        if start != have:
            part.unlink()  # the server sends the file from its beginning
            have = 0
        if whole is not None and whole > MOST_BYTES:
            raise WeightsError(f"{url}: has {whole} bytes, more than any of the weights")
        progress(have, whole)
        with part.open("ab") as file:
            while chunk := _read(answer):
                file.write(chunk)
                have += len(chunk)
                if have > MOST_BYTES:
                    raise WeightsError(f"{url}: sends more than {MOST_BYTES} bytes")
                progress(have, whole)
    if whole is not None and have != whole:
        raise _Broken(f"the connection ended after {have} of {whole} bytes")


def _asked(url: str, part: Path, have: int) -> http.client.HTTPResponse:
    """The answer to a request for what follows `have` bytes; removes a `part` that is of another file."""
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=TIMEOUT_S)
        return answer
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416 and have:
                part.unlink()  # it does not fit the file on the server; begin again
                raise _Broken("the kept part does not belong to this file") from error
            if error.code >= 500 or error.code == 429:
                raise _Broken(f"the server answered {error.code} {error.reason}") from error
            raise WeightsError(f"{url}: the server answered {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        raise _Broken(f"no connection ({error.reason})") from error
    except (http.client.HTTPException, OSError) as error:
        raise _Broken(f"the connection broke ({one_line(error)})") from error


def _read(answer: http.client.HTTPResponse) -> bytes:
    """The next bytes of an answer; whatever fails is the network's fault, and none of the disk."""
    try:
        return answer.read(CHUNK)
    except (http.client.HTTPException, OSError) as error:
        raise _Broken(f"the connection broke ({one_line(error)})") from error


def _extent(answer: http.client.HTTPResponse, have: int) -> tuple[int, int | None]:
    """Where in the file this response begins, and the file's size where known."""
    length = answer.headers.get("Content-Length", "")
    following = int(length) if length.isdigit() else None
    if answer.status != 206:
        return 0, following
    first, _, whole = answer.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
    start = first.partition("-")[0]
    if not start.isdigit() or int(start) != have:
        raise WeightsError(f"{answer.url}: the server sent another range than requested")
    return have, int(whole) if whole.isdigit() else None


def _check(path: Path, source: Source) -> None:
    """Check the SHA-256 as far as it is published; a wrong download is removed."""
    if not source.sha256_start:
        return
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest.startswith(source.sha256_start):
        return
    if path.suffix == ".part":
        path.unlink()
        raise WeightsError(
            f"the download is not the published file (SHA-256 {digest[:16]}…, "
            f"expected {source.sha256_start[:16]}…); it was removed"
        )
    raise WeightsError(
        f"{path}: is not the published file (SHA-256 {digest[:16]}…, expected {source.sha256_start[:16]}…); "
        "move it away and fetch again"
    )


def _silent(_have: int, _whole: int | None) -> None:
    pass
