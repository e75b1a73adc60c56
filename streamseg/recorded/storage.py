"""Storage other than a folder of this machine: s3:// and other addresses that fsspec knows.

An object store has no rename and no lock, but a put is all or nothing: that is what a job builds on. The work
is done in a local folder; a segment is put as soon as it is committed, results when they are whole, and the
manifest last.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from streamseg.config.redact import redact, remember
from streamseg.errors import OutputError, SourceError, StreamsegError, UsageError, one_line
from streamseg.recorded.manifest import files_in
from streamseg.runtime.files import locked, make_folder, replaced
from streamseg.runtime.folders import writable_cache
from streamseg.sources.target import NETWORK_SCHEMES

_NOT_STORED = {"", "file", "local", *NETWORK_SCHEMES}
_OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "az", "abfs", "oss", "hdfs", "sftp"}


def is_stored(name: str) -> bool:
    """Whether a name is an address that fsspec takes; http(s) and streams are FFmpeg's.

    Raises UsageError for an object store's address where fsspec is not installed.
    """
    scheme = name.partition("://")[0].lower() if "://" in name else ""
    if scheme in _NOT_STORED:
        return False
    try:
        import fsspec  # an extra
    except ImportError:
        if scheme not in _OBJECT_STORES:
            return False
        install = "'streamseg[s3]'" if scheme.startswith("s3") else f"fsspec and its library for {scheme}://"
        raise UsageError(f"{redact(name)}: needs fsspec; pip install {install}") from None
    return scheme in fsspec.available_protocols()


class Store:
    """A folder in such storage, or an object. Any thread may use it; raises OutputError alone."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        remember(self.url)
        self.shown = redact(self.url)
        with _storage_errors(self.shown):
            from fsspec.core import url_to_fs  # an extra

            self._fs, path = url_to_fs(self.url)
        self._root: str = path.rstrip("/")

    def size(self, name: str = "") -> int | None:
        """Bytes of an object, or of all objects in a folder; None where it does not exist."""
        with _storage_errors(self._of(name)):
            self._fs.invalidate_cache()
            path = self._path(name)
            if self._fs.isdir(path):
                return sum(int(one["size"]) for one in self._fs.find(path, detail=True).values())
            return int(self._fs.size(path)) if self._fs.exists(path) else None

    def names(self, folder: str = "") -> list[str]:
        """The names in a folder, in order; empty where it does not exist."""
        with _storage_errors(self._of(folder)):
            self._fs.invalidate_cache()
            path = self._path(folder)
            if not self._fs.isdir(path):
                return []
            return sorted({one.rstrip("/").rpartition("/")[2] for one in self._fs.ls(path, detail=False)})

    def find(self) -> list[str]:
        """The addresses of all objects in this folder, or that fit this pattern, in order; of one its own."""
        with _storage_errors(self.shown):
            self._fs.invalidate_cache()
            if any(c in self._root for c in "*?["):
                found = [one for one in self._fs.glob(self._root) if not self._fs.isdir(one)]
            elif self._fs.isdir(self._root):
                found = self._fs.find(self._root)
            else:
                return [self.url]
            scheme = self.url.partition("://")[0]
            return sorted(f"{scheme}://{self._fs._strip_protocol(one).lstrip('/')}" for one in found)

    def read(self, name: str) -> bytes | None:
        """None where it does not exist."""
        with _storage_errors(self._of(name)):
            self._fs.invalidate_cache()
            try:
                data: bytes = self._fs.cat_file(self._path(name))
            except FileNotFoundError:
                return None
            return data

    def write(self, name: str, data: bytes) -> None:
        with _storage_errors(self._of(name)):
            self._fs.pipe_file(self._path(name), data)

    def put(self, path: Path, name: str) -> None:
        """Send a file, or each file of a folder."""
        with _storage_errors(self._of(name)):
            if path.is_dir():
                for inside, one in files_in(path):
                    self._fs.put_file(str(one), self._path(f"{name}/{inside}"))
            else:
                self._fs.put_file(str(path), self._path(name))

    def get(self, name: str, path: Path) -> None:
        """Fetch an object into a file, or a folder into a folder."""
        with _storage_errors(self._of(name)):
            at = self._path(name)
            if self._fs.isdir(at):
                for one in self._fs.find(at):
                    into = path / one.removeprefix(at).lstrip("/")
                    into.parent.mkdir(parents=True, exist_ok=True)
                    self._fs.get_file(one, str(into))
            else:
                self._fs.get_file(at, str(path))

    def remove(self, name: str) -> None:
        """Remove an object or a folder, if it exists."""
        with _storage_errors(self._of(name)), contextlib.suppress(FileNotFoundError):
            self._fs.invalidate_cache()
            self._fs.rm(self._path(name), recursive=True)

    def version(self) -> str:
        """A value of its storage that changes when this object does."""
        with _storage_errors(self.shown):
            self._fs.invalidate_cache()
            return str(self._fs.ukey(self._root))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def _of(self, name: str) -> str:
        return f"{self.shown}/{name}" if name else self.shown


@contextmanager
def local_copy(url: str) -> Iterator[Path]:
    """Fetch an object into a local file, for as long as any process on this machine has it open.

    A copy that exists, even from a process that was killed, is not fetched again. Raises SourceError.
    """
    folder = scratch(url)
    with locked(folder.with_suffix(".lock")) as lock:  # one fetches, the others wait for it
        try:
            path = _fetch(Store(url), folder)
        except OutputError as error:
            raise SourceError(str(error)) from error
        fcntl.flock(lock, fcntl.LOCK_SH)
        try:
            yield path
        finally:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)  # no other process has it open


def _fetch(store: Store, folder: Path) -> Path:
    """Get an object's present version, unless it is in `folder`, which holds nothing else."""
    version = hashlib.sha256(store.version().encode()).hexdigest()[:16]
    path = folder / (version + Path(urlsplit(store.url).path).suffix)
    if not path.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        with replaced(path) as beside:
            store.get("", beside)
    return path


def scratch(url: str) -> Path:
    """This machine's folder for work on an address; it is made."""
    return make_folder(writable_cache("process") / hashlib.sha256(url.encode()).hexdigest()[:24])


@contextmanager
def _storage_errors(what: str) -> Iterator[None]:
    """Raise every failure as an OutputError of one line; fsspec's file systems raise more than OSErrors."""
    try:
        yield
    except StreamsegError:
        raise
    except FileNotFoundError as error:
        raise OutputError(f"{what}: there is no such object, folder or bucket") from error
    except PermissionError as error:
        raise OutputError(f"{what}: access is denied; check the credentials") from error
    except ImportError as error:
        scheme = what.partition("://")[0]
        hint = "; pip install 'streamseg[s3]'" if scheme in ("s3", "s3a") else ""
        raise OutputError(f"{what}: {error}{hint}") from error
    except Exception as error:
        raise OutputError(f"{what}: {one_line(error)}") from error
